"""One image of a VMDK chain: its descriptor, and the extents its disk is made of.

Names of extents are claims: what the daemon brings is found among ``Members`` by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_runs import Runs
from imgfs.backends._members import Members, shown
from imgfs.backends._vmdk_descriptor import MAX_TEXT, Descriptor, Extent, is_descriptor, parse
from imgfs.backends._vmdk_sparse import kind_of, read_descriptor, read_sparse
from imgfs.backends._vmdk_tables import walk
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.model import beneath

if TYPE_CHECKING:
    from imgfs.backends._vmdk_sparse import Grains

_FLAT: Final = {"FLAT", "VMFS"}
_SPARSE: Final = {"SPARSE", "VMFSSPARSE", "SESPARSE"}


@dataclass(slots=True, kw_only=True)
class Part:
    """A range of the disk, of which the first ``inside`` bytes are at hand; the rest is lost: ``why``.

    They are a sparse extent's, or lie at ``target`` of the member ``ticket``; -1: zeros. Units: bytes.
    """

    base: int
    size: int
    ticket: int = 0
    target: int = 0
    inside: int = 0
    why: str = ""
    sparse: tuple[Grains, Runs] | None = None


@dataclass(slots=True, kw_only=True)
class Image:
    """One image: the disk it makes, and what it says of the image below."""

    descriptor: Descriptor | None
    version: str
    parts: list[Part]
    compressed: bool

    @property
    def size(self) -> int:
        """Return the size of the disk in bytes."""
        return self.parts[-1].base + self.parts[-1].size if self.parts else 0


def read_image(ticket: int, members: Members, where: str = "") -> Image:
    """Read a descriptor of its own, or an extent with or without one in it.

    ``where`` precedes notes: the name of an image below the one that was named.

    Raises:
        NotMine: it is neither.
        NotSupported, Malformed: it cannot be read.
    """
    reader = members.readers[ticket]
    if kind_of(reader):
        return _embedded(ticket, members, where)
    if not is_descriptor(reader.read(0, min(512, reader.size))):
        raise NotMine("vmdk")
    if reader.size > MAX_TEXT:
        raise Malformed(f"a descriptor of {reader.size} bytes")
    return _described(parse(reader.read(0, reader.size)), members, where)


def _embedded(ticket: int, members: Members, where: str) -> Image:
    """Read an extent that was named itself; a descriptor in it tells what it is part of."""
    reader = members.readers[ticket]
    grains = read_sparse(reader)
    text = read_descriptor(reader, grains)
    descriptor = None
    try:
        descriptor = parse(text) if is_descriptor(text) else None
    except Malformed as why:  # the grains are not worse for it
        members.say(f"{where}the descriptor cannot be read: {why.message}")
    if descriptor is not None and (not grains.size or len(descriptor.extents) > 1):
        return _described(descriptor, members, where)
    if not grains.size:
        raise Malformed("an extent of no bytes")
    if descriptor is None:
        members.say(
            f"{where}an extent without a descriptor: only that says what else belongs to its disk;"
            " what this extent does not hold is lost"
        )
    elif descriptor.extents and descriptor.extents[0].size != grains.size:
        size = descriptor.extents[0].size
        members.say(f"{where}the descriptor says {size} bytes, the extent {grains.size}")
    part = _sparse(Part(base=0, size=grains.size, ticket=ticket), members, where, grains)
    version = f"{grains.version} {descriptor.create_type if descriptor else ''}".strip()
    return Image(descriptor=descriptor, version=version, parts=[part], compressed=grains.coded)


def _described(descriptor: Descriptor, members: Members, where: str) -> Image:
    if not descriptor.extents:
        raise Malformed("a descriptor without extents")
    parts: list[Part] = []
    base = 0
    for extent in descriptor.extents:
        parts.append(_part(extent, base, members, where))
        base += extent.size
    compressed = any(part.sparse is not None and part.sparse[0].coded for part in parts)
    return Image(descriptor=descriptor, version=descriptor.create_type, parts=parts, compressed=compressed)


def _part(extent: Extent, base: int, members: Members, where: str) -> Part:
    part = Part(base=base, size=extent.size)
    if extent.kind == "ZERO":
        part.inside = part.size
        part.ticket = -1
        return part
    name = shown(extent.name)
    if extent.access == "NOACCESS":
        return _lost(part, members, f"{where}the extent {name} is marked as not accessible")
    if extent.kind not in _FLAT | _SPARSE:
        return _lost(part, members, f"{where}an extent of type {extent.kind[:32]}, which is no file: {name}")
    if not beneath(extent.name):
        note = f"{where}the extent {name} is not opened: only a file beneath its folder would be"
        return _lost(part, members, note)
    ticket = members.find(extent.name)
    if ticket < 0:
        full = extent.name not in members.wants
        what = (
            f"is beyond {limits.MAX_WANTS} further files" if full else "is no regular file beside the image"
        )
        return _lost(part, members, f"{where}the extent {name} {what}")
    part.ticket = ticket
    if extent.kind in _FLAT:
        part.target = extent.offset
        part.inside = max(0, min(part.size, members.readers[ticket].size - extent.offset))
        if part.inside < part.size:
            part.why = members.say(f"{where}the extent {name} ends before its {part.size} bytes do")
        return part
    if not members.take(ticket):
        return _lost(part, members, f"{where}the extent {name} serves more than one range")
    try:
        return _sparse(part, members, f"{where}{name}: ", read_sparse(members.readers[ticket]))
    except (EvidenceError, NotSupported, NotMine) as why:
        message = "it is no such extent" if isinstance(why, NotMine) else why.message
        return _lost(part, members, f"{where}the extent {name} cannot be read: {message}")


def _lost(part: Part, members: Members, why: str) -> Part:
    part.ticket, part.inside, part.why = 0, 0, members.say(why)
    return part


def _sparse(part: Part, members: Members, where: str, grains: Grains) -> Part:
    members.take(part.ticket)
    for note in grains.notes:
        members.say(where + note)
    runs = Runs(members.left)
    part.sparse = grains, runs
    for note in walk(members.readers[part.ticket], grains, runs):
        members.say(where + note)
    members.left = max(members.left - len(runs), 1)
    part.inside = min(part.size, grains.size)
    if part.inside != part.size or grains.size != part.size:
        part.why = members.say(f"{where}an extent of {grains.size} bytes, the descriptor says {part.size}")
    return part
