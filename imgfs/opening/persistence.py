"""What live systems of Debian and Ubuntu keep on a volume, or in a file that is one.

It is laid over the medium's image where there is one image and one such volume, so that nothing has to be
chosen; what was put together is said.

Sources: live-boot(7), persistence.conf(5): ``live/*.squashfs``; a volume or file named ``persistence``.
casper(7): ``casper/*.squashfs``; a volume or file named ``casper-rw``, later ``writable``, with OverlayFS's
``upper`` and ``work``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Options, discover
from imgfs.errors import EvidenceError, ImgfsError, NotADirectory, NotFound
from imgfs.model import MountTable
from imgfs.opening.layers import Layer
from imgfs.opening.live import UNION, directory
from imgfs.opening.place import Place
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.opening.attempt import Attempts
    from imgfs.opening.live import Live
    from imgfs.opening.named import Rooted
    from imgfs.tree.filesystem import FileSystem, FsNode
    from imgfs.tree.nodes import Dir, Node
    from imgfs.tree.tree import Tree

_WORK: Final = b"work"
_TABLE: Final = b"persistence.conf"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of live system: where its images lie, what keeps its changes is called, and where in that."""

    folder: bytes
    names: tuple[str, ...]
    upper: bytes  # empty: a table says where


KINDS: Final = (_Kind(b"live", ("persistence",), b""), _Kind(b"casper", ("casper-rw", "writable"), b"upper"))


class Persistence:
    """Finds what was kept, and lays it over the image."""

    __slots__ = ("_attempts", "_live", "_tree")

    def __init__(self, tree: Tree, attempts: Attempts, live: Live) -> None:
        self._tree = tree
        self._attempts = attempts
        self._live = live

    async def pairs(self, every: Sequence[Rooted]) -> list[tuple[_Kind, Rooted, FileSystem]]:
        """Return media with one image and the one file system that keeps what it changed."""
        found: list[tuple[_Kind, Rooted, FileSystem]] = []
        for kind in KINDS:
            media = [
                one for one in every if not one.index and len(await self._live.images(one, kind.folder)) == 1
            ]
            for within in {one.within for one in media}:
                there = [one for one in media if one.within == within]
                kept = await self._kept(
                    [one for one in every if not one.index and one.within == within], kind
                )
                if len(there) == len(kept) == 1:
                    found.append((kind, there[0], kept[0]))
        return found

    async def _kept(self, every: Sequence[Rooted], kind: _Kind) -> list[FileSystem]:
        """Return the file systems that are named as what keeps changes, or lie in files of that name."""
        found: dict[str, FileSystem] = {}
        for one in every:
            slot = one.slot
            if one.fs.client.info.label in kind.names or (slot is not None and slot.label in kind.names):
                found[str(one.fs.spec)] = one.fs
            for name in kind.names:
                with suppress(ImgfsError):
                    inner = await self._live.inside(self._tree.root_of(one.fs, one.index), name.encode())
                    found |= {str(fs.spec): fs for fs in inner}
        return list(found.values())

    async def together(
        self, kind: _Kind, one: Rooted, kept: FileSystem, path: str, shown: Dir
    ) -> Node | None:
        """Lay what was kept over the image; None: nothing was, or not of the root, which is said.

        Raises:
            EvidenceError, WorkerError: it cannot be read.
        """
        (image,) = await self._live.images(one, kind.folder)
        where = f"{kind.folder.decode()}/{names.printable(image)}"
        try:
            folder = await directory(self._tree.root_of(one.fs, one.index), kind.folder)
            lower = await self._live.inside(folder, image)
            upper = await self._upper(kind, kept, path, shown)
            if upper is None or not lower:
                return None
        except (NotFound, NotADirectory):  # no such folders: nothing was kept in this way
            return None
        made = Layer(spec=f"{kept.spec}|{UNION}", backend=UNION, kind="system", path=path, state="open")
        made.title = "OverlayFS"
        said = f"{names.printable(upper[1])} of {kept.spec}"
        made.members = [f"{where} of {one.fs.spec}", said]
        made.note(f"put together: {where} of {one.fs.spec}, and over it what {said} has of changes")
        self._attempts.layers.add(made)
        top, base = upper[0], self._tree.root_of(lower[0], 0)
        places = ((node.fs, node.address.tree, node.address.inum) for node in (top, base))
        return self._tree.union(list(places))

    async def _upper(
        self, kind: _Kind, kept: FileSystem, path: str, shown: Dir
    ) -> tuple[FsNode, bytes] | None:
        """Return the upper folder, and its path; None: the root is not kept.

        Raises:
            ImgfsError: there is no such folder, or none that OverlayFS works with.
        """
        root = self._tree.root_of(kept, 0)
        way = kind.upper or await self._told(root, path, shown)
        if way is None:
            return None
        *above, name = [part for part in way.split(b"/") if part not in (b"", b".")]
        for part in above:
            root = await directory(root, part)
        await directory(root, _WORK)
        return await directory(root, name), way

    async def _told(self, root: FsNode, path: str, shown: Dir) -> bytes | None:
        """Return the folder that keeps the root, as the table of the volume says; None: there is none."""
        entry = await root.entry(_TABLE)
        source = await root.fs.source_of(self._tree.covered(root, entry).address)
        place = Place(shown, root.fs.spec, path, Options(), 0)
        layer, answer = await self._attempts.open(discover()["persistence"], [source], place, "system")
        if answer is None or not isinstance(answer.opened, MountTable):
            raise EvidenceError("no table")
        layer.state = "open"
        layer.notes += answer.opened.notes
        found: bytes | None = None
        for row in answer.opened.rows:
            if row.where.strip(b"/"):
                where = names.printable(row.where)
                layer.note(f"{where} is laid over from {row.what[8:]} of this volume, and shown there only")
            elif row.folders:
                found = found or row.folders[0]
        return found
