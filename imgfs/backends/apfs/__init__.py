"""APFS: every volume of a container a tree, and every snapshot of a volume.

Source: Apple File System Reference, 2020-06-22; libfsapfs, "Apple File System (APFS)".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.apfs.container import MAGIC, MAGIC_AT, open_container
from imgfs.backends.apfs.files import ApfsFiles
from imgfs.backends.apfs.records import ROOT
from imgfs.backends.apfs.states import State, snapshots_of
from imgfs.backends.apfs.volume import read_volume
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import FilesInfo, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_MOST: Final = 4000  # trees of one container
_WORDS: Final = 400_000  # characters of their names: the daemon takes a million of all texts
_NOTE, _NOTES = 1000, 100_000  # characters of a note, and of all


def open_apfs(reader: Reader, _options: Options) -> Files:
    """Open the volumes of a container.

    Raises:
        NotMine: no superblock.
        NotSupported: a Fusion drive, or features that lay it out in another way.
        Malformed: no state of it can be read, or it has no volume.
    """
    container = open_container(reader)
    head = container.head
    notes = list(container.notes)
    states: list[State] = []
    names: list[str] = []
    label = ""
    for number, oid in enumerate(head.volumes, 1):
        try:
            volume = read_volume(container, oid)
        except EvidenceError as why:
            notes.append(f"volume {number} of {len(head.volumes)}: {why.message}")
            continue
        notes.append(volume.said())
        label = label or volume.label
        states.append(State(container, volume, None, number, None))
        names.append(volume.label)
        for snapshot in snapshots_of(container, volume, notes):
            states.append(State(container, volume, snapshot, number, None))
            names.append(f"{volume.label}@{snapshot.label}")
    if not states:
        raise Malformed("; ".join(["apfs: no volume can be read", *notes])[:2000])
    if len(states) > _MOST:
        notes.append(f"{len(states)} trees: the first {_MOST} are shown")
    trees, room = [], _WORDS
    for index, name in enumerate(names[:_MOST]):
        room -= len(name)
        trees.append(TreeInfo(name if room > 0 else f"tree-{index}", ROOT))
    info = FilesInfo(
        type="apfs",
        trees=tuple(trees),
        block=head.block,
        size=head.block * head.count,
        label=label if len(head.volumes) == 1 else "",
        uuid=head.name,
        notes=_bounded(notes),
    )
    return ApfsFiles(reader, container.blocks, states[:_MOST], info)


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


BACKEND = Backend(
    name="apfs",
    title="APFS",
    role=Role.FILES,
    rank=27,
    signatures=(Signature(MAGIC_AT, MAGIC),),
    open=open_apfs,
    supports="volumes and snapshots as trees",
    truth=("peer", "corpus"),
)
