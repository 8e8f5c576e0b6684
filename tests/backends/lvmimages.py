"""Volume groups as a Linux kernel left them, recorded in a few KiB each.

    python -m tests.backends.lvmimages [NAME...]

boots the guest for every recipe ``tests/guest/recipes/lvm_NAME.sh`` and records its disks anew, with the
digests the guest read, in ``tests/recorded/lvm_NAME.xz``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgfs.testing.fakes import FileReader
from tests import guest
from tests.guest import recording

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPES = Path(guest.__file__).parent / "recipes"
RECORDED = Path(__file__).parents[1] / "recorded"
NAMES = sorted(path.stem.removeprefix("lvm_") for path in RECIPES.glob("lvm_*.sh"))
_DATA = 32 << 20  # bytes of any pattern


@dataclass(frozen=True, slots=True)
class Recorded:
    """Disks by name, and of each volume the digest and the size the guest read; "-": it could not."""

    disks: dict[str, Path]
    truth: Mapping[str, tuple[str, int]]

    def readers(self, *without: str) -> list[FileReader]:
        """Open the disks but some."""
        return [FileReader(path) for name, path in sorted(self.disks.items()) if name not in without]


def load(name: str, folder: Path) -> Recorded:
    """Compose the disks of a recording."""
    disks, truth = recording.load(RECORDED / f"lvm_{name}.xz", folder)
    return Recorded(disks, {volume: (digest, size) for volume, (digest, size) in truth.items()})


def record(name: str) -> int:
    """Run a recipe and record what it left; returns the length in bytes."""
    recipe = (RECIPES / f"lvm_{name}.sh").read_text()
    with tempfile.TemporaryDirectory() as folder:
        result = guest.run(recipe, Path(folder), beside=RECIPES)
        if result.status:
            raise RuntimeError(result.console[-4000:])
        rows = [line.split() for line in (Path(folder) / "truth").read_text().splitlines()]
        truth = {path: (digest, int(size) if size != "-" else 0) for digest, size, path in rows}
        RECORDED.mkdir(exist_ok=True)
        known = [(data, _DATA) for data in _known(recipe, truth)]
        return recording.save(RECORDED / f"lvm_{name}.xz", result.disks, truth, known)


def _known(recipe: str, volumes: Mapping[str, object]) -> set[str]:
    """Return the names of all patterns that a recipe may have written."""
    named = set(re.findall(r"fill \"?([\w.-]+)", recipe)) | set(volumes)
    return named | {f"{volume}{ending}" for volume in named for ending in ("x", "y")}


if __name__ == "__main__":
    for asked in sys.argv[1:] or NAMES:
        print(asked, record(asked))
