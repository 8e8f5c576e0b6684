"""VMDK images that build upon each other: from the one that was named to one media.

What an image does not hold is its parent's; a parent that is not at hand makes that lost, never zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_runs import MAX_LOST, Below
from imgfs.backends._vmdk_parts import MAX_NOTES, Image, Members, Part, read_image, shown
from imgfs.errors import EvidenceError, NotMine, NotSupported
from imgfs.model import HOLE, LINEAR_ROW, Codec, Linear, Media, Packed, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Lost, Runs
    from imgfs.backends._vmdk_descriptor import Descriptor
    from imgfs.backends._vmdk_sparse import Grains
    from imgfs.model import Layout

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
    return _Layers(members, chain).media(reader, chain)


def _descend(members: Members) -> _Chain:
    chain = _Chain([read_image(0, members)])
    used = {0}
    while True:
        descriptor = chain.images[-1].descriptor
        if descriptor is None:
            chain.end = Below(why="only a descriptor file says what it would be")
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
            has = "none" if cid is None else f"{cid:08x}"
            note = f"the parent {name} has content id {has}, {descriptor.parent_cid:08x} was built upon"
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
        return -1, False, f"the parent, content id {descriptor.parent_cid:08x}, has no name"
    name = hint.replace("\\", "/").rpartition("/")[2]
    guessed = name != hint
    if not plain(name):
        return (
            -1,
            guessed,
            f"the parent {shown(hint)} is not opened: only a plain name beside the image would be",
        )
    return members.find(name), guessed, f"the parent {shown(hint)} is no regular file beside the image"


class _Layers:
    """Layouts of one reply, the lowest image first; ``inline``: their columns are in the message."""

    __slots__ = ("_inline", "_layouts", "_members", "_tables", "_tickets", "lost", "unlisted")

    def __init__(self, members: Members, chain: _Chain) -> None:
        self._members = members
        self._tickets = len(members.readers)
        self._layouts: list[Layout] = []
        self._tables: list[memoryview] = []
        runs = [part.sparse[1] for image in chain.images for part in image.parts if part.sparse is not None]
        spent = sum(8 * len(one.rows) + LINEAR_ROW * len(one) for one in runs)
        self._inline = spent <= limits.TABLE_INLINE
        self.lost: list[Lost] = []
        self.unlisted = 0

    def media(self, reader: Reader, chain: _Chain) -> Media:
        """Lay the images over each other."""
        below = chain.end
        for image in reversed(chain.images):
            below = self._image(image, below)
        if self._tables:
            reader.write_table(_slices(self._tables))
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
            layouts=tuple(self._layouts),
            version=top.version,
            metadata=facts,
            lost=tuple(self.lost),
            notes=tuple(notes[:MAX_NOTES]),
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
            self._layouts.append(Linear.of(image.size, rows, which))
        return Below(which=self._last, size=image.size, lost=tuple(self.lost))

    @property
    def _last(self) -> int:
        return self._tickets + len(self._layouts) - 1

    def _sparse(self, part: Part, grains: Grains, runs: Runs, below: Below | None) -> int:
        """Add the layouts of a sparse extent and return its number among the lowers."""
        packed = -1
        if runs.rows:
            rows, unit = runs.rows, grains.grain
            # A writer may have stored the last grain of a disk only as far as the disk goes.
            short = -grains.size % unit if runs.ends_packed else 0
            self._layouts.append(
                Packed(
                    size=len(rows) // 2 * unit - short,
                    unit=unit,
                    codec=Codec("zlib", {"unit": unit}),
                    table=rows.tobytes() if self._inline else b"",
                    which=part.ticket,
                )
            )
            packed = self._last
            if not self._inline:
                self._tables.append(memoryview(rows).cast("B"))
        runs.settle(part.ticket, packed, self._view(below, part.base, grains.size))
        self._layouts.append(runs.linear(grains.size, inline=self._inline or not len(runs)))
        if not self._inline:
            self._tables += [memoryview(column).cast("B") for column in runs.columns() if column]
        self.unlisted += runs.unlisted
        end = part.base + part.inside
        ranges = ((start + part.base, min(stop + part.base, end), why) for start, stop, why in runs.lost)
        self._lose([row for row in ranges if row[0] < row[1]])
        return self._last

    def _view(self, below: Below | None, base: int, size: int) -> Below | None:
        """Return the part of the image below that lies under an extent."""
        if below is None or below.which < 0 or (not base and below.size == size):
            return below
        covered = max(0, min(size, below.size - base))
        cut = ((max(a - base, 0), min(b - base, covered), why) for a, b, why in below.lost)
        lost = [row for row in cut if row[0] < row[1]]
        if covered < size:
            lost.append((covered, size, "the parent ends before it"))
        self._layouts.append(
            Linear.of(size, [(0, covered, base)] if covered else [], [below.which] if covered else [])
        )
        return Below(which=self._last, size=size, lost=tuple(lost))

    def _lose(self, ranges: list[Lost]) -> None:
        room = max(MAX_LOST - len(self.lost), 0)
        self.lost += ranges[:room]
        self.unlisted += len(ranges[room:])


def _slices(tables: list[memoryview]) -> Iterator[bytes]:
    for raw in tables:
        for at in range(0, len(raw), limits.MIB):
            yield bytes(raw[at : at + limits.MIB])
