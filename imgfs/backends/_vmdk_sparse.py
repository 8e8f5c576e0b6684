"""Headers of sparse VMDK extents: hosted (KDMV, also stream-optimised), ESX server (COWD), SESparse.

Source: VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse
Extents", "ESX Server Sparse Extents"; libvmdk documentation; for SESparse, which nobody published, QEMU
block/vmdk.c (MIT licence): fields, the two levels and how an entry names a grain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._vmdk_descriptor import MAX_TEXT, SECTOR
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

HOSTED: Final = b"KDMV"
SERVER: Final = b"COWD"
SESPARSE: Final = b"\xbe\xba\xfe\xca\0\0\0\0"  # 0x00000000CAFEBABE
_HOSTED: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
_SERVER: Final = struct.Struct("<4sIIIIIII")
_CONST: Final = struct.Struct("<26Q")
_VOLATILE: Final = struct.Struct("<QQQQ")
_VOLATILE_MAGIC: Final = 0xCAFE_CAFE
_SESPARSE_VERSION: Final = 0x2_0000_0001
_SERVER_ENTRIES: Final = 4096
_AT_END: Final = (1 << 64) - 1
_LINES: Final = b"\n \r\n"
_REDUNDANT: Final = 2  # flags of a hosted extent
_ZEROED: Final = 4
_COMPRESSED: Final = 1 << 16
_MARKERS: Final = 1 << 17
_DEFLATE: Final = 1
_GRAIN_MAX: Final = limits.MAX_UNIT
_MARKER: Final = 12  # bytes before the data of a compressed grain
_TAIL: Final = 128  # sectors in which a footer is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Grains:
    """Where the tables of an extent are and what their entries mean.

    ``spare`` is the redundant directory, -1: there is none; ``at_end``: a footer names the first one.
    Entries below ``floor`` are no places, those below ``lowest`` impossible ones; one that is ``step`` above
    its neighbour continues it. ``tables`` and ``grains`` are where SESparse counts from. Units: bytes but for
    ``entries`` of a table, ``listed`` of the directory, ``lowest`` and ``step``.
    """

    size: int
    grain: int
    entries: int
    directory: int
    listed: int = 1 << 62
    spare: int = -1
    width: int = 4
    floor: int = 1
    lowest: int = 2
    step: int = 0
    coded: bool = False
    marker: int = 0
    at_end: bool = False
    overhead: int = 0
    tables: int = 0
    grains: int = 0
    version: str = ""
    notes: tuple[str, ...] = ()
    descriptor: tuple[int, int] = (0, 0)

    @property
    def sesparse(self) -> bool:
        """Say whether entries are those of SESparse."""
        return self.width == 8


def kind_of(reader: Reader) -> bytes:
    """Return the magic of a sparse extent; empty: it is none."""
    head = reader.read(0, min(8, reader.size))
    for magic in (HOSTED, SERVER, SESPARSE):
        if head.startswith(magic):
            return magic
    return b""


def read_sparse(reader: Reader) -> Grains:
    """Read the header of a sparse extent.

    Raises:
        NotMine: it is none.
        NotSupported: a version, a compression or a state that is not known.
        Malformed: sizes are impossible.
    """
    magic = kind_of(reader)
    if not magic or reader.size < SECTOR:
        raise NotMine("vmdk")
    raw = reader.read(0, SECTOR)
    if magic == HOSTED:
        grains = _hosted(reader, raw)
    else:
        grains = _server(raw) if magic == SERVER else _se(reader, raw)
    if not 0 <= grains.size <= limits.MAX_SIZE or not 0 < grains.grain <= _GRAIN_MAX or grains.grain % SECTOR:
        raise Malformed(f"an extent of {grains.size} bytes in grains of {grains.grain}")
    if grains.grain & grains.grain - 1 or grains.entries & grains.entries - 1:
        raise Malformed(f"grains of {grains.grain} bytes, {grains.entries} in a table: no powers of two")
    if not 0 < grains.entries <= 1 << 16:
        raise Malformed(f"grain tables of {grains.entries} entries")
    return grains


def read_descriptor(reader: Reader, grains: Grains) -> bytes:
    """Return the descriptor in an extent; empty: it has none that can be read."""
    start, length = grains.descriptor
    length = min(length, MAX_TEXT, reader.size - start)
    if not start or length <= 0:
        return b""
    try:
        return reader.read(start, length)
    except EvidenceError:
        return b""


def _hosted(reader: Reader, raw: bytes) -> Grains:
    """Read a hosted extent; the footer of a stream tells where its directory is."""
    _, version, flags, capacity, grain, text_at, text, entries, *places, lines, method = _HOSTED.unpack_from(
        raw
    )
    spare, directory, overhead, dirty = places
    if version not in (1, 2, 3):
        raise NotSupported(f"VMDK version {version}: versions 1 to 3 are read")
    if method not in (0, _DEFLATE):
        raise NotSupported(f"VMDK grains compressed by method {method}: only deflate is known")
    notes: list[str] = []
    if lines != _LINES:
        notes.append("ends of lines in the header were changed: the file went through a transfer of text")
    if dirty:
        notes.append("the extent was not closed cleanly")
    at_end = directory == _AT_END
    if at_end:
        directory = _footer(reader)
        if not directory:
            notes.append("the footer is missing: grains are found by their markers")
    coded = method == _DEFLATE or bool(flags & _COMPRESSED)
    if coded and method != _DEFLATE:
        notes.append("the grains are marked as compressed by no method: they are taken for deflate")
    return Grains(
        size=capacity * SECTOR,
        grain=grain * SECTOR,
        entries=entries,
        directory=directory * SECTOR,
        spare=spare * SECTOR if flags & _REDUNDANT and spare not in (0, _AT_END, directory) else -1,
        floor=2 if flags & _ZEROED else 1,
        step=grain,
        coded=coded,
        marker=_MARKER if coded and flags & _MARKERS else 0,
        at_end=at_end,
        overhead=overhead * SECTOR,
        version=f"{version}",
        notes=tuple(notes),
        descriptor=(text_at * SECTOR, text * SECTOR),
    )


def _footer(reader: Reader) -> int:
    """Return where the footer says that the directory is, in sectors; 0: there is no footer."""
    last = reader.size // SECTOR
    for number in range(last - 1, max(last - _TAIL, 0), -1):  # usually the last sector but one
        try:
            raw = reader.read(number * SECTOR, _HOSTED.size)
        except EvidenceError:
            continue
        if raw.startswith(HOSTED):
            directory: int = _HOSTED.unpack(raw)[9]
            if 0 < directory < number:
                return directory
    return 0


def _server(raw: bytes) -> Grains:
    _, version, _, capacity, grain, directory, listed, _ = _SERVER.unpack_from(raw)
    if version != 1:
        raise NotSupported(f"ESX server extent version {version}: version 1 is read")
    return Grains(
        size=capacity * SECTOR,
        grain=grain * SECTOR,
        entries=_SERVER_ENTRIES,
        directory=directory * SECTOR,
        listed=listed,
        lowest=4,
        step=grain,
        version="COWD 1",
    )


def _se(reader: Reader, raw: bytes) -> Grains:
    words = _CONST.unpack_from(raw)
    version, capacity, grain, table, flags = words[1:6]
    volatile_at, grains = words[10], words[24]
    directory, directory_size, tables = words[16:19]
    if version != _SESPARSE_VERSION or flags or any(words[6:10]):
        raise NotSupported(f"SESparse version {version:#x} with flags {flags:#x}")
    if not 0 < table <= 64:
        raise Malformed(f"SESparse grain tables of {table} sectors")
    volatile = reader.read(volatile_at * SECTOR, _VOLATILE.size)
    magic, _, _, replay = _VOLATILE.unpack(volatile)
    if magic != _VOLATILE_MAGIC:
        raise Malformed("SESparse without its volatile header")
    if replay:
        raise NotSupported("SESparse with a journal that must be replayed: its tables may be old")
    return Grains(
        size=capacity * SECTOR,
        grain=grain * SECTOR,
        entries=table * SECTOR // 8,
        directory=directory * SECTOR,
        listed=directory_size * SECTOR // 8,
        width=8,
        floor=3 << 60,
        step=1 << 48,
        tables=tables * SECTOR,
        grains=grains * SECTOR,
        version="SESparse 2.1",
    )
