"""VHD, the disks of Virtual PC, Virtual Server and early Hyper-V: fixed, dynamic, differencing.

The disk is as large as the footer's current size. Virtual PC and old qemu show a guest only what the
geometry of the footer covers, which may be less; the sectors behind it are in the file, so they are shown,
and the size by geometry is said (qemu-img: geometry unless the creator is known to mean the size).

The sector bitmap ahead of a block says for differencing disks whether a sector is the child's; for dynamic
ones it says only which sectors were written, and what was not is zeros in the block already.

Source: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0 (October 11, 2006): "Block
Allocation Table and Data Blocks", "Implementing a Differencing Hard Disk".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._block_chain import Image, Parent, open_chain
from imgfs.backends._blockmap import MAX_ENTRIES, Blocks, bits, each, lay, pages
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

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_FREE: Final = 0xFFFF_FFFF
_PAGE: Final = 4096  # entries of the table looked at together
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_ROUNDING: Final = limits.MIB  # what a writer may leave between a fixed disk and its footer


def open_vhd(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the footer, or its copy at the start, and the table; and the disks below.

    Raises:
        NotMine: no footer at either end, or one that belongs to something else.
        Malformed: no footer is readable, or the header of a dynamic disk is not.
    """
    return open_chain(reader, _read, _identify)


def _identify(reader: Reader) -> frozenset[str]:
    return frozenset({str(_footer(reader, [])[0].unique_id)})


def _read(reader: Reader, most: int) -> Image:
    """Read one disk into at most so many runs."""
    notes: list[str] = []
    footer, end = _footer(reader, notes)
    if footer.chs and footer.chs != footer.current:
        notes.append(
            f"the footer's geometry makes {footer.chs} bytes, its size is {footer.current}: the size is taken"
        )
    parent: Parent | None = None
    if footer.kind is Kind.FIXED:
        runs = lay(footer.current, end, most, lambda blocks: blocks.store(footer.current, 0))
    else:
        header = _header(reader, footer, end, notes)
        child = footer.kind is Kind.DIFFERENCING
        parent = _parent(header) if child else None
        runs = lay(
            footer.current,
            end,
            most,
            lambda blocks: _blocks(reader, footer, header, blocks),
            notes,
        )
    return Image(
        size=footer.current,
        runs=runs,
        version=f"VHD 1.0 {footer.kind.name.lower()}",
        ids=frozenset({str(footer.unique_id)}),
        facts={"creator": footer.creator, "set": str(footer.unique_id)},
        notes=notes,
        parent=parent,
        created=footer.created,
    )


def _parent(header: Header) -> Parent:
    """Return what a differencing disk says of the one below.

    Its time stamp is when the parent's file was last modified. No image holds that time of itself, but when
    it was created, which cannot be later.
    """

    def check(image: Image) -> str:
        if header.changed and image.created > header.changed:
            return (
                f"was created {_when(image.created)}, the one that was built upon was last modified "
                f"{_when(header.changed)}"
            )
        return ""

    return Parent(ids=frozenset({str(header.parent)}), paths=header.paths, check=check)


def _when(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


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


def _header(reader: Reader, footer: Footer, end: int, notes: list[str]) -> Header:
    """Return the header of a dynamic or differencing disk, if it can be used."""
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
    return header


def _blocks(reader: Reader, footer: Footer, header: Header, blocks: Blocks) -> None:
    """Lay the blocks of a dynamic or differencing disk."""
    needed = -(-footer.current // header.block)
    place = _Placing(reader, header, blocks, child=footer.kind is Kind.DIFFERENCING)
    for raw, number in pages(reader, header.table, 4, min(needed, header.entries), _PAGE):
        if raw:
            each(raw, "I", place, empty=_FREE.__eq__, swap=True)
        else:
            blocks.lose(number * header.block, "the table is cut short")
    if place.foul and not header.valid:
        raise Malformed("the dynamic disk header is damaged: its table is none", start=footer.header)


class _Placing:
    """Lays blocks as the table names them. ``foul`` counts entries that cannot be true."""

    __slots__ = ("_blocks", "_child", "_header", "_reader", "_table_end", "foul")

    def __init__(self, reader: Reader, header: Header, blocks: Blocks, *, child: bool) -> None:
        self._reader = reader
        self._header = header
        self._blocks = blocks
        self._child = child
        self._table_end = header.table + 4 * header.entries
        self.foul = 0

    def __call__(self, entry: int, number: int) -> None:
        header, blocks = self._header, self._blocks
        if entry == _FREE:
            if self._child:
                blocks.below(number * header.block)
            else:
                blocks.hole(number * header.block)
            return
        at = entry * SECTOR
        data = at + header.bitmap
        if not at or (at < self._table_end and header.table < data + header.block):
            self.foul += 1
            blocks.lose(header.block, "the table places the block over the disk's own structures")
        elif at >= self._reader.size:
            self.foul += 1
            blocks.lose(header.block, "the block lies beyond the end of the file")
        elif self._child:
            self._sectors(at, data)
        else:
            blocks.store(header.block, data)

    def _sectors(self, at: int, data: int) -> None:
        """Lay the sectors of one block that its bitmap gives to the child."""
        block = self._header.block
        sectors = block // SECTOR
        try:
            bitmap = self._reader.read(at, -(-sectors // 8))
        except EvidenceError:
            self._blocks.lose(block, "the sector bitmap of the block cannot be read")
            return
        done = 0
        for count, held in bits(bitmap, msb=True):
            length = min(count, sectors - done) * SECTOR
            if held:
                self._blocks.store(length, data + done * SECTOR)
            else:
                self._blocks.below(length)
            done += count


BACKEND = Backend(
    name="vhd",
    title="VHD",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, COOKIE), Signature(-FOOTER, COOKIE), Signature(-OLD_FOOTER, COOKIE)),
    open=open_vhd,
    supports="fixed, dynamic; differencing with parents beside the image; damaged footers",
    truth=("peer", "composed", "corpus"),
)
