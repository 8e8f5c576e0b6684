"""python -m tests.guest.udf OUT: keep the volumes of recipes/udf.sh, and what the kernel read."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.guest import recording

RECORDED = Path(__file__).parent.parent / "recorded" / "udf.xz"


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


def save(out: Path) -> int:
    """Write the recording, return its length in bytes."""
    truth = {}
    for path in sorted(out.glob("*.truth")):
        rows = ast.literal_eval(path.read_text())
        truth[path.stem] = {name.decode("latin-1"): [_text(x) for x in row] for name, row in rows.items()}
    return recording.save(RECORDED, {name: out / f"{name}.img" for name in truth}, truth)


def load(folder: Path) -> tuple[dict[str, Path], dict[str, dict[bytes, Told]]]:
    """Compose the volumes in ``folder``; return them, and what is true of their paths."""
    disks, truth = recording.load(RECORDED, folder)
    told = {
        name: {path.encode("latin-1"): Told(*row) for path, row in rows.items()}
        for name, rows in truth.items()
    }
    return disks, told


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


if __name__ == "__main__":
    print(save(Path(sys.argv[1])))
