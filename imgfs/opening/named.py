"""Which of the file systems at hand a row of a table of mounts names.

Of two that bear the name, the one on the disk of the system itself is taken, and the other said. What lies in
an image inside the evidence is named by tables of such images only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Role, discover
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.model import MountRow, TreeInfo
    from imgfs.opening.layers import Layer
    from imgfs.tree.filesystem import FileSystem

_SLOT: Final = re.compile(
    r"/dev/(?:"
    r"[shv]d[a-z]+|xvd[a-z]+|(?:nvme\d+n|mmcblk|loop|nbd)\d+p|disk/by-(?:id|path)/.+-part"  # Linux
    r"|(?:ada|da|ad|vtbd|nda|nvd|mmcsd)\d+p"  # FreeBSD, slots of a GPT
    r")(\d+)\Z"
)
_SLICE: Final = re.compile(r"/dev/(?:ada|da|ad|vtbd|nda|nvd|mmcsd)\d+s(\d)([a-h])\Z")  # FreeBSD, in an MBR
_MAPPER: Final = re.compile(r"/dev/(?:mapper/|disk/by-id/dm-name-)(.+)\Z")
_ARRAY: Final = re.compile(r"/dev/md/?(.+)\Z|/dev/disk/by-id/md-(?:name|uuid)-(.+)\Z")
_LUKS: Final = "luks-"
_OTHER_TREES: Final = ("deleted",)


@dataclass(frozen=True, slots=True)
class Rooted:
    """One tree of a file system, which may be mounted somewhere.

    ``lineage``: the layers that it lies in, the innermost first.
    """

    fs: FileSystem
    index: int
    lineage: tuple[Layer, ...]

    @property
    def info(self) -> TreeInfo:
        """Return what the file system says of the tree."""
        return self.fs.client.info.trees[self.index]

    @property
    def disk(self) -> str:
        """Return the address of the disk that it lies on: an image, or a file that is one."""
        return f"{self.within}/{str(self.fs.spec)[len(self.within) :].strip('/').partition('|')[0]}"

    @property
    def within(self) -> str:
        """Return the address of the file system whose file the disk is; empty: the disk is an image."""
        return str(self.fs.spec).rpartition("/")[0]

    @property
    def slot(self) -> Layer | None:
        """Return the record of the innermost volume that it lies in."""
        return next((layer for layer in self.lineage if layer.kind == "volume"), None)


def rooted(systems: Iterable[FileSystem], layers: Iterable[Layer]) -> list[Rooted]:
    """Return the trees that a table may name; one that was opened again is there once, as it is now."""
    known: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.kind != "system":
            known.setdefault(layer.spec, []).append(layer)
    newest = {str(fs.spec): fs for fs in systems if not fs.apart and not _past(fs)}
    return [
        Rooted(fs, index, tuple(_lineage(spec, known)))
        for spec, fs in newest.items()
        for index, tree in enumerate(fs.client.info.trees)
        if tree.name not in _OTHER_TREES
    ]


def _past(fs: FileSystem) -> bool:
    """Say whether a file system is what a volume was: those are there for who looks at them."""
    return any(
        (known := discover().get(step.backend)) is not None and known.role is Role.SNAPSHOTS
        for step in fs.spec.steps
    )


def _lineage(spec: str, known: dict[str, list[Layer]]) -> Iterable[Layer]:
    """Return the records of the layers at an address and above it, also of the tables of its volumes."""
    while spec:
        yield from reversed(known.get(spec, ()))
        above, _, last = spec.rpartition("|")
        table = f"{above}|{last.partition(':')[0]}"
        if table != spec:
            yield from known.get(table, ())
        spec = above


class Named:
    """Finds what rows name, and says what is not certain."""

    __slots__ = ("_every",)

    def __init__(self, every: list[Rooted]) -> None:
        self._every = every

    def find(self, row: MountRow, root: Rooted, layer: Layer) -> Rooted | None:
        """Return the one tree that a row of a system names; None: none or several, which is said."""
        found = [one for one in self._every if one.within == root.within and _is(row, one, root)]
        where = names.printable(row.where)
        asked = str(row.number) if row.number else row.tree
        what = f"{row.what}, subvolume {asked}" if asked else row.what
        if not found:
            layer.note(f"{where}: {what} is not among these images")
            return None
        chosen = found
        if len({one.fs.id for one in found}) > 1:
            chosen = [one for one in found if one.disk == root.disk]
            others = ", ".join(sorted({str(one.fs.spec) for one in found if one not in chosen}))
            if len({one.fs.id for one in chosen}) != 1:
                layer.note(f"{where}: {what} names {len(found)} volumes of these images: none is shown there")
                return None
            layer.note(f"{where}: {what} is that of the same disk; also named so: {others}")
        kind, _, value = row.what.removeprefix("crypt:").partition(":")
        if kind == "dev" and (_SLOT.match(value) or _SLICE.match(value)):
            layer.note(f"{where}: {value} is taken for {chosen[0].fs.spec}, by its number alone")
        return chosen[0]


def _is(row: MountRow, one: Rooted, root: Rooted) -> bool:
    if not _is_tree(row, one):
        return False
    kind, _, value = row.what.partition(":")
    info = one.fs.client.info
    match kind:
        case "uuid":
            return bool(value) and info.uuid.casefold() == value.casefold()
        case "label":
            return bool(value) and info.label == value
        case "luks":
            return _is_inside(one, value)
        case "crypt":
            return (outer := _outside(one)) is not None and _is_volume(value, outer, root)
    return _is_volume(row.what, one, root)


def _is_volume(what: str, one: Rooted, root: Rooted) -> bool:
    """Say whether a tree's file system lies in the volume that is named."""
    kind, _, value = what.partition(":")
    slot = one.slot
    match kind:
        case "partuuid":
            return slot is not None and bool(value) and slot.uuid.casefold() == value.casefold()
        case "partlabel":
            return slot is not None and bool(value) and slot.label == value
        case "mbr":
            signature, _, offset = value.partition(":")
            return slot is not None and slot.uuid.startswith(f"{signature}-") and slot.start == int(offset)
        case "dev":
            return _is_device(value, one, root)
    return False


