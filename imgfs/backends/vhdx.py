"""VHDX, the disks of Hyper-V: fixed, dynamic, differencing; a log that was not written back is honoured.

Blocks that are undefined or unmapped, or not present in a disk without a parent, read as zeros, which
[MS-VHDX] 2.5.1.1 allows for each and qemu does, too. The file is never written: the log lies over it.

Source: [MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format, 2.4 "Blocks", 2.5 "BAT".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._block_chain import Image, Parent, open_chain
from imgfs.backends._blockmap import Blocks, bits, each, lay, pages
from imgfs.backends._vhdx import Disk, Region, read_header, read_metadata, read_regions
from imgfs.backends._vhdx_log import Replayed, replay
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import HOLE

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_MAGIC: Final = b"vhdxfile"
_CREATOR: Final = 512  # bytes of UTF-16 behind the magic
_NOT_PRESENT: Final = 0
_ZEROS: Final = frozenset({1, 2, 3})  # undefined, zero, unmapped
_PRESENT: Final = 6
_PARTLY: Final = 7
_STATE: Final = 7  # mask of the state in an entry
_SECTORS_OF_CHUNK: Final = 1 << 23  # bits of a sector bitmap block of 1 MiB
_ENTRY: Final = 8


def open_vhdx(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read headers, log, regions, metadata and the table of blocks; and the disks below.

    Raises:
        NotMine: no signature.
        Malformed: a structure without which nothing can be placed is damaged.
        NotSupported: a version, region or item that is not known.
    """
    return open_chain(reader, _read, _identify)


def _identify(reader: Reader) -> frozenset[str]:
    if reader.size < limits.MIB or reader.read(0, len(_MAGIC)) != _MAGIC:
        raise NotMine("vhdx")
    return frozenset({read_header(reader, []).data})


def _read(reader: Reader, most: int) -> Image:
    """Read one disk into at most so many runs."""
    if reader.size < limits.MIB or reader.read(0, len(_MAGIC)) != _MAGIC:
        raise NotMine("vhdx")
    notes: list[str] = []
    header = read_header(reader, notes)
    file = Replayed(reader)
    if any(header.guid):
        file = replay(reader, header.log, header.log_length, header.guid, notes)
    table, metadata = read_regions(file, notes)
    disk = read_metadata(file, metadata, notes)
    taken = (Region(0, limits.MIB), Region(header.log, header.log + header.log_length), table, metadata)
    runs = lay(disk.size, reader.size, most, lambda blocks: _blocks(file, table, disk, blocks, taken), notes)
    words = "differencing" if disk.child else "fixed" if disk.fixed else "dynamic"
    creator = reader.read(len(_MAGIC), _CREATOR).decode("utf-16-le", "replace").partition("\0")[0]
    facts = {"creator": creator, "set": disk.disk_id}
    return Image(
        size=disk.size,
        runs=runs,
        version=f"VHDX 1 {words}",
        ids=frozenset({header.data}),
        sector=disk.sector,
        facts={key: value for key, value in facts.items() if value},
        notes=notes,
        parent=Parent(ids=disk.linkage, paths=disk.paths) if disk.child else None,
    )


def _blocks(file: Replayed, table: Region, disk: Disk, blocks: Blocks, taken: tuple[Region, ...]) -> None:
    """Lay all blocks: a chunk of them, then the entry of the sector bitmap they share, and so on."""
    ratio = _SECTORS_OF_CHUNK * disk.sector // disk.block
    count = -(-disk.size // disk.block)
    entries = count + (count - 1) // ratio
    if disk.child:
        entries = -(-count // ratio) * (ratio + 1)
    if entries * _ENTRY > table.stop - table.start:
        raise Malformed(f"a table of {table.stop - table.start} bytes for {count} blocks", start=table.start)
    place = _Placing(file, disk, blocks, taken)
    for raw, number in pages(file, table.start, _ENTRY, entries, ratio + 1):
        if not raw:
            blocks.lose(min(number, ratio) * disk.block, "the table of blocks is cut short or damaged")
            continue
        place.chunk(int.from_bytes(raw[ratio * _ENTRY :], "little"))
        each(raw[: ratio * _ENTRY], "Q", place, empty=_empty, step=disk.block)


class _Placing:
    """Lays blocks as the table names them."""

    __slots__ = ("_bitmap", "_blocks", "_disk", "_file", "_index", "_taken")

    def __init__(self, file: Replayed, disk: Disk, blocks: Blocks, taken: tuple[Region, ...]) -> None:
        self._file = file
        self._disk = disk
        self._blocks = blocks
        self._taken = taken
        self._bitmap = 0
        self._index = 0

    def chunk(self, bitmap: int) -> None:
        """Begin a chunk: the entry of its sector bitmap."""
        self._bitmap = bitmap
        self._index = 0

    def __call__(self, entry: int, number: int) -> None:
        block, state = self._disk.block, entry & _STATE
        at = entry >> 20 << 20
        if state in _ZEROS or (state == _NOT_PRESENT and not self._disk.child):
            self._blocks.hole(number * block)
        elif state == _NOT_PRESENT:
            self._blocks.below(number * block)
        elif self._overlaps(at, number * block):
            if number == 1:
                self._blocks.lose(block, "the table places the block over the disk's own structures")
            else:
                for single in range(number):
                    self(entry + single * block, 1)
                return
        elif state == _PRESENT:
            self._store(at, number * block)
        elif state == _PARTLY and self._disk.child:
            for single in range(number):
                self._sectors(at + single * block, self._index + single)
        else:
            self._blocks.lose(number * block, f"the table gives the block a state that cannot be: {state}")
        self._index += number

    def _overlaps(self, at: int, length: int) -> bool:
        return any(at < region.stop and region.start < at + length for region in self._taken)

    def _store(self, at: int, length: int) -> None:
        for count, target in self._file.split(at, length):
            if target == HOLE:
                self._blocks.hole(count)
            else:
                self._blocks.store(count, target)

    def _sectors(self, at: int, index: int) -> None:
        """Lay the sectors of a block that the bitmap of its chunk gives to the child."""
        sector, sectors = self._disk.sector, self._disk.block // self._disk.sector
        try:
            if self._bitmap & _STATE != _PRESENT:
                raise Malformed("no sector bitmap")
            place = (self._bitmap >> 20 << 20) + index * sectors // 8
            bitmap = self._file.read(place, sectors // 8)
        except EvidenceError:
            self._blocks.lose(self._disk.block, "the sector bitmap of the block cannot be read")
            return
        for count, held in bits(bitmap, msb=False):
            if held:
                self._store(at, count * sector)
            else:
                self._blocks.below(count * sector)
            at += count * sector


def _empty(entry: int) -> bool:
    """Return whether an entry stores nothing, whatever place it names."""
    return entry & _STATE < _PRESENT


BACKEND = Backend(
    name="vhdx",
    title="VHDX",
    role=Role.MEDIA,
    rank=21,
    signatures=(Signature(0, _MAGIC),),
    open=open_vhdx,
    supports="fixed, dynamic; log replayed in memory; 512 and 4096 byte sectors; "
    "differencing with parents beside the image",
    truth=("peer", "composed", "corpus"),
)
