"""Linux software RAID (md).

Source: md(4), mdadm(8), "RAID superblock formats" of the Linux RAID wiki; see ``_md_super`` for what is read,
``_md_layouts`` and ``_parity`` for where data lies.

The members are opened together. The freshest superblock says which take part: who was left out, or is behind
by more than one event, holds old data and is named only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role
from imgfs.backends._md_bitmap import dirty
from imgfs.backends._md_copies import copied
from imgfs.backends._md_layouts import (
    Area,
    Plan,
    ambiguous,
    concatenated,
    mirrored,
    protected,
    striped,
)
from imgfs.backends._md_said import level, listed, name, state
from imgfs.backends._md_super import (
    FAULTY,
    IN_SYNC,
    JOURNALED,
    REPLACEMENT,
    SECTOR,
    SIGNATURES,
    SPARE,
    read_super,
)
from imgfs.errors import EvidenceError, Malformed, NeedMembers, NotMine, NotSupported
from imgfs.limits import MAX_SIZE
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._md_super import Shape, Super

_LINEAR: Final = -1
_PARITY: Final = (4, 5, 6)
_CHUNKED: Final = (0, *_PARITY, 10)
_BEHIND: Final = 1  # events: the members of one update are not written at once
_ORIGINAL, _ALTERNATE = 1, 2  # layouts of RAID 0
_SAID: Final = 16  # members named in a note


@dataclass(frozen=True, slots=True)
class Member:
    """A source with its superblock."""

    ticket: int
    reader: Reader
    block: Super


def open_md(reader: Reader, options: Options) -> VolumeTable:
    """Assemble an array from all of its members that are there.

    Raises:
        NotMine: no superblock.
        Malformed: none that is whole.
        NeedMembers: there are more, and more may come.
        NotSupported: a level or layout that cannot be laid out.
    """
    members, notes = _members(reader)
    freshest = max(members, key=lambda member: (member.block.events, member.block.updated))
    head = freshest.block
    chosen = _chosen(members, head, notes)
    if not options.final and not (len(members) == 1 + len(reader.others) and _whole(chosen, head)):
        raise NeedMembers("md", head.uuid, len(chosen), head.shape.members)
    missing = [place for place in range(_places(head)) if place not in chosen]
    if missing:
        notes.append(f"missing: {listed(f'member {place}' for place in missing)}")
    plan = Plan(tickets=1 + len(reader.others), notes=notes)
    notes += state(head)
    tops = _assembled(plan, chosen, freshest)
    volumes = tuple(
        [
            Volume(
                slot=slot,
                kind=SlotKind.ALLOCATED,
                start=0,
                stop=plan.layouts[top - plan.tickets].size,
                type_id=str(head.shape.level),
                type_name=level(head.shape),
                unique_id=head.uuid,
                label=f"{name(head)}{suffix}",
                layout=top - plan.tickets,
                created_ns=head.created_ns,
            )
            for slot, (top, suffix) in enumerate(tops, 1)
        ]
    )
    return VolumeTable(
        scheme="md",
        sector=SECTOR,
        volumes=volumes,
        uuid=head.uuid,
        label=name(head),
        notes=tuple(plan.notes),
        layouts=tuple(plan.layouts),
        version=head.version,
    )


def _members(reader: Reader) -> tuple[list[Member], list[str]]:
    """Return the sources with a superblock of the array, and what is to be said of the others."""
    found: list[Member] = []
    notes: list[str] = []
    failed: Exception | None = None
    for ticket, source in enumerate((reader, *reader.others)):
        try:
            block = read_super(source)
        except (NotMine, EvidenceError) as why:
            failed = failed or why
            notes.append(f"source {ticket}: {why}")
            continue
        found.append(Member(ticket, source, block))
    if not found:
        raise failed or NotMine("md")
    uuids = [member.block.uuid for member in found]
    uuid = max(uuids, key=uuids.count)
    members = [member for member in found if member.block.uuid == uuid]
    for member in found:
        said = member.block.notes if member in members else (f"of another array, {member.block.uuid}",)
        notes += [f"source {member.ticket}: {note}" for note in said]
    return members, notes


def _chosen(members: list[Member], head: Super, notes: list[str]) -> dict[int, Member]:
    """Return who takes part, by place."""
    chosen: dict[int, Member] = {}
    for member in sorted(members, key=lambda member: (-member.block.events, member.ticket)):
        block = member.block
        who = f"source {member.ticket} (member number {block.number})"
        role = head.roles.get(block.number, SPARE)
        if role == JOURNALED:
            notes.append(f"{who}: the journal; what only it holds is not in the array")
        elif block.events + _BEHIND < head.events:
            notes.append(f"{who}: stale, left out: {block.events} events, the array has {head.events}")
        elif role in (SPARE, FAULTY):
            notes.append(f"{who}: {'a spare' if role == SPARE else 'failed, left out'}")
        elif role >= _places(head):
            notes.append(f"{who}: place {role} of {head.shape.members}: left out")
        elif role in chosen and not (_better(block) > _better(chosen[role].block)):
            notes.append(f"{who}: another copy of member {role}, left out")
        else:
            if role in chosen:
                notes.append(f"source {chosen[role].ticket}: another copy of member {role}, left out")
            if block.recovered != IN_SYNC:
                notes.append(f"{who}: recovered up to byte {block.recovered}")
            if block.bad:
                notes.append(f"{who}: {len(block.bad)} ranges of bad blocks")
            chosen[role] = member
    return dict(sorted(chosen.items()))


def _better(block: Super) -> tuple[bool, int]:
    """Return by what two members of one place are compared: who is being replaced is whole."""
    return not block.features & REPLACEMENT, block.events


def _places(head: Super) -> int:
    """Return the number of places, in the larger one of the shapes."""
    return max(head.shape.members, head.reshape.shape.members if head.reshape else 0)


def _whole(chosen: dict[int, Member], head: Super) -> bool:
    return len(chosen) == _places(head)


def _assembled(plan: Plan, chosen: dict[int, Member], freshest: Member) -> list[tuple[int, str]]:
    """Return the sources of the array's readings, with what tells their names apart."""
    head = freshest.block
    shape = head.shape
    unsure = _unsure(plan, freshest) if shape.level in _PARITY else ()
    if head.reshape is None:
        areas = _areas(plan, chosen, shape, head)
        if shape.level == _LINEAR:
            return concatenated(plan, areas, shape)
        if shape.level == 0 and shape.layout not in (_ORIGINAL, _ALTERNATE) and ambiguous(areas, shape):
            plan.notes.append(
                "its members differ in size and its layout is not said: it is given as Linux before 3.14 "
                "reads it (original) and as later ones do (alternate)"
            )
            return [
                (striped(plan, areas, shape, original=original), f"-{name}")
                for name, original in (("original", True), ("alternate", False))
            ]
        return [(_source(plan, areas, shape, head, unsure), "")]
    new = head.reshape.shape
    before = _source(plan, _areas(plan, chosen, shape, head), shape, head, unsure)
    after = _source(plan, _areas(plan, chosen, new, head, moved=True), new, head, unsure)
    size = min(plan.layouts[source - plan.tickets].size for source in (before, after))
    at = min(head.reshape.position, size)
    plan.notes.append(
        f"reshape in progress: {level(shape)} of {shape.members} to {level(new)} of {new.members} members, "
        f"{'down' if head.reshape.backwards else 'up'} to byte {at}"
    )
    low, high = (before, after) if head.reshape.backwards else (after, before)
    runs = [(0, at, 0, low), (at, size - at, at, high)]
    if new.members == shape.members and not any(member.block.moved for member in chosen.values()):
        # In place: the section under way is in a backup file of mdadm, nobody knows how large it is.
        runs = [run for run in runs if run[3] == after]
        plan.notes.append("it is reshaped in place: what has the old shape is lost")
    return [(plan.top(size, [run for run in runs if run[1]]), "")]


