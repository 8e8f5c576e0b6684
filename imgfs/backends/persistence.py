"""What a Debian live system keeps on a volume: its persistence.conf.

Sources: persistence.conf(5), live-boot. What is kept by ``union`` lies in ``rw`` below its source, beside the
``work`` of OverlayFS, as such volumes show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.errors import Malformed
from imgfs.model import MountRow, MountTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_SIZE_MAX: Final = limits.MIB
_NOTES: Final = 1000


def open_persistence(reader: Reader, options: Options) -> MountTable:
    """Read the lines of a file: rows of what is laid over, the upper folder only; what is bound is said.

    Raises:
        Malformed: it is no text of a size that such files have.
    """
    del options
    if reader.size > _SIZE_MAX:
        raise Malformed(f"a persistence.conf of {reader.size} bytes")
    text = reader.read(0, reader.size)
    if b"\0" in text:
        raise Malformed("a persistence.conf that is no text")
    rows: list[MountRow] = []
    notes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        where, *more = line.split() or [b"#"]
        if where.startswith(b"#"):
            continue
        said = b",".join(more).split(b",")
        source = next((word[7:] for word in said if word.startswith(b"source=")), where)
        if not where.startswith(b"/") or b".." in source.split(b"/"):
            notes.append(f"persistence.conf, line {number}: no folder of the system")
        elif b"union" not in said:
            how = "linked" if b"link" in said else "bound"
            notes.append(
                f"{_shown(where)} is {how} from {_shown(source)} of this volume, and shown there only"
            )
        elif len(rows) < limits.MAX_MOUNTS:
            rows.append(MountRow(f"overlay:{_shown(source)}", where, folders=(source.rstrip(b"/") + b"/rw",)))
    return MountTable(rows=tuple(rows), notes=tuple(notes[:_NOTES]))


def _shown(path: bytes) -> str:
    return path[: limits.MAX_NAME].decode("utf-8", "backslashreplace")


BACKEND = Backend(
    name="persistence",
    title="persistence.conf",
    role=Role.MOUNTS,
    rank=30,
    open=open_persistence,
    supports="a Debian live system in `system/`: its image with what a volume keeps of `/`",
    truth=("composed",),
)
