"""python -m tests.guest RECIPE OUT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import tests.guest


def main() -> int:
    """Run one recipe and return its status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.guest", description=tests.guest.__doc__.split("\n")[0]
    )
    parser.add_argument("recipe", help="file with the recipe")
    parser.add_argument("out", type=Path, help="folder of the disks and results")
    parser.add_argument("-c", action="store_true", dest="command", help="RECIPE is the script itself")
    parser.add_argument("--seconds", type=float, default=300, help="life of the guest at most")
    asked = parser.parse_args()
    if asked.command:
        beside, recipe = None, asked.recipe
    else:
        beside, recipe = Path(asked.recipe).absolute().parent, Path(asked.recipe).read_text()
    result = tests.guest.run(recipe, asked.out, beside=beside, seconds=asked.seconds)
    print(result.console)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
