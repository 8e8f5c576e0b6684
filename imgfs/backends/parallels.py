"""Parallels disks: an expandable image, or the bundle of them that a DiskDescriptor.xml names.

A bundle is a folder; the analyst names the descriptor in it, and its images are found beside it like those
of any other set. An image that is named itself is looked up in the descriptor beside it: one of a snapshot
holds only what was written since.

Source: QEMU docs/interop/parallels.txt; libphdi documentation, "Parallels Hard Disk image format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._chain_reply import Reply
from imgfs.backends._chain_runs import MAX_LOST, MAX_RUNS, Below
from imgfs.backends._parallels_bundle import MAX_TEXT, NAME, Bundle, Storage, parse_bundle
from imgfs.backends._parallels_disk import EXTENDED, PLAIN, Disk, is_disk, read_disk
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.model import Media, beneath

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._chain_runs import Lost

MAX_CHAIN: Final = 32


@dataclass(slots=True)
class _Level:
    """An image of a storage: a disk with runs, or ``inside`` bytes stored one after the other."""

    ticket: int
    disk: Disk | None = None
    inside: int = 0


@dataclass(slots=True)
class _Column:
    """The images of one storage, the live one first; ``end`` is what lies below, None: nothing does."""

    storage: Storage
    levels: list[_Level] = field(default_factory=list)
    end: Below | None = None


def open_parallels(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read an image or a bundle.

    Raises:
        NotMine: it is neither.
        NotSupported: another version, or encrypted.
        Malformed: sizes or storages that cannot be.
    """
    files = _Files(reader)
    if not is_disk(reader):
        if reader.size > MAX_TEXT:
            raise NotMine("parallels")
        bundle = parse_bundle(reader.read(0, reader.size))
        return files.media([files.column(storage, bundle, bundle.top) for storage in bundle.storages], bundle)
    bundle, column = files.alone()
    return files.media([column], bundle)


