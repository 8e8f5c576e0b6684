"""VDI, the disks of VirtualBox: dynamic, fixed (its blocks have a map, too), differencing. Little-endian.

A block that was never written is zeros unless the disk has a parent; one that is said to be zero is zeros.

A differencing disk holds no path of its parent, only that one's id: all *.vdi beside it are looked at once.

Source: "All about VDIs", tutorial of the VirtualBox forum (header versions 1.x), which calls the id of the
parent "UUID link" and that of the parent's last change "UUID Parent". No image of version 0 (2005) is at
hand: it is named only; nor is a differencing one that VirtualBox wrote: tests compose them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._block_chain import Image, Parent, open_chain
from imgfs.backends._blockmap import MAX_ENTRIES, Blocks, each, lay, pages
from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_MAGIC: Final = b"\x7f\x10\xda\xbe"
_MAGIC_AT: Final = 64
_FREE: Final = 0xFFFF_FFFF
_ZERO: Final = 0xFFFF_FFFE
_HEADER: Final = 512
_HEADER_SIZE_MIN: Final = 384  # up to the parent's uuid
_PLACES: Final = struct.Struct("<II")  # of the map, of the blocks, at 340
_SIZES: Final = struct.Struct("<IIQIIII")  # sector, unused, disk, block, extra, blocks, allocated, at 360
_UUIDS: Final = 392  # the disk's, of its last snapshot, of the parent, of the parent's last snapshot
_KINDS: Final = {1: "dynamic", 2: "fixed", 3: "undo", 4: "differencing"}
_FOR_CHILDREN: Final = {3, 4}
_PAGE: Final = 8192  # entries of the map looked at together


def open_vdi(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the header and the map; and the disks below.

    Raises:
        NotMine: no signature.
        NotSupported: a header version that is not known.
        Malformed: sizes or positions that cannot be.
    """
    return open_chain(reader, _read, _identify)


def _head(reader: Reader) -> bytes:
    """Return the header of a version that is known."""
    if reader.size < _HEADER or reader.read(_MAGIC_AT, 4) != _MAGIC:
        raise NotMine("vdi")
    raw = reader.read(0, _HEADER)
    minor, major = struct.unpack_from("<HH", raw, 68)
    if major != 1:
        raise NotSupported(f"VirtualBox disk version {major}.{minor}: only versions 1.x are read")
    return raw


def _ids(raw: bytes) -> list[UUID]:
    """Return the ids of a disk, of its last change, of its parent, and of the parent's last change."""
    return [UUID(bytes_le=raw[at : at + 16]) for at in range(_UUIDS, _UUIDS + 64, 16)]


def _identify(reader: Reader) -> frozenset[str]:
    return frozenset({str(_ids(_head(reader))[0])})


def _read(reader: Reader, most: int) -> Image:
    """Read one disk into at most so many runs."""
    raw = _head(reader)
    minor, major, header_size, number = struct.unpack_from("<HHII", raw, 68)
    if header_size < _HEADER_SIZE_MIN or number not in _KINDS:
        raise Malformed(f"a VDI header of {header_size} bytes for a disk of type {number}")
    map_at, data_at = _PLACES.unpack_from(raw, 340)
    sector, _, size, block, extra, blocks, allocated = _SIZES.unpack_from(raw, 360)
    needed = -(-size // block) if block else 0
    if not 0 < size <= limits.MAX_SIZE or block < 512 or block % 512 or needed > MAX_ENTRIES:
        raise Malformed(f"a disk of {size} bytes in blocks of {block}")
    if map_at < _MAGIC_AT + _HEADER_SIZE_MIN or data_at < map_at + 4 * blocks or extra % 512:
        raise Malformed(f"{blocks} entries at {map_at}, blocks at {data_at} with {extra} bytes ahead of each")
    own, state, parent, parents_state = _ids(raw)
    notes: list[str] = []
    if blocks < needed:
        notes.append(f"the map has {blocks} entries, the disk {needed} blocks")
    child = number in _FOR_CHILDREN or parent.int != 0
    stored = 0

    def fill(laid: Blocks) -> None:
        nonlocal stored
        place = _Placing(laid, block, extra, data_at, child=child)
        for page, count in pages(reader, map_at, 4, min(needed, blocks), _PAGE):
            if page:
                each(page, "I", place, empty=_ZERO.__le__, step=0 if extra else 1)
            else:
                laid.lose(count * block, "the map is cut short")
        stored = place.stored

    runs = lay(size, reader.size, most, fill, notes)
    if stored > allocated:
        notes.append(f"the map stores {stored} blocks, the header says {allocated}")
    comment = raw[84:340].partition(b"\0")[0].decode("utf-8", "replace")
    return Image(
        size=size,
        runs=runs,
        version=f"VDI {major}.{minor} {_KINDS[number]}",
        ids=frozenset({str(own)}),
        sector=sector if sector in {512, 4096} else 512,
        facts={"set": str(own)} | ({"comment": comment} if comment else {}),
        notes=notes,
        parent=_parent(parent, parents_state) if child else None,
        state=str(state) if state.int else "",
    )


def _parent(own: UUID, state: UUID) -> Parent:
    """Return what a differencing disk says of the one below: its id, and that of its last change then."""

    def check(image: Image) -> str:
        if state.int and image.state and image.state != str(state):
            return f"was changed since: its last change has id {image.state}, {state} was built upon"
        return ""

    return Parent(ids=frozenset({str(own)} if own.int else ()), kin=True, check=check)


class _Placing:
    """Lays blocks as the map names them. ``stored`` counts those that are in the file."""

    __slots__ = ("_block", "_blocks", "_child", "_data", "_stride", "stored")

    def __init__(self, blocks: Blocks, block: int, extra: int, data: int, *, child: bool) -> None:
        self._blocks = blocks
        self._block = block
        self._stride = block + extra
        self._data = data + extra
        self._child = child
        self.stored = 0

    def __call__(self, entry: int, number: int) -> None:
        length = number * self._block
        if entry == _FREE and self._child:
            self._blocks.below(length)
        elif entry >= _ZERO:
            self._blocks.hole(length)
        else:
            self.stored += number
            self._blocks.store(length, self._data + entry * self._stride)


BACKEND = Backend(
    name="vdi",
    title="VirtualBox disk",
    role=Role.MEDIA,
    rank=22,
    signatures=(Signature(_MAGIC_AT, _MAGIC),),
    open=open_vdi,
    kin=r"(?i).*\.vdi",
    supports="versions 1.x: dynamic, fixed; differencing with parents among the *.vdi beside the image",
    truth=("peer", "composed"),
)
