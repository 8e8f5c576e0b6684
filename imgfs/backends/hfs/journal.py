"""What the journal of HFS+ holds that was never written to its place: counted, said, not replayed.

Source: Apple Technical Note TN1150, "Journal": Journal Info Block, Journal Header, Block List Header,
Replaying the Journal. The info block is big-endian; the journal has the order of the machine that wrote it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends import Reader

_INFO: Final = struct.Struct(">I32sQQ")  # flags, signature of the device, offset and size in bytes
_ELSEWHERE, _UNUSED = 2, 4  # flags: on another device, not yet initialised
_MAGIC: Final = 0x4A4E_4C78
_ENDIAN: Final = 0x1234_5678
_HEAD: Final = "IIQQQIII"  # magic, endian, start, end, size, bytes of lists' headers, checksum, of this one
_LIST: Final = "HHIII"  # most blocks, blocks, bytes used, checksum, pad; then rows of blocks, the first none
_NEXT_AT: Final = 28  # in a list: not 0 when its transaction goes on in the next list
_LISTED: Final = 32  # bytes of a list that have the checksum
_HEADED: Final = 44
_MOST_LISTS: Final = 65_536


def said(reader: Reader, at: int, held: int) -> tuple[str, ...]:
    """Return what is to be noted of a journal. Units: ``at`` (of its info block), ``held`` (there) bytes."""
    try:
        flags, _, offset, size = _INFO.unpack(reader.read(at, _INFO.size))
        if flags & _UNUSED:
            return ()
        if flags & _ELSEWHERE:
            return ("the journal is on another volume",)
        if not _HEADED <= size <= held - offset:
            return ("its journal cannot be read: it lies outside the volume",)
        return _pending(reader, offset, size)
    except (EvidenceError, struct.error):
        return ("its journal cannot be read",)


def _pending(reader: Reader, offset: int, size: int) -> tuple[str, ...]:
    raw = reader.read(offset, _HEADED)
    order = "<" if raw[:4] == struct.pack("<I", _MAGIC) else ">"
    magic, endian, start, end, told, step, checksum, first = struct.unpack(order + _HEAD, raw)
    if (magic, endian) != (_MAGIC, _ENDIAN):
        return ("its journal cannot be read: no header",)
    if _sum(raw[:36] + bytes(4) + raw[40:]) != checksum:
        return ("its journal cannot be read: the checksum of its header is wrong",)
    if start == end:
        return ()
    if not _LISTED <= step <= told or not _HEADED <= first <= min(start, end) or max(start, end, told) > size:
        return ("its journal cannot be read: its header contradicts itself",)
    whole, blocks, why = _counted(reader, order, (offset, first, told), start, end)
    words = f"{whole} committed transactions" if whole != 1 else "1 committed transaction"
    return (
        "unreplayed journal: the files are shown as they lie, without the last transactions",
        f"journal: it holds {words} with {blocks} blocks{why}",
    )


def _counted(
    reader: Reader, order: str, place: tuple[int, int, int], at: int, end: int
) -> tuple[int, int, str]:
    """Walk the lists that were not replayed; return transactions, their blocks, and why it ended early."""
    offset, first, told = place
    whole = blocks = held = walked = 0
    for _ in range(_MOST_LISTS):
        if at == end:
            return whole, blocks, ""
        if at + _LISTED > told:
            return whole, blocks, ", then a list beyond its end"
        head = reader.read(offset + at, _LISTED)
        _, count, used, checksum, _ = struct.unpack_from(order + _LIST, head)
        if _sum(head[:8] + bytes(4) + head[12:]) != checksum:
            return whole, blocks, ", then a list with a wrong checksum"
        walked += used
        if used < _LISTED or walked > told:
            return whole, blocks, ", then a list of an impossible length"
        held += max(count - 1, 0)
        if not struct.unpack_from(order + "I", head, _NEXT_AT)[0]:
            whole, blocks, held = whole + 1, blocks + held, 0
        at += used
        if at >= told:
            at += first - told
    return whole, blocks, ", and more"


def _sum(data: bytes) -> int:
    """Return the checksum of TN1150's ``calc_checksum``."""
    total = 0
    for byte in data:
        total = (total << 8 ^ total + byte) & 0xFFFF_FFFF
    return ~total & 0xFFFF_FFFF
