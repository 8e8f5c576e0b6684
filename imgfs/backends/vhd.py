"""VHD, the disks of Virtual PC, Virtual Server and early Hyper-V: fixed, dynamic, differencing.

The disk is as large as the footer's current size. Virtual PC and old qemu show a guest only what the
geometry of the footer covers, which may be less; the sectors behind it are in the file, so they are shown,
and the size by geometry is said (qemu-img: geometry unless the creator is known to mean the size).

The sector bitmap ahead of a block says for differencing disks whether a sector is the child's; for dynamic
ones it says only which sectors were written, and what was not is zeros in the block already.

Source: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._blockmap import MAX_ENTRIES, BlockRuns, answer, bits, each, pages
from imgfs.backends._vhd import (
    COOKIE,
    FOOTER,
    OLD_FOOTER,
    SECTOR,
    Footer,
    Header,
    Kind,
    parse_footer,
    read_header,
)
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Bytes, Options, Reader

_FREE: Final = 0xFFFF_FFFF
_PAGE: Final = 4096  # entries of the table looked at together
_ROUNDING: Final = limits.MIB  # what a writer may leave between a fixed disk and its footer


def open_vhd(reader: Reader, options: Options) -> Media | Bytes:  # noqa: ARG001  # the contract of `open`
    """Read the footer, or its copy at the start, and the table.

    Raises:
        NotMine: no footer at either end, or one that belongs to something else.
        Malformed: no footer is readable, or the header of a dynamic disk is not.
    """
    notes: list[str] = []
    footer, end = _footer(reader, notes)
    if footer.chs and footer.chs != footer.current:
        notes.append(
            f"the footer's geometry makes {footer.chs} bytes, its size is {footer.current}: the size is taken"
        )
    runs = BlockRuns(footer.current, end)
    if footer.kind is Kind.FIXED:
        runs.store(footer.current, 0)
        words = "fixed"
    else:
        words = _blocks(reader, footer, runs, end, notes)
    layouts = runs.layouts(1 + len(reader.others))
    media = Media(
        layouts=layouts,
        version=f"VHD 1.0 {words}",
        metadata={"creator": footer.creator, "set": str(UUID(bytes=footer.unique_id))},
        lost=runs.lost,
        notes=(*notes, *runs.notes),
    )
    return answer(media, runs, reader)


def _footer(reader: Reader, notes: list[str]) -> tuple[Footer, int]:
    """Return the footer and where the blocks end: where it starts, or the end of the file without it."""
    found: list[tuple[Footer, int]] = []
    why: EvidenceError | None = None
    unsound: list[tuple[bytes, int]] = []
    for at in dict.fromkeys((reader.size - FOOTER, reader.size - OLD_FOOTER, 0)):
        if at < 0 or reader.size < FOOTER:
            continue
        try:
            raw = reader.read(at, min(FOOTER, reader.size - at))
            if not raw.startswith(COOKIE):
                continue
            unsound.append((raw, at or reader.size))
            found.append((parse_footer(raw), at or reader.size))
        except EvidenceError as reason:
            why = reason
            notes.append(f"at {at}: {reason}")
    if not found and why is None:
        raise NotMine("vhd")
    if not found and len(unsound) > 1 and unsound[0][0] == unsound[-1][0]:
        found = [(parse_footer(raw, twice=True), end) for raw, end in unsound]
        notes.append("both copies of the footer say the same: they are used")
    # A fixed disk is raw bytes: a footer at their start is content, and so is one of a larger whole.
    found = [(footer, end) for footer, end in found if footer.kind is not Kind.FIXED or end < reader.size]
    if not found:
        raise why or NotMine("vhd: a footer at the start only belongs to no fixed disk")
    footer, end = found[0]
    if footer.kind is Kind.FIXED:
        if end > footer.current + _ROUNDING:
            raise NotMine(f"vhd: a fixed disk of {footer.current} bytes at the end of {reader.size}")
        if end < footer.current:
            raise Malformed(f"a fixed disk of {footer.current} bytes in a file of {reader.size}")
        return footer, end
    if end == reader.size:
        notes.append("the footer is missing or damaged: its copy at the start is used")
    elif len(found) == 1:
        notes.append("the footer's copy at the start is missing or damaged")
    elif found[1][0] != footer:
        notes.append("the footer differs from its copy at the start: the footer is used")
    return footer, end


def _blocks(reader: Reader, footer: Footer, runs: BlockRuns, end: int, notes: list[str]) -> str:
    """Lay the blocks of a dynamic or differencing disk; return the words for its kind."""
    header = read_header(reader, footer.header)
    needed = -(-footer.current // header.block)
    if needed > MAX_ENTRIES:
        raise Malformed(f"a table of {needed} entries")
    if not header.valid:
        notes.append("the checksum of the dynamic disk header is wrong")
        if header.entries != needed or header.table % SECTOR or header.table + 4 * needed > end:
            raise Malformed("the dynamic disk header is damaged", start=footer.header)
    elif header.entries < needed:
        notes.append(f"the table has {header.entries} entries, the disk {needed} blocks")
    child = footer.kind is Kind.DIFFERENCING
    parent = "only the parent holds it, which is not read" if child else ""
    if child:
        notes.append(f"differencing disk: its parent is {header.parent}; what only that holds is lost")
    place = _Placing(reader, header, runs, parent)
    for raw, number in pages(reader, header.table, 4, min(needed, header.entries), _PAGE):
        if raw:
            each(raw, "I", place, empty=_FREE.__eq__, swap=True)
        else:
            runs.lose(number * header.block, "the table is cut short")
    if place.foul and not header.valid:
        raise Malformed("the dynamic disk header is damaged: its table is none", start=footer.header)
    return "differencing" if child else "dynamic"


class _Placing:
    """Lays blocks as the table names them. ``foul`` counts entries that cannot be true."""

    __slots__ = ("_header", "_parent", "_reader", "_runs", "_table_end", "foul")

    def __init__(self, reader: Reader, header: Header, runs: BlockRuns, parent: str) -> None:
        self._reader = reader
        self._header = header
        self._runs = runs
        self._parent = parent
        self._table_end = header.table + 4 * header.entries
        self.foul = 0

    def __call__(self, entry: int, number: int) -> None:
        header, runs = self._header, self._runs
        if entry == _FREE:
            if self._parent:
                runs.lose(number * header.block, self._parent)
            else:
                runs.hole(number * header.block)
            return
        at = entry * SECTOR
        data = at + header.bitmap
        if not at or (at < self._table_end and header.table < data + header.block):
            self.foul += 1
            runs.lose(header.block, "the table places the block over the disk's own structures")
        elif at >= self._reader.size:
            self.foul += 1
            runs.lose(header.block, "the block lies beyond the end of the file")
        elif self._parent:
            self._sectors(at, data)
        else:
            runs.store(header.block, data)

    def _sectors(self, at: int, data: int) -> None:
        """Lay the sectors of one block that its bitmap gives to the child."""
        block = self._header.block
        sectors = block // SECTOR
        try:
            bitmap = self._reader.read(at, -(-sectors // 8))
        except EvidenceError:
            self._runs.lose(block, "the sector bitmap of the block cannot be read")
            return
        done = 0
        for count, held in bits(bitmap, msb=True):
            length = min(count, sectors - done) * SECTOR
            if held:
                self._runs.store(length, data + done * SECTOR)
            else:
                self._runs.lose(length, self._parent)
            done += count


BACKEND = Backend(
    name="vhd",
    title="VHD",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, COOKIE), Signature(-FOOTER, COOKIE), Signature(-OLD_FOOTER, COOKIE)),
    open=open_vhd,
    supports="fixed, dynamic; differencing without its parent (that part is LOST); damaged footers",
    truth=("peer", "composed", "corpus"),
)
