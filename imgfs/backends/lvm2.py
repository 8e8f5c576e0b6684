"""LVM2: logical volumes over one or more physical volumes.

A group over several sources is a set, named by the group's identifier. Volumes that ``lvs`` shows are volumes
here; the data and the metadata of pools, the origins of caches, and the extents nobody uses are there beside
them.

Source: libvslvm, "LVM format specification" (Joachim Metz); lvm2's man pages; kernel documentation
admin-guide/device-mapper. Structures: ``_lvm2_label``, ``_lvm2_text``, ``_lvm2_group``; what volumes consist
of: ``_lvm2_volumes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._lvm2_bodies import Stack, lost_body
from imgfs.backends._lvm2_free import free
from imgfs.backends._lvm2_label import LABEL, LABEL_SECTORS, SECTOR
from imgfs.backends._lvm2_members import find
from imgfs.backends._lvm2_volumes import Volumes
from imgfs.backends._said import notes as said
from imgfs.errors import EvidenceError, NeedMembers
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._lvm2_bodies import Body
    from imgfs.backends._lvm2_group import Group, Logical, Segment
    from imgfs.backends._lvm2_members import Found

_BESIDE: Final = (
    "_tmeta",
    "_cmeta",
    "_corig",
    "_wcorig",
    "_vdata",
)  # hidden volumes an analyst may want for themselves


def open_lvm2(reader: Reader, options: Options) -> VolumeTable:
    """Read the group a physical volume belongs to.

    Raises:
        NotMine: there is no label.
        Malformed: the label is damaged.
        NeedMembers: the group has further physical volumes, or another one may know which group this is.
    """
    sources = (reader, *reader.others)
    found = find(sources)
    group = found.group
    if group is None:
        if not options.final and not all(member.empty for member in found.members.values()):
            raise NeedMembers("lvm2", "", len(found.members), 0)
        orphans = [
            f"physical volume {member.uuid} "
            + ("belongs to no group" if member.empty else "says nothing of its group")
            for member in found.members.values()
        ]
        return VolumeTable(scheme="lvm2", sector=SECTOR, volumes=(), notes=said(found.notes, orphans))
    if not options.final and found.missing:
        raise NeedMembers("lvm2", group.uuid, len(found.present), len(group.physical))
    stack = Stack(sources)
    volumes = Volumes(group, found.present, stack)
    table = (*_table(volumes), *_unused(volumes))
    stack.write(reader)
    return VolumeTable(
        scheme="lvm2",
        sector=SECTOR,
        volumes=table,
        uuid=group.uuid,
        label=group.name,
        notes=said(_group_notes(group, found), volumes.notes),
        layouts=tuple(stack.layouts),
        version=f"sequence {group.seqno}",
    )


def _table(volumes: Volumes) -> list[Volume]:
    """Return the volumes of a group with their layouts."""
    table: list[Volume] = []
    for slot, logical in enumerate(volumes.group.logical.values(), 1):
        store = volumes.stores.get(logical.name)
        if any(segment.kind == "snapshot" for segment in logical.segments):
            continue  # shown under the name of its store
        if store is not None and not store.text("cow_store"):
            continue  # being merged: shown in its origin
        visible = logical.visible or store is not None
        if not visible and not logical.name.endswith(_BESIDE):
            continue
        hidden = not visible or _type(volumes, logical) in ("thin-pool", "cache-pool")
        try:
            body = volumes.shown(logical)
            layout = volumes.stack.whole(body)
        except EvidenceError as why:
            volumes.say(logical.name, f"lost: {why}")
            body = lost_body(logical.size)
            layout = _nothing(volumes.stack, body)
            if layout < 0:
                continue
        count = len(volumes.stack.tickets)
        if layout < count:  # a volume has a layout of its own
            layout = volumes.stack.lay(body.size, body.runs)
        if visible and (lost := body.lost()):
            volumes.say(logical.name, _lost(lost))
        table.append(
            Volume(
                slot=slot,
                kind=SlotKind.METADATA if hidden else SlotKind.ALLOCATED,
                start=0,
                stop=body.size,
                type_name=_type(volumes, logical),
                unique_id=logical.uuid,
                label=logical.name,
                layout=layout - count,
                created_ns=logical.created_ns,
            )
        )
    return table


def _unused(volumes: Volumes) -> list[Volume]:
    """Return the free extents of each physical volume as a volume: there may be what was removed."""
    table: list[Volume] = []
    for slot, (name, physical) in enumerate(volumes.group.physical.items(), len(volumes.group.logical) + 1):
        if name not in volumes.present:
            continue
        try:
            runs = free(volumes, name)
            size = sum(length for _, length, _, _ in runs)
            if not size:
                continue
            layout = volumes.stack.lay(size, runs)
        except EvidenceError as why:
            volumes.say(name, f"its free extents are not shown: {why}")
            continue
        table.append(
            Volume(
                slot=slot,
                kind=SlotKind.UNALLOCATED,
                start=0,
                stop=size,
                type_name="free extents",
                unique_id=physical.uuid,
                label=f"unallocated-{name}",
                layout=layout - len(volumes.stack.tickets),
            )
        )
    return table


def _nothing(stack: Stack, body: Body) -> int:
    """Return a layout of what is lost; -1: there is no room for one more."""
    try:
        return stack.lay(body.size, body.runs)
    except EvidenceError:
        return -1


def _lost(ranges: list[tuple[int, int]]) -> str:
    named = ", ".join(f"[{start}, {stop})" for start, stop in ranges[:8])
    more = f" and {len(ranges) - 8} more" if len(ranges) > 8 else ""
    return f"lost, at least in part: {named}{more}"


def _type(volumes: Volumes, logical: Logical) -> str:
    """Return what kind of volume it is, as ``lvs`` says it."""
    if logical.name in volumes.stores:
        return "snapshot"
    kinds = {
        "linear" if segment.kind == "striped" and _alone(segment) else segment.kind
        for segment in logical.segments
    }
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else ""


def _alone(segment: Segment) -> bool:
    stripes = segment.section.get("stripes")
    return isinstance(stripes, list) and len(stripes) == 2  # a name and an extent


def _group_notes(group: Group, found: Found) -> list[str]:
    notes = [
        f"physical volume {name} ({group.physical[name].uuid}, {_device(group, name)}) is missing"
        for name in found.missing
    ]
    for name, ticket in found.present.items():
        size = found.members[ticket].size
        if group.physical[name].missing:
            notes.append(f"physical volume {name} was missing when the group was last changed")
        if size > 0 and group.physical[name].size and size < group.physical[name].size:
            notes.append(
                f"physical volume {name} is {size} bytes, the group says {group.physical[name].size}"
            )
    for word, meaning in (("EXPORTED", "exported"), ("CLUSTERED", "clustered"), ("PARTIAL", "partial")):
        if word in group.status:
            notes.append(f"the group is {meaning}")
    if group.host:
        notes.append(f"metadata written by host {group.host}")
    return [*notes, *found.notes]


def _device(group: Group, name: str) -> str:
    return f"last seen as {group.physical[name].device}" if group.physical[name].device else "never seen"


BACKEND = Backend(
    name="lvm2",
    title="LVM2 volume group",
    role=Role.VOLUMES,
    rank=10,  # a physical volume may keep the boot sector of what was there before
    signatures=tuple(Signature(sector * SECTOR, LABEL) for sector in range(LABEL_SECTORS)),
    open=open_lvm2,
    supports="several physical volumes, some may be missing; linear, striped, mirror, RAID 0/1/4/5/6/10; "
    "thin pools, volumes, snapshots; old snapshots; caches",
    truth=("kernel", "composed"),
)
