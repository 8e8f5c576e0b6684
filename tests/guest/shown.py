"""python -m tests.guest.shown RECIPE DISK...: record disks a guest's kernel wrote, and what it shows of them.

A recipe leaves ``DISK.rows`` in /out, and ``DISK.more.rows`` of further trees of a disk (snapshots), in the
form of ``tests/backends/seen.py``. Each disk becomes ``tests/recorded/RECIPE-DISK.xz``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.backends import seen
from tests.guest import recording, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RECORDED = Path(__file__).parent.parent / "recorded"
RECIPES = Path(__file__).parent / "recipes"


def made(recipe: str, out: Path, *, seconds: float = 480, uses: Mapping[str, Path] | None = None) -> None:
    """Run a recipe into a folder; ``uses`` names the files for its disks that are only read.

    Raises:
        RuntimeError: it failed; the end of its console is in the message.
    """
    text = (RECIPES / f"{recipe}.sh").read_text()
    for name, path in (uses or {}).items():
        text = f"# use: {name} {path}\n{text}"
    result = run(text, out, beside=RECIPES, seconds=seconds)
    if result.status:
        raise RuntimeError(result.console[-2000:])


def record(recipe: str, out: Path, disks: Iterable[str]) -> dict[str, int]:
    """Keep disks of a folder of results; return the bytes of each recording."""
    lengths = {}
    for disk in disks:
        truth = {
            path.name.removesuffix(".rows"): path.read_text() for path in sorted(out.glob(f"{disk}.*rows"))
        }
        kept = RECORDED / f"{recipe}-{disk}.xz"
        lengths[kept.name] = recording.save(kept, {disk: out / f"{disk}.img"}, truth)
    return lengths


def load(recipe: str, disk: str, folder: Path) -> tuple[Path, dict[str, dict[bytes, seen.Seen]]]:
    """Compose a disk in ``folder``; return it, and what is shown of each of its trees."""
    disks, truth = recording.load(RECORDED / f"{recipe}-{disk}.xz", folder)
    return disks[disk], {name: seen.load(io.StringIO(rows)) for name, rows in truth.items()}


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.shown")
    parser.add_argument("recipe")
    parser.add_argument("disks", nargs="+")
    parser.add_argument("--use", action="append", default=[], help="NAME=FILE: a disk that is only read")
    parser.add_argument("--out", type=Path, help="results of a run that is over")
    asked = parser.parse_args()
    uses = dict(word.split("=", 1) for word in asked.use)
    with tempfile.TemporaryDirectory() as name:
        out = asked.out or Path(name)
        if not asked.out:
            made(asked.recipe, out, uses={key: Path(path) for key, path in uses.items()})
        print(record(asked.recipe, out, asked.disks))


if __name__ == "__main__":
    main()