def _is_tree(row: MountRow, one: Rooted) -> bool:
    """Say whether a tree is the one that the options of a row ask for."""
    if row.number:
        return one.info.number == row.number
    if row.tree:
        return one.info.name == row.tree
    chosen = [index for index, tree in enumerate(one.fs.client.info.trees) if tree.chosen]
    return one.index == (chosen[0] if chosen else 0)


def _is_inside(one: Rooted, uuid: str) -> bool:
    """Say whether a file system is what a LUKS volume of that UUID holds itself."""
    tables = (layer for layer in one.lineage if layer.kind == "table")
    slot, table = one.slot, next(tables, None)
    if slot is None or table is None or not slot.backend == table.backend == "luks":
        return False
    return table.uuid.casefold() == uuid.casefold()


def _outside(one: Rooted) -> Rooted | None:
    """Return the place of the encrypted volume that holds a file system itself; None: there is none."""
    slot = one.slot
    if slot is None or not discover()[slot.backend].keys:
        return None
    outer = next(
        (n for n, layer in enumerate(one.lineage) if n and layer.kind == "volume" and layer is not slot), None
    )
    return None if outer is None else Rooted(one.fs, one.index, one.lineage[outer:])


def _is_device(device: str, one: Rooted, root: Rooted) -> bool:
    slot = one.slot
    if slot is None:
        return False
    if number := _SLOT.match(device):  # whose disk it was is not recorded: it is taken for the root's
        return one.disk == root.disk and slot.backend in ("mbr", "gpt") and slot.slot == int(number[1])
    if parts := _SLICE.match(device):
        outer = next(
            (layer for layer in one.lineage if layer.kind == "volume" and layer.backend == "mbr"), None
        )
        inner = slot.backend == "bsdlabel" and slot.slot == ord(parts[2]) - ord("a") + 1
        return one.disk == root.disk and inner and outer is not None and outer.slot == int(parts[1])
    if (array := _ARRAY.match(device)) and slot.backend == "md":
        wanted = array[1] or array[2]
        return wanted in (slot.label, slot.label.rpartition(":")[2], slot.uuid)
    mapped = _MAPPER.match(device)
    if mapped and mapped[1].startswith(_LUKS):
        return _is_inside(one, mapped[1].removeprefix(_LUKS))
    group = next((layer for layer in one.lineage if layer.backend == "lvm2" and layer.kind == "table"), None)
    if group is None or slot.backend != "lvm2":
        return False
    # device-mapper doubles the hyphens of names that it joins by one (dmsetup(8))
    joined = f"{group.label.replace('-', '--')}-{slot.label.replace('-', '--')}"
    return device == f"/dev/{group.label}/{slot.label}" or (mapped is not None and mapped[1] == joined)
