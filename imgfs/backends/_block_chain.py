"""Images in blocks that build upon each other (VHD, VHDX, VDI): from the one that was named to one media.

Paths in an image are claims, and most were true on another machine: no path is followed. A file of that
name beneath the image's folder is looked for, and it is the parent only if its unique id is the one that the
child names. What only a parent holds that is not at hand is lost, never zeros; so is what lies behind the end
of a parent that is smaller than its child, which no specification gives a meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends._chain_reply import Reply
from imgfs.backends._chain_runs import Below
from imgfs.backends._members import Members, shown
from imgfs.errors import EvidenceError, NotMine, NotSupported
from imgfs.model import Media, beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Runs

MAX_CHAIN: Final = 32
_WORDS: Final = 1000  # characters of what a note says a parent is called


def _nothing(_: Image) -> str:
    return ""


@dataclass(slots=True, kw_only=True)
class Parent:
    """What an image says of the one below it.

    ``ids``: it has one of them. ``paths`` are where it was, in the order they are to be tried; ``kin``: there
    are none in the format, any file of the kind beside the image may be it. ``check`` returns what is wrong
    between the child and its parent, empty: nothing.
    """

    ids: frozenset[str]
    paths: tuple[str, ...] = ()
    kin: bool = False
    check: Callable[[Image], str] = _nothing

    @property
    def words(self) -> str:
        """Return what the image calls its parent."""
        names = " or ".join(dict.fromkeys(self.paths))[:_WORDS]
        return names or f"{', '.join(sorted(self.ids)) or 'unknown'}, without a name"


@dataclass(slots=True, kw_only=True)
class Image:
    """One image of a chain. Units: ``size`` and ``sector`` bytes; ``created`` seconds since 2000, 0: unknown.

    ``state`` is the id of its last change, where the format has one.
    """

    size: int
    runs: Runs
    version: str
    ids: frozenset[str] = frozenset()
    sector: int = 512
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parent: Parent | None = None
    created: int = 0
    state: str = ""


def open_chain(
    reader: Reader, read: Callable[[Reader, int], Image], identify: Callable[[Reader], frozenset[str]]
) -> Media:
    """Read ``reader`` and everything it builds upon.

    Args:
        reader: the image that was named; its ``others`` may be the files below it.
        read: reads one image into at most so many runs.
        identify: returns the ids of an image without reading its tables.

    Raises:
        NotMine: it is none.
        NotSupported, Malformed: the image cannot be read; one below it costs its ranges only.
    """
    chain = _Chain(reader, read, identify)
    end = chain.descend()
    return chain.media(end)


class _Chain:
    """What was found on the way down: images with their tickets, the one that was named first."""

    __slots__ = ("_identify", "_ids", "_images", "_kin", "_members", "_read", "_tickets")

    def __init__(
        self,
        reader: Reader,
        read: Callable[[Reader, int], Image],
        identify: Callable[[Reader], frozenset[str]],
    ) -> None:
        self._members = Members((reader, *reader.others))
        self._read = read
        self._identify = identify
        self._ids: dict[int, frozenset[str]] = {}
        self._images: list[Image] = []
        self._tickets: list[int] = []
        self._kin = False  # a parent without a name is missing
        self._take(0)

    def descend(self) -> Below | None:
        """Read the images below; return what lies below the last one, None: nothing does."""
        members = self._members
        while (parent := self._images[-1].parent) is not None:
            ticket, why = self._find(parent, members.readers[self._tickets[-1]].name)
            if ticket < 0:
                return Below(why=members.say(why))
            name = shown(members.readers[ticket].name)
            if ticket in self._tickets:
                return Below(why=members.say(f"the chain of parents leads back to {name}"))
            if len(self._images) >= MAX_CHAIN:
                return Below(why=members.say(f"more than {MAX_CHAIN} images build upon each other"))
            try:
                self._take(ticket, f"{name}: ")
            except (EvidenceError, NotSupported, NotMine) as found:
                return Below(why=members.say(f"the parent {name} cannot be read: {_why(found)}"))
            if said := parent.check(self._images[-1]):
                members.say(f"the parent {name} {said}")
        return None

    def _take(self, ticket: int, where: str = "") -> None:
        members = self._members
        image = self._read(members.readers[ticket], members.left)
        members.left = max(members.left - len(image.runs), 1)
        for note in image.notes:
            members.say(where + note)
        if image.parent is not None:
            members.say(f"{where}differencing disk: its parent is {image.parent.words}")
        self._images.append(image)
        self._tickets.append(ticket)

    def _find(self, parent: Parent, child: str) -> tuple[int, str]:
        """Return the ticket of the parent of the image ``child``, or -1 and why there is none."""
        members = self._members
        if not parent.ids:
            return -1, "the image does not say which id its parent has"
        wrong: list[str] = []
        names = [*_candidates(parent.paths, child.rpartition("/")[0])]
        tickets = [ticket for name in names if (ticket := members.find(name)) >= 0]
        if parent.kin:
            tickets = [*range(len(members.readers))]
        found = [ticket for ticket in dict.fromkeys(tickets) if self._is(ticket, parent, wrong)]
        if len(found) > 1:
            members.say(f"{len(found)} files have the id of the parent: {self._name(found[0])} is taken")
        if found:
            if parent.kin and found[0]:
                members.wants.append(members.readers[found[0]].name)
            return found[0], ""
        self._kin = self._kin or parent.kin
        where = "beneath the image's folder" if names else "beside the image"
        if parent.kin:
            return -1, f"no file beside the image has the id {', '.join(parent.ids)} of the parent"
        if parent.paths and not names:
            where = "that could be looked for"
        return -1, "; ".join(wrong) or f"the parent {parent.words} is no regular file {where}"

    def _is(self, ticket: int, parent: Parent, wrong: list[str]) -> bool:
        """Say whether a file has an id of the parent; what it has instead goes to ``wrong``."""
        if ticket not in self._ids:
            self._ids[ticket] = frozenset()
            try:
                self._ids[ticket] = self._identify(self._members.readers[ticket])
            except (EvidenceError, NotSupported, NotMine) as found:
                wrong.append(f"{self._name(ticket)} is not the parent: {_why(found)}")
                return False
        ids = self._ids[ticket]
        if ids & parent.ids:
            return True
        wrong.append(
            f"{self._name(ticket)} is not the parent: its id is {_listed(ids)}, not {_listed(parent.ids)}"
        )
        return False

    def _name(self, ticket: int) -> str:
        return shown(self._members.readers[ticket].name)

    def media(self, end: Below | None) -> Media:
        """Lay the images over each other, the lowest first."""
        members, images = self._members, self._images
        reply = Reply(len(members.readers), [image.runs for image in images])
        below = end
        for ticket, image in zip(reversed(self._tickets), reversed(images), strict=True):
            number = reply.lay(image.runs, image.size, ticket, -1, reply.view(below, 0, image.size))
            below = Below(which=number, size=image.size, lost=tuple(image.runs.lost))
        reply.write(members.readers[0])
        top = images[0]
        if top.runs.unlisted:
            members.say(f"{top.runs.unlisted} more ranges are lost than are named")
        facts = dict(top.facts)
        if top.parent is not None:
            facts["parent"] = top.parent.words
        return Media(
            layouts=tuple(reply.layouts),
            sector=top.sector,
            version=top.version,
            metadata=facts,
            lost=tuple(top.runs.lost),
            notes=tuple(dict.fromkeys(members.notes)),
            wants=tuple(members.wants),
            kin=self._kin,
        )


def _candidates(paths: tuple[str, ...], folder: str) -> Iterator[str]:
    """Return the names to look for: where a relative path leads beneath the folder, then last names alone."""
    split = [[part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] for path in paths]
    names: list[str] = []
    for path, parts in zip(paths, split, strict=True):
        if parts and path[0] not in "\\/" and ".." not in parts and ":" not in parts[0]:
            names.append("/".join([folder, *parts] if folder else parts))
    for parts in filter(None, split):
        names += [f"{folder}/{parts[-1]}"] if folder else []
        names.append(parts[-1])
    return filter(beneath, dict.fromkeys(names))


def _listed(ids: frozenset[str]) -> str:
    return " or ".join(sorted(ids)) or "none"


def _why(found: EvidenceError | NotSupported | NotMine) -> str:
    return "it is no image of the kind" if isinstance(found, NotMine) else found.message
