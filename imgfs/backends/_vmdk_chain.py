"""VMDK images that build upon each other: from the one that was named to one media.

What an image does not hold is its parent's; a parent that is not at hand makes that lost, never zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends._chain_reply import Reply
from imgfs.backends._chain_runs import MAX_LOST, Below
from imgfs.backends._members import Members, shown
from imgfs.backends._vmdk_parts import Image, Part, read_image
from imgfs.errors import EvidenceError, NotMine, NotSupported
from imgfs.model import HOLE, Codec, Media, beneath, plain

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Lost, Runs
    from imgfs.backends._vmdk_descriptor import Descriptor
    from imgfs.backends._vmdk_sparse import Grains

MAX_CHAIN: Final = 32


@dataclass(slots=True)
class _Chain:
    """What was found on the way down. ``end`` is what lies below the last image; None: nothing does."""

    images: list[Image] = field(default_factory=list)
    end: Below | None = None


def open_chain(reader: Reader) -> Media:
    """Read ``reader`` and everything it builds upon.

    Raises:
        NotMine: it is no VMDK file.
        NotSupported, Malformed: the image cannot be read; one below it costs its ranges only.
    """
    members = Members((reader, *reader.others))
    chain = _descend(members)
    return _Disk(members, chain).media(reader, chain)


def _descend(members: Members) -> _Chain:
    chain = _Chain([read_image(0, members)])
    used = {0}
    while True:
        descriptor = chain.images[-1].descriptor
        if descriptor is None:
            chain.end = Below(why="only a descriptor says what it would be")
            return chain
        if not descriptor.is_child:
            return chain
        ticket, guessed, why = _parent(descriptor, members)
        if ticket < 0:
            chain.end = Below(why=members.say(why))
            return chain
        name = shown(members.readers[ticket].name)
        if ticket in used:
            chain.end = Below(why=members.say(f"the chain of parents leads back to {name}"))
            return chain
        if len(chain.images) >= MAX_CHAIN:
            chain.end = Below(why=members.say(f"more than {MAX_CHAIN} images build upon each other"))
            return chain
        used.add(ticket)
        try:
            image = read_image(ticket, members, f"{name}: ")
        except (EvidenceError, NotSupported, NotMine) as found:
            message = "it is no VMDK image" if isinstance(found, NotMine) else found.message
            chain.end = Below(why=members.say(f"the parent {name} cannot be read: {message}"))
            return chain
        cid = image.descriptor.cid if image.descriptor is not None else None
        if cid != descriptor.parent_cid:
            note = (
                f"the parent {name} has content id {_hex(cid)}, {_hex(descriptor.parent_cid)} was built upon"
            )
            if guessed:
                chain.end = Below(why=members.say(f"{note}: it is another image"))
                return chain
            members.say(f"{note}: it was changed since")
        chain.images.append(image)


def _parent(descriptor: Descriptor, members: Members) -> tuple[int, bool, str]:
    """Return the ticket of the parent, whether only its last name was looked for, and why it is -1.

    Writers put whole paths there. A file of that name beside the image is the parent if its content id says
    so; no path is followed.
    """
    hint = descriptor.parent
    if not hint:
        if descriptor.parent_cid is None:
            return -1, False, "the descriptor does not say whether there is a parent"
        return -1, False, f"the parent, content id {_hex(descriptor.parent_cid)}, has no name"
    path = hint.replace("\\", "/")
    if beneath(path) and (ticket := members.find(path)) >= 0:
        return ticket, False, ""
    name = path.rpartition("/")[2]
    guessed = name != hint
    if not plain(name):
        return (
            -1,
            guessed,
            f"the parent {shown(hint)} is not opened: only a file beneath its folder would be",
        )
    return members.find(name), guessed, f"the parent {shown(hint)} is no regular file beside the image"


def _hex(cid: int | None) -> str:
    return "none" if cid is None else f"{cid:08x}"


class _Disk:
    """The images of one reply laid over each other; ``lost`` ranges are those of the last one."""

    __slots__ = ("_members", "_reply", "lost", "unlisted")

    def __init__(self, members: Members, chain: _Chain) -> None:
        parts = (part for image in chain.images for part in image.parts)
        self._reply = Reply(
            len(members.readers), (part.sparse[1] for part in parts if part.sparse is not None)
        )
        self._members = members
        self.lost: list[Lost] = []
        self.unlisted = 0

    def media(self, reader: Reader, chain: _Chain) -> Media:
        """Lay the images over each other, the lowest first."""
        below = chain.end
        for image in reversed(chain.images):
            below = self._image(image, below)
        self._reply.write(reader)
        top = chain.images[0]
        notes = list(dict.fromkeys(self._members.notes))
        if self.unlisted:
            notes.append(f"{self.unlisted} more ranges are lost than are named")
        facts = dict(top.descriptor.facts) if top.descriptor is not None else {}
        if top.descriptor is not None and top.descriptor.parent:
            facts["parent"] = shown(top.descriptor.parent)
        if top.compressed:
            facts["compression"] = "deflate"
        return Media(
            layouts=tuple(self._reply.layouts),
            version=top.version,
            metadata=facts,
            lost=tuple(self.lost),
            notes=tuple(notes),
            wants=tuple(self._members.wants),
        )

    def _image(self, image: Image, below: Below | None) -> Below:
        """Add the layouts of an image and return what it is for the one above."""
        self.lost, self.unlisted = [], 0
        rows: list[tuple[int, int, int]] = []
        which: list[int] = []
        for part in image.parts:
            if part.sparse is not None:
                source, target = self._sparse(part, *part.sparse, below), 0
            else:
                source, target = max(part.ticket, 0), HOLE if part.ticket < 0 else part.target
            if part.inside:
                rows.append((part.base, part.inside, target))
                which.append(source)
            if part.inside < part.size:
                self._lose([(part.base + part.inside, part.base + part.size, part.why)])
        first = image.parts[0].sparse
        if len(image.parts) > 1 or first is None or first[0].size != image.size:
            self._reply.join(image.size, rows, which)
        return Below(which=self._reply.last, size=image.size, lost=tuple(self.lost))

    def _sparse(self, part: Part, grains: Grains, runs: Runs, below: Below | None) -> int:
        """Add the layouts of a sparse extent and return its number among the lowers."""
        reply, unit = self._reply, grains.grain
        # A writer may have stored the last grain of a disk only as far as the disk goes.
        short = -grains.size % unit if runs.ends_packed else 0
        packed = reply.pack(runs, Codec("zlib", {"unit": unit}), unit, short, part.ticket)
        laid = reply.lay(runs, grains.size, part.ticket, packed, reply.view(below, part.base, grains.size))
        self.unlisted += runs.unlisted
        end = part.base + part.inside
        ranges = ((start + part.base, min(stop + part.base, end), why) for start, stop, why in runs.lost)
        self._lose([row for row in ranges if row[0] < row[1]])
        return laid

    def _lose(self, ranges: list[Lost]) -> None:
        room = max(MAX_LOST - len(self.lost), 0)
        self.lost += ranges[:room]
        self.unlisted += len(ranges[room:])
