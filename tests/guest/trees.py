"""python -m tests.guest.trees NAME OUT: keep disks of a recipe, and what the kernel read of their trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.guest import recording

_RECORDED = Path(__file__).parent.parent / "recorded"


class Told(NamedTuple):
    """What the kernel says of a path. Units: ``blocks`` 512 bytes; times nanoseconds."""

    kind: int
    mode: int
    uid: int
    gid: int
    nlink: int
    inum: int
    size: int
    rdev: int
    m_ns: int
    a_ns: int
    c_ns: int
    blocks: int
    body: str | None  # SHA-256 of a file, target of a link


def save(name: str, out: Path) -> int:
    """Write the recording of a folder of results, return its length in bytes."""
    truth = {}
    for path in sorted(out.glob("*.truth")):
        rows = ast.literal_eval(path.read_text())
        truth[path.stem] = {name.decode("latin-1"): [_text(x) for x in row] for name, row in rows.items()}
    return recording.save(
        _RECORDED / f"{name}.xz", {path.stem: path for path in sorted(out.glob("*.img"))}, truth
    )


def load(name: str, folder: Path) -> tuple[dict[str, Path], dict[str, dict[bytes, Told]]]:
    """Compose the disks of a recording in ``folder``; return them, and what is true of their paths."""
    disks, truth = recording.load(_RECORDED / f"{name}.xz", folder)
    told = {
        tree: {path.encode("latin-1"): Told(*row) for path, row in rows.items()}
        for tree, rows in truth.items()
    }
    return disks, told


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


if __name__ == "__main__":
    print(save(sys.argv[1], Path(sys.argv[2])))
