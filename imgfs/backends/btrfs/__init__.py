"""btrfs: every subvolume and snapshot a tree, on one device or several.

Source: btrfs.readthedocs.io, "Btrfs design / On-disk format", btrfs(5), mkfs.btrfs(8).

The devices of a file system are opened together. What lies on one that is missing comes from copies or
parity, else it is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.btrfs.checksums import Checksums
from imgfs.backends.btrfs.files import BtrfsFiles
from imgfs.backends.btrfs.nodes import Gap, Nodes
from imgfs.backends.btrfs.profiles import Chunk, item_length, parsed
from imgfs.backends.btrfs.space import Space
from imgfs.backends.btrfs.subvolumes import FIRST, Roots
from imgfs.backends.btrfs.superblock import AT, MAGIC, STRIPE_TREE, read_superblock
from imgfs.errors import EvidenceError, Malformed, NeedMembers, NotMine
from imgfs.model import FilesInfo, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Files, Options, Reader
    from imgfs.backends.btrfs.space import Member
    from imgfs.backends.btrfs.superblock import Root, Superblock

_KEY: Final = 17
_CHUNK_ITEM: Final = 228
_CHUNK_TREE: Final = 256
_CSUM_TREE: Final = 7
_SAID: Final = 64  # subvolumes named in notes
_NOTE, _NOTES = 1000, 100_000  # characters of a note, and of all


def open_btrfs(reader: Reader, options: Options) -> Files:
    """Open a file system from all of its devices that are there.

    Raises:
        NotMine: no superblock.
        Malformed: no superblock or root that is whole.
        NeedMembers: there are more devices, and more may come.
        NotSupported: features that lay it out in another way.
    """
    members, blocks, notes = _members(reader)
    head = max(blocks, key=lambda block: block.generation)
    if len(members) < head.devices and not options.final:
        raise NeedMembers("btrfs", head.uuid, len(members), head.devices)
    if len(members) < head.devices:
        notes.append(f"{head.devices - len(members)} of {head.devices} devices are missing")
    space, nodes, roots = _assembled(head, members, blocks, 1 + len(reader.others), notes)
    subvolumes = roots.subvolumes()
    if not subvolumes:
        raise Malformed("; ".join(["btrfs: there is no tree of files", *roots.notes, *notes])[:2000])
    if head.log:
        notes.append("a log of what was written last is not replayed: it may hold newer states of files")
    default = next((one for one in subvolumes if one.number == roots.default), None)
    if default is not None and default.path:
        notes.append(f"default subvolume: {default.name}")
    said = [one.said() for one in subvolumes if one.path][:_SAID]
    found = roots.trees.get(_CSUM_TREE)
    checksums = _checksums(nodes, space, found[0] if found else None, head)
    if checksums is None:
        notes.append("the tree of checksums cannot be read: contents are shown without comparing them")
    info = FilesInfo(
        type="btrfs",
        trees=tuple(
            [
                TreeInfo(name, FIRST, number=one.number, chosen=one.number == roots.default)
                for name, one in zip(roots.names(subvolumes), subvolumes, strict=True)
            ]
        ),
        block=head.sector,
        size=head.size,
        label=head.label,
        uuid=head.uuid,
        notes=_bounded(notes + roots.notes + space.missing() + said),
    )
    return BtrfsFiles(head, space, nodes, subvolumes, roots.default, checksums, info)


def _bounded(notes: list[str]) -> tuple[str, ...]:
    """Return notes as far as there is room for them."""
    kept, room = [], _NOTES
    for note in notes:
        room -= len(note[:_NOTE])
        if room < 0:
            kept.append("and more")
            break
        kept.append(note[:_NOTE])
    return tuple(kept)


def _assembled(
    head: Superblock,
    members: dict[tuple[int, bytes], Member],
    blocks: list[Superblock],
    tickets: int,
    notes: list[str],
) -> tuple[Space, Nodes, Roots]:
    """Return the address space and the trees, without devices that are behind if that loses nothing.

    One that was away while the others were written to holds old data, which only checksums would tell.

    Raises:
        Malformed: no root can be read.
    """
    fresh = {block.device.key for block in blocks if block.generation == head.generation}
    choices = [{key: member for key, member in members.items() if key in fresh}, members]
    for chosen in choices[len(fresh) == len(members) :]:
        said: list[str] = []
        space = Space(chosen, tickets, unmapped=bool(head.incompat & STRIPE_TREE))
        space.fill(_system(head, said))
        nodes = Nodes(space, head)
        try:
            roots = _roots(head, space, nodes, said)
        except Malformed:
            if chosen is members:
                raise
            continue
        if chosen is members or not space.missing():
            if chosen is not members:
                notes.append("devices that are behind are left out: nothing is missing without them")
            notes += said
            return space, nodes, roots
    raise Malformed("btrfs: no root can be read")


def _checksums(nodes: Nodes, space: Space, root: Root | None, head: Superblock) -> Checksums | None:
    """Return the checksums of data, None: their tree has no root that can be read."""
    if root is None:
        return None
    try:
        nodes.node(root.at, root.level, root.generation)
    except EvidenceError:
        return None
    return Checksums(nodes, space, root, head)


def _members(
    reader: Reader,
) -> tuple[dict[tuple[int, bytes], Member], list[Superblock], list[str]]:
    """Return the devices by number and uuid, the superblocks of the newest state, and what is to be said."""
    found: list[tuple[int, Reader, Superblock]] = []
    notes: list[str] = []
    failed: Exception | None = None
    for ticket, source in enumerate((reader, *reader.others)):
        try:
            found.append((ticket, source, read_superblock(source)))
        except (NotMine, EvidenceError) as why:
            failed = failed or why
            notes.append(f"source {ticket}: {why}")
    if not found:
        raise failed or NotMine("btrfs")
    names = [block.fsid for _, _, block in found]
    fsid = max(names, key=names.count)
    members: dict[tuple[int, bytes], Member] = {}
    blocks = []
    newest = max(block.generation for _, _, block in found if block.fsid == fsid)
    for ticket, source, block in sorted(found, key=lambda one: -one[2].generation):
        who = f"source {ticket} (device {block.device.number})"
        notes += [f"{who}: {note}" if reader.others else note for note in block.notes]
        key = block.device.key
        if block.fsid != fsid:
            notes.append(f"{who}: of another file system, {block.uuid}")
        elif key in members:
            notes.append(f"{who}: another copy of the same device, left out")
        else:
            if block.generation != newest:
                notes.append(f"{who}: of generation {block.generation}, the newest is {newest}")
            if source.size < block.device.size:
                notes.append(f"{who}: {source.size} bytes are there of {block.device.size}")
            members[key] = (ticket, source)
            blocks.append(block)
    return members, blocks, notes


def _system(head: Superblock, notes: list[str]) -> Iterator[Chunk]:
    """Yield the chunks that the superblock names, in which the tree of all others lies."""
    data, at = head.system, 0
    while at + _KEY < len(data):
        start = int.from_bytes(data[at + 9 : at + _KEY], "little")
        item = data[at + _KEY :]
        try:
            yield parsed(start, item)
        except Malformed as why:
            notes.append(f"system {why.message}")
            return
        at += _KEY + item_length(item)


def _chunks(nodes: Nodes, root: Root, notes: list[str]) -> list[Chunk]:
    """Return the chunks of a tree of them."""
    found = []
    first, stop = (_CHUNK_TREE, _CHUNK_ITEM, 0), (_CHUNK_TREE, _CHUNK_ITEM + 1, 0)
    for item in nodes.items(root, first, stop):
        if isinstance(item, Gap):
            notes.append(f"chunk tree: {item.why}")
            continue
        try:
            found.append(parsed(item.key[2], item.data))
        except Malformed as why:
            notes.append(why.message)
    return found


def _roots(head: Superblock, space: Space, nodes: Nodes, notes: list[str]) -> Roots:
    """Return the trees, from the newest root that can be read."""
    tried: list[str] = []
    for number, (root, chunks) in enumerate(((head.root, head.chunks), *head.backups)):
        said: list[str] = []
        space.fill(_chunks(nodes, chunks, said))
        try:
            nodes.node(root.at, root.level, root.generation)
        except EvidenceError as why:
            tried.append(f"root of generation {root.generation}: {why.message}")
            continue
        found = Roots(nodes, root)
        if not found.trees:
            tried += found.notes
            continue
        notes += said + tried
        if number:
            notes.append(f"read from a backup root, of generation {root.generation}")
        return found
    raise Malformed("; ".join(["btrfs: no root can be read", *tried, *notes])[:2000])


BACKEND = Backend(
    name="btrfs",
    title="btrfs",
    role=Role.FILES,
    rank=26,
    signatures=(Signature(AT + 64, MAGIC),),
    open=open_btrfs,
    sets=True,
    imports=("zstandard",),  # for inline content, which the worker decodes
    supports="subvolumes, all profiles, several devices, compression, checksums; not: log, fscrypt",
    truth=("kernel", "corpus"),
)
