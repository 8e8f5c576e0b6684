"""XFS as a kernel left it that still knows version 4 and real-time devices, recorded in a few KiB.

    python -m tests.backends.xfsrecorded

boots the guest for the recipe ``tests/guest/recipes/xfs.sh`` and records its disks anew, with what the guest
saw in them, in ``tests/recorded/xfs-*.xz``.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tests import guest
from tests.guest import recording

RECORDED = Path(__file__).parents[1] / "recorded"
_RECIPE = Path(guest.__file__).parent / "recipes" / "xfs.sh"


def digest(data: bytes) -> str:
    """Return what the guest calls these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def record() -> int:
    """Boot the guest and record its disks; returns the bytes of all recordings."""
    with tempfile.TemporaryDirectory() as folder:
        result = guest.run(_RECIPE.read_text(), Path(folder), beside=_RECIPE.parent, seconds=300)
        total = 0
        for disk in ("a", "b", "c"):
            said = Path(folder) / disk
            truth = [line.split(" ") for line in said.read_text().splitlines()] if said.exists() else []
            path = RECORDED / f"xfs-{disk}.xz"
            total += recording.save(path, {disk: result.disks[disk]}, truth)
        return total


if __name__ == "__main__":
    print(record())
