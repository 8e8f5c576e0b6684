"""Devices of every target as a Linux kernel made them of a table, recorded in a few KiB.

    python -m tests.backends.dmimages

boots the guest for ``tests/guest/recipes/dm.sh`` and records its disks anew, with the digests the guest read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import guest
from tests.guest import recording

RECIPE = Path(guest.__file__).parent / "recipes" / "dm.sh"
RECORDED = Path(__file__).parents[1] / "recorded" / "dm.xz"
_NAMES = ("line", "dealt", "base", "old", "thin", "five", "six")
_DATA = 8 << 20  # bytes of any pattern


def load(folder: Path) -> tuple[str, dict[str, str]]:
    """Compose the disks in ``folder``; return the table, and by device the digest of what the guest read."""
    _, truth = recording.load(RECORDED, folder)
    return truth["table"], truth["digests"]


def record(out: Path) -> int:
    """Run the recipe and record what it left; returns the length in bytes."""
    result = guest.run(RECIPE.read_text(), out, beside=RECIPE.parent)
    if result.status:
        raise RuntimeError(result.console[-4000:])
    rows = [line.split() for line in (out / "truth").read_text().splitlines()]
    truth = {"table": (out / "table").read_text(), "digests": {name: digest for digest, _, name in rows}}
    return recording.save(RECORDED, result.disks, truth, [(name, _DATA) for name in _NAMES])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(record(Path(name)))
    sys.exit()