class _Files:
    """The files at hand, what is wanted besides, and what was found out on the way."""

    __slots__ = ("_left", "_notes", "_readers", "_tickets", "_wants")

    def __init__(self, reader: Reader) -> None:
        self._readers = (reader, *reader.others)
        self._tickets: dict[str, int] = {}
        for ticket, member in enumerate(self._readers):
            self._tickets.setdefault(member.name, ticket)
        self._wants: list[str] = []
        self._notes: list[str] = []
        self._left = MAX_RUNS

    def alone(self) -> tuple[Bundle, _Column]:
        """Return an image that was named itself, over those below if a descriptor beside it says so."""
        reader = self._readers[0]
        if (ticket := self._tickets.get(NAME, -1)) > 0:
            try:
                bundle = parse_bundle(
                    self._readers[ticket].read(0, min(self._readers[ticket].size, MAX_TEXT))
                )
                for storage in bundle.storages:
                    for guid, (_, name) in storage.images.items():
                        if name == reader.name:
                            return bundle, self.column(storage, bundle, guid)
            except (EvidenceError, NotMine, NotSupported) as why:
                self._notes.append(
                    f"{NAME} beside the image cannot be read: {why.args[0] if why.args else why}"
                )
        elif reader.name:
            self._wants.append(NAME)
        disk = read_disk(reader, self._left)
        self._notes += disk.notes
        storage = Storage(0, disk.size)
        return Bundle(disk.size), _Column(storage, [_Level(0, disk, disk.size)])

    def column(self, storage: Storage, bundle: Bundle, guid: str) -> _Column:
        """Return the images of a storage from a snapshot downwards."""
        column, used = _Column(storage), set[int]()
        size = storage.stop - storage.start
        while guid:
            try:
                level = self._level(storage, guid, size)
                if level.ticket in used:
                    raise Malformed(f"snapshot {guid} builds upon itself")
                if len(column.levels) >= MAX_CHAIN:
                    raise Malformed(f"more than {MAX_CHAIN} images build upon each other")
            except (EvidenceError, NotMine, NotSupported) as why:
                message = "an image that is no Parallels disk" if isinstance(why, NotMine) else why.message
                self._notes.append(message)
                column.end = Below(why=message)
                return column
            used.add(level.ticket)
            column.levels.append(level)
            if level.disk is None:  # holds everything
                return column
            guid = bundle.below(guid)
        return column

    def _level(self, storage: Storage, guid: str, size: int) -> _Level:
        """Read one image of a storage."""
        kind, name = storage.images.get(guid, ("", ""))
        shown = repr(name[:200])
        if not kind:
            raise Malformed(f"no image belongs to snapshot {guid[:64]!r}")
        if not beneath(name):
            raise Malformed(f"the image {shown} is not opened: only a file beneath its folder would be")
        ticket = self._tickets.get(name, -1)
        if ticket < 0:
            self._wants.append(name)
            raise Malformed(f"the image {shown} is no regular file beside the descriptor")
        reader = self._readers[ticket]
        if kind == "Plain":
            return _Level(ticket, inside=min(size, reader.size))
        if kind != "Compressed":
            raise NotSupported(f"the image {shown} is of type {kind[:40]!r}, which is not known")
        disk = read_disk(reader, self._left)
        self._left = max(self._left - len(disk.runs), 1)
        self._notes += [f"{shown}: {note}" for note in disk.notes]
        if disk.size != size:
            raise Malformed(f"the image {shown} is of {disk.size} bytes, its storage of {size}")
        return _Level(ticket, disk, size)

    def media(self, columns: list[_Column], bundle: Bundle) -> Media:
        """Lay the images of every storage over each other, and the storages one behind the other."""
        levels = [level for column in columns for level in column.levels]
        reply = Reply(len(self._readers), [level.disk.runs for level in levels if level.disk is not None])
        rows: list[tuple[int, int, int]] = []
        which: list[int] = []
        lost: list[Lost] = []
        base, unlisted = 0, 0
        for column in columns:
            size = column.storage.stop - column.storage.start
            below = column.end
            for level in reversed(column.levels):
                if level.disk is not None:
                    number = reply.lay(level.disk.runs, size, level.ticket, -1, below)
                    below = Below(which=number, size=size, lost=tuple(level.disk.runs.lost))
                else:
                    inside = [(0, level.inside, 0)] if level.inside else []
                    number = reply.join(size, inside, [level.ticket] * len(inside))
                    missing = (
                        [(level.inside, size, "the image ends before it")] if level.inside < size else []
                    )
                    below = Below(which=number, size=size, lost=tuple(missing))
            if below is not None and below.which >= 0:
                rows.append((base, size, 0))
                which.append(below.which)
                lost += [(start + base, stop + base, why) for start, stop, why in below.lost]
            elif below is not None:
                lost.append((base, base + size, below.why))
            if column.levels and (live := column.levels[0].disk) is not None:
                unlisted += live.runs.unlisted
            base += size
        if len(columns) > 1 or not rows:
            reply.join(base, rows, which)
        reply.write(self._readers[0])
        if unlisted or len(lost) > MAX_LOST:
            self._notes.append(
                f"{unlisted + max(len(lost) - MAX_LOST, 0)} more ranges are lost than are named"
            )
        disks = [level.disk for level in levels if level.disk is not None]
        return Media(
            layouts=tuple(reply.layouts),
            version=f"Parallels {disks[0].version}" if disks else "Parallels plain",
            metadata=bundle.facts | ({"block size": f"{disks[0].block}"} if disks else {}),
            lost=tuple(lost[:MAX_LOST]),
            notes=tuple(dict.fromkeys(self._notes)),
            wants=tuple(dict.fromkeys(self._wants)),
        )


BACKEND = Backend(
    name="parallels",
    title="Parallels disk",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, PLAIN), Signature(0, EXTENDED)),
    by_name=r"DiskDescriptor\.xml",
    open=open_parallels,
    supports="expandable images; bundles by their DiskDescriptor.xml: split, plain, snapshots",
    truth=("peer", "composed", "corpus"),
)
