"""The boundary to The Sleuth Kit: a Reader as its image, opening, errors, numbers.

Owns how pytsk3 is called and which of its exceptions become ours. Knows no single file system: what
differs between them is a ``Format``. pytsk3 is imported inside functions: only workers load it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from imgfs.errors import Malformed, NotFound, NotMine
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

ALLOCATED: Final = 1  # TSK_FS_NAME_FLAG_ALLOC, TSK_FS_META_FLAG_ALLOC
NON_RESIDENT, RESIDENT, ENCRYPTED, COMPRESSED = 0x02, 0x04, 0x10, 0x20  # TSK_FS_ATTR_FLAG_ENUM
RUN_FILLER, RUN_SPARSE = 0x01, 0x02  # TSK_FS_ATTR_RUN_FLAG_ENUM
VIRTUAL_DIR: Final = 11  # TSK_FS_NAME_TYPE_VIRT_DIR: $OrphanFiles, which must never be opened

# TSK_FS_META_TYPE_ENUM and TSK_FS_NAME_TYPE_ENUM to kinds; what is unknown is shown as a file
META_KINDS: Final = {
    1: Kind.REG,
    2: Kind.DIR,
    3: Kind.FIFO,
    4: Kind.CHR,
    5: Kind.BLK,
    6: Kind.LNK,
    8: Kind.SOCK,
    10: Kind.REG,
    11: Kind.DIR,
}
NAME_KINDS: Final = {
    1: Kind.FIFO,
    2: Kind.CHR,
    3: Kind.DIR,
    4: Kind.BLK,
    5: Kind.REG,
    6: Kind.LNK,
    7: Kind.SOCK,
    10: Kind.REG,
    11: Kind.DIR,
}
_TIME_MAX: Final = (1 << 63) // 10**9 - 1


@contextmanager
def mapped(place: str) -> Iterator[None]:
    """Turn what the library raises into our errors.

    Raises:
        Malformed: the library refused; its own words, shortened, and the place.
        NotFound: a number outside the file system.
    """
    try:
        yield
    except OSError as why:
        if isinstance(why, NotFound):
            raise
        raise Malformed(f"{place}: {_first_line(why)}") from why
    except (OverflowError, MemoryError, RuntimeError, AttributeError) as why:
        raise Malformed(f"{place}: {type(why).__name__} {_first_line(why)}") from why


def _first_line(why: Exception) -> str:
    return str(why).split("\n", 1)[0][:200]


def open_fs(reader: Reader, kind: str) -> Any:
    """Open a file system of one TSK type (``NTFS``, ``FAT_DETECT`` ...) on a source.

    Raises:
        NotMine: TSK does not find one.
    """
    import pytsk3

    class Image(pytsk3.Img_Info):  # type: ignore[misc]  # the binding has no types
        def __init__(self) -> None:
            super().__init__("", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

        def get_size(self) -> int:
            return reader.size

        def read(self, offset: int, length: int) -> bytes:
            stop = min(offset + length, reader.size)
            return reader.read(offset, stop - offset) if 0 <= offset < stop else b""

    if reader.size < 512:
        raise NotMine(f"{kind}: {reader.size} bytes")
    try:
        return pytsk3.FS_Info(Image(), offset=0, type=getattr(pytsk3, f"TSK_FS_TYPE_{kind}"))
    except (OSError, OverflowError, MemoryError) as why:
        raise NotMine(f"{kind}: {_first_line(why)}") from why


def volume_size(fs: Any, reader: Reader) -> int:
    """Return the bytes of a file system that its source holds; what lies behind is lost."""
    return min(int(fs.info.block_count) * int(fs.info.block_size), reader.size)


def open_file(fs: Any, inum: int) -> Any:
    """Return the file of a metadata address.

    Raises:
        NotFound: the number is outside the file system.
        Malformed: its metadata cannot be read.
    """
    info = fs.info
    if not info.first_inum <= inum <= info.last_inum:
        raise NotFound(f"inode {inum}")
    with mapped(f"inode {inum}"):
        return fs.open_meta(inode=inum)


def nanoseconds(seconds: int, nano: int) -> int | None:
    """Join the two fields of a TSK time; None: not recorded (TSK says 0 for that)."""
    if not seconds and not nano:
        return None
    if not -_TIME_MAX <= seconds <= _TIME_MAX or not 0 <= nano < 10**9:
        return None
    return int(seconds) * 10**9 + int(nano)


def clamp_size(size: int) -> int:
    """Return a size that fits loff_t; negative ones, which only damage yields, become 0."""
    return min(max(int(size), 0), MAX_SIZE)


def attr_of(
    inum: int,
    kind: Kind,
    meta: Any,
    *,
    size: int,
    allocated: int,
    deleted: bool = False,
    damaged: str = "",
    owners: bool = True,
) -> Attr:
    """Build attributes from TSK metadata."""
    return Attr(
        kind=kind,
        inum=inum,
        generation=int(meta.seq) & 0xFFFFFFFF,
        size=size,
        allocated=allocated,
        mode=int(meta.mode) & 0o7777,
        uid=int(meta.uid) & 0xFFFFFFFF if owners else 0,
        gid=int(meta.gid) & 0xFFFFFFFF if owners else 0,
        nlink=min(max(int(meta.nlink), 0), 0xFFFFFFFF),
        m_ns=nanoseconds(meta.mtime, meta.mtime_nano),
        a_ns=nanoseconds(meta.atime, meta.atime_nano),
        c_ns=nanoseconds(meta.ctime, meta.ctime_nano),
        b_ns=nanoseconds(meta.crtime, meta.crtime_nano),
        deleted=deleted,
        damaged=damaged,
    )