def _areas(
    plan: Plan, chosen: dict[int, Member], shape: Shape, head: Super, *, moved: bool = False
) -> dict[int, Area]:
    """Return the data areas of those who take part in a shape."""
    if shape.level in _CHUNKED and (shape.chunk <= 0 or shape.chunk % SECTOR):
        raise Malformed(f"chunks of {shape.chunk} bytes")
    areas = {}
    for place, member in chosen.items():
        block = member.block
        if place >= shape.members:
            continue
        start = block.start + (block.moved if moved else 0)
        length = head.size or block.length
        if start < 0 or start + length > MAX_SIZE:
            raise Malformed(f"member {place}: data in [{start}, {start + length})")
        if start + length > member.reader.size:
            plan.notes.append(f"source {member.ticket} ends before the data of member {place} does")
        bad = tuple([(max(a - start, 0), b - start) for a, b in block.bad if b > start])
        areas[place] = Area(
            which=plan.area(member.ticket, member.reader.size, start, length, bad),
            length=length,
            recovered=block.recovered,
            bad=bad,
        )
    return areas


def _unsure(plan: Plan, freshest: Member) -> tuple[tuple[int, int], ...]:
    """Return the ranges of members where parity may not fit the data."""
    head = freshest.block
    if head.resynced == IN_SYNC:
        return ()
    if head.resynced:
        return ((head.resynced, MAX_SIZE),)
    found = dirty(freshest.reader, head)
    if found is None:
        return ((0, MAX_SIZE),)
    plan.notes.append(f"by its bitmap {sum(b - a for a, b in found)} bytes of each member were being written")
    return found


def _source(
    plan: Plan, areas: dict[int, Area], shape: Shape, head: Super, unsure: tuple[tuple[int, int], ...]
) -> int:
    """Return the source of the whole array in one shape."""
    match shape.level:
        case 0:
            return striped(plan, areas, shape, original=shape.layout == _ORIGINAL)
        case 1 | -4:
            size = head.size or min([area.length for area in areas.values()], default=0)
            return mirrored(plan, areas, shape, size)
        case 4 | 5 | 6:
            return protected(plan, areas, shape, head.size, unsure)
        case 10:
            return copied(plan, areas, shape, head.size)
        case _:
            raise NotSupported(f"md level {shape.level}: imgfs cannot lay it out")


BACKEND = Backend(
    name="md",
    title="Linux RAID (md)",
    role=Role.VOLUMES,
    rank=5,  # before the tables and file systems that the first member of some levels seems to hold
    signatures=SIGNATURES,
    open=open_md,
    supports="0.90 to 1.2; linear, 0, 1, 4, 5, 6, 10 in all layouts; missing members solved; reshapes",
    truth=("kernel",),
)
