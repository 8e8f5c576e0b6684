"""Which sources are the physical volumes of one group, and which copy of its metadata holds.

The newest intact copy of the group that most sources speak of counts; sources it does not name are strangers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs.backends._lvm2_group import read_group
from imgfs.backends._lvm2_label import read_member
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader
    from imgfs.backends._lvm2_group import Group
    from imgfs.backends._lvm2_label import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the sources are. ``present`` maps the group's physical volumes to tickets."""

    group: Group | None
    members: dict[int, Member]
    present: dict[str, int]
    notes: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Return the physical volumes no source is."""
        return [name for name in self.group.physical if name not in self.present] if self.group else []


def find(sources: Sequence[Reader]) -> Found:
    """Read the labels and the metadata of all sources.

    Raises:
        NotMine: none of them has a label.
        Malformed: the only one is damaged.
    """
    members: dict[int, Member] = {}
    notes: list[str] = []
    for ticket, source in enumerate(sources):
        try:
            members[ticket] = read_member(source)
        except NotMine:
            notes.append(f"source {ticket + 1} is no physical volume")
        except EvidenceError as why:
            if len(sources) == 1:
                raise
            notes.append(f"source {ticket + 1}: {why}")
    if not members:
        raise NotMine("lvm2")
    groups: dict[bytes, Group] = {}
    held: dict[int, list[Group]] = {}
    for ticket, member in members.items():
        notes += (_of(ticket, len(sources), note) for note in member.notes)
        for text in member.texts:
            try:
                if text.data not in groups:
                    groups[text.data] = read_group(text.data)
            except Malformed as why:
                notes.append(_of(ticket, len(sources), f"metadata area at {text.start}: {why}"))
                continue
            held.setdefault(ticket, []).append(groups[text.data])
    group = _chosen(held)
    if group is None:
        return Found(group=None, members=members, present={}, notes=tuple(notes))
    present: dict[str, int] = {}
    names = {physical.uuid: name for name, physical in group.physical.items()}
    seen = {
        ticket: max((each.seqno for each in held.get(ticket, ()) if each.uuid == group.uuid), default=-1)
        for ticket in members
    }
    for ticket, own in sorted(seen.items(), key=lambda item: -item[1]):  # of two copies the newer one
        member = members[ticket]
        name = names.get(member.uuid)
        if name is None:
            notes.append(_stranger(ticket, member, held.get(ticket, []), group))
        elif name in present:
            notes.append(f"source {ticket + 1} is {name} once more, and left out")
        else:
            present[name] = ticket
            if 0 <= own < group.seqno:
                notes.append(f"{name} was missing for a while: its metadata is number {own}")
    return Found(group=group, members=members, present=present, notes=tuple(notes))


def _of(ticket: int, count: int, note: str) -> str:
    return note if count == 1 else f"source {ticket + 1}: {note}"


def _chosen(held: dict[int, list[Group]]) -> Group | None:
    """Return the newest copy of the group that most sources hold."""
    votes = Counter(uuid for groups in held.values() for uuid in {group.uuid for group in groups})
    copies = [group for groups in held.values() for group in groups]
    return max(copies, key=lambda group: (votes[group.uuid], group.seqno), default=None)


def _stranger(ticket: int, member: Member, groups: list[Group], group: Group) -> str:
    if any(each.uuid == group.uuid for each in groups):
        said = f"left the group, its metadata is number {max(each.seqno for each in groups)}"
    elif groups:
        said = f"belongs to group {groups[0].name} ({groups[0].uuid})"
    elif member.empty:
        said = "belongs to no group"
    else:
        said = "is not named by the group"
    return f"source {ticket + 1} (physical volume {member.uuid}) {said}"
