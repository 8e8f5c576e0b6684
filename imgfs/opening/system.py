"""What an installed system saw: its volumes put together as its own table of mounts says.

A system is found by that table in one of the file systems; a worker reads it, here names are compared. What
it names and is not among these images, or is not certain, is said in the notes of the layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Options, discover
from imgfs.errors import EvidenceError, ImgfsError, NotADirectory, NotFound, WorkerError
from imgfs.model import Kind, MountTable
from imgfs.opening.place import Place
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.model import MountRow
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.layers import Layer
    from imgfs.tree.filesystem import FileSystem, FsNode
    from imgfs.tree.nodes import Dir, Node
    from imgfs.tree.tree import Tree

SYSTEMS: Final = "system"  # the directory, beside the disks
# Where the tables lie, by the back-end that reads them; Windows does not tell cases apart.
_TABLES: Final = (
    ("fstab", (b"etc", b"fstab")),
    ("drives", (b"windows", b"system32", b"config", b"system")),
)
_OTHER_TREES: Final = ("deleted",)
_NUMBERED: Final = re.compile(r"/dev/(?:[shv]d[a-z]+|xvd[a-z]+|(?:nvme\d+n|mmcblk|loop|nbd)\d+p)(\d+)\Z")
_MAPPER: Final = "/dev/mapper/"
_LUKS: Final = "luks-"


@dataclass(frozen=True, slots=True)
class _Tree:
    """One tree of a file system, which may be mounted somewhere."""

    fs: FileSystem
    index: int

    @property
    def disk(self) -> str:
        return self.fs.spec.root


class Systems:
    """Fills the directory of installed systems by the first look into it."""

    __slots__ = ("_attempts", "_complete", "_tree")

    def __init__(self, tree: Tree, attempts: Attempts, complete: Callable[[], Awaitable[None]]) -> None:
        """``complete`` opens every file system that there is."""
        self._tree = tree
        self._attempts = attempts
        self._complete = complete

    async def fill(self, folder: Dir) -> None:
        """Put every installed system into ``folder``.

        Raises:
            NotFound: there is none.
        """
        await self._complete()
        found = [
            _Tree(fs, index)
            for fs in self._tree.file_systems
            for index, tree in enumerate(fs.client.info.trees)
            if tree.name not in _OTHER_TREES
        ]
        for one in found:
            for backend, path in _TABLES:
                table = await self._table(one, path, exact=backend == "fstab")
                if table is not None:
                    await self._assemble(folder, one, found, backend, table)
        if not folder.names():
            raise NotFound("no installed system in these images")

    async def _table(self, one: _Tree, path: Sequence[bytes], *, exact: bool) -> FsNode | None:
        node = self._tree.root_of(one.fs, one.index)
        try:
            for name in path:
                node = await _entry(node, name, exact=exact)
            return node if (await node.attr()).kind is Kind.REG else None
        except (EvidenceError, WorkerError, NotFound, NotADirectory):
            return None

    async def _assemble(
        self, folder: Dir, one: _Tree, every: Sequence[_Tree], backend: str, table: FsNode
    ) -> None:
        """Let a worker read a table, and mount what it names."""
        volume = next((layer for layer in self._lineage(one) if layer.path), None)
        path = volume.path if volume is not None else str(one.fs.spec)
        name = names.distinct(names.escape(path.replace("/", ".").encode()), 2, folder)
        place = Place(folder, one.fs.spec, f"{SYSTEMS}/{names.printable(name)}", Options(), 0)
        try:
            source = await table.open()
        except (EvidenceError, WorkerError):
            return
        declared = discover()[backend]
        layer, answer = await self._attempts.open(declared, [source], place, "system")
        if answer is None or not isinstance(answer.opened, MountTable):
            return
        rows = answer.opened.rows
        layer.state = "open"
        layer.notes += answer.opened.notes
        if answer.opened.drives:
            await self._drives(folder, name, rows, every, layer)
        else:
            await self._root(folder, name, one, rows, every, layer)

    async def _drives(
        self, folder: Dir, name: bytes, rows: Sequence[MountRow], every: Sequence[_Tree], layer: Layer
    ) -> None:
        """Put the drives of a system side by side."""
        drives = self._tree.directory(spec=layer.spec)
        for row in rows:
            if (there := self._match(row, every, None, layer)) is not None:
                root = self._view(there)
                drives.add(row.where, root, await root.attr())
        if drives.names():
            folder.add(name, drives)
        else:
            layer.note("none of its drives is among these images")

    async def _root(
        self,
        folder: Dir,
        name: bytes,
        one: _Tree,
        rows: Sequence[MountRow],
        every: Sequence[_Tree],
        layer: Layer,
    ) -> None:
        """Mount what a table names, those further up first."""
        root = self._view(one)
        for row in sorted(rows, key=lambda row: len(_parts(row.where))):
            parts = _parts(row.where)
            if not parts:
                continue
            where = names.printable(row.where)
            if (there := self._match(row, every, one, layer)) is None:
                continue
            try:
                node = root
                for part in parts:
                    node = await _entry(node, part, exact=True)
                if (await node.attr()).kind is not Kind.DIR:
                    raise NotADirectory(where)
                mounted = self._view(there)
                attr = await mounted.attr()
            except ImgfsError as why:
                layer.note(f"{where}: {row.what} is not shown there: {why}")
                continue
            node.fs.mounts[node.address.tree, node.address.inum] = mounted, attr
            layer.members.append(f"{where}: {there.fs.spec}")
        folder.add(name, root, await root.attr())

    def _view(self, one: _Tree) -> FsNode:
        """Attach a file system once more: in a system its directories have other places, hence numbers."""
        fs = self._tree.attach(one.fs.client, one.fs.source, one.fs.spec)
        return self._tree.root_of(fs, one.index)

    def _match(self, row: MountRow, every: Sequence[_Tree], root: _Tree | None, layer: Layer) -> _Tree | None:
        """Return the one tree that a row names; None: none or several, which is said."""
        found = [one for one in every if self._is(row, one, root)]
        where = names.printable(row.where)
        if not found:
            layer.note(f"{where}: {row.what} is not among these images")
        elif len({id(one.fs) for one in found}) > 1:
            layer.note(f"{where}: {row.what} names {len(found)} volumes of these images: none is shown there")
        else:
            if row.what.startswith("dev:") and _NUMBERED.match(row.what[4:]):
                layer.note(f"{where}: {row.what[4:]} is taken for {found[0].fs.spec}, by its number alone")
            return found[0]
        return None

    def _is(self, row: MountRow, one: _Tree, root: _Tree | None) -> bool:
        trees = one.fs.client.info.trees
        wanted = next((i for i, tree in enumerate(trees) if tree.name == row.tree), None) if row.tree else 0
        if one.index != wanted:
            return False
        kind, _, value = row.what.partition(":")
        info = one.fs.client.info
        lineage = self._lineage(one)
        slot = next((layer for layer in lineage if layer.kind == "volume"), None)
        match kind:
            case "uuid":
                return bool(value) and info.uuid.casefold() == value.casefold()
            case "label":
                return bool(value) and info.label == value
            case "partuuid":
                return slot is not None and bool(value) and slot.uuid.casefold() == value.casefold()
            case "partlabel":
                return slot is not None and bool(value) and slot.label == value
            case "mbr":
                signature, _, offset = value.partition(":")
                return (
                    slot is not None and slot.uuid.startswith(f"{signature}-") and slot.start == int(offset)
                )
            case "dev":
                return _is_device(value, one, lineage, slot, root)
        return False

    def _lineage(self, one: _Tree) -> list[Layer]:
        """Return the records of the layers that a file system lies in, the innermost first."""
        spec = str(one.fs.spec)
        above = [
            layer
            for layer in self._attempts.layers
            if layer.kind != "system" and (spec == layer.spec or spec.startswith(f"{layer.spec}|"))
        ]
        return sorted(above, key=lambda layer: -len(layer.spec))


def _is_device(
    device: str, one: _Tree, lineage: Sequence[Layer], slot: Layer | None, root: _Tree | None
) -> bool:
    if slot is None:
        return False
    if number := _NUMBERED.match(device):  # whose disk it was is not recorded: it is taken for the root's
        plain = root is not None and one.disk == root.disk and slot.backend in ("mbr", "gpt")
        return plain and slot.slot == int(number[1])
    if device.startswith(_MAPPER + _LUKS):
        wanted = device.removeprefix(_MAPPER + _LUKS)
        return any(layer.backend == "luks" and layer.uuid == wanted for layer in lineage)
    group = next((layer for layer in lineage if layer.backend == "lvm2" and layer.kind == "table"), None)
    if group is None or slot.backend != "lvm2":
        return False
    # device-mapper doubles the hyphens of names that it joins by one (dmsetup(8))
    joined = f"{group.label.replace('-', '--')}-{slot.label.replace('-', '--')}"
    return device in (f"/dev/{group.label}/{slot.label}", _MAPPER + joined)


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


async def _entry(node: Node, name: bytes, *, exact: bool) -> FsNode:
    """Return an entry of a directory of the evidence; ``exact`` False: whatever the case of its letters.

    Raises:
        NotFound: there is none.
    """
    if not exact:
        index = 0
        while (child := node.row(index)) is not None or await node.more(index):
            if child is not None:
                if child.name.lower() == name:
                    name = child.name
                    break
                index += 1
    return await node.find(name)  # type: ignore[return-value]  # evidence holds nothing else
