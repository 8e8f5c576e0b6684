"""The internal snapshots of QCOW2: earlier states of the disk, each with a first table of its own.

Source: QEMU docs/interop/qcow2.txt, "Snapshots". Numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import State

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._qcow2_header import Header

_ENTRY: Final = struct.Struct(">QIHHIIQII")
_SIZES: Final = struct.Struct(">QQ")  # of the state of the machine, and of the disk: what version 3 adds
_NAME: Final = 100  # characters of a name that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An entry of the list. ``number`` counts from 1; ``taken`` is in seconds since 1970.

    Units: ``l1_at`` and ``size`` bytes, -1: the disk's own; ``machine``: bytes of its state, which lie behind
    the disk.
    """

    number: int
    id: str
    name: str
    taken: int
    l1_at: int
    l1_entries: int
    size: int
    machine: int

    @property
    def state(self) -> State:
        """Return what opens it."""
        return State(f"{self.number}", f"{self.id}-{self.name}".strip("-"))

    def __str__(self) -> str:
        taken = datetime.fromtimestamp(self.taken, UTC).isoformat()
        return f"{self.id} {self.name!r} of {taken}"


def read_snapshots(reader: Reader, header: Header) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots of an image, and remarks on their list."""
    count, at = header.snapshots
    found: list[Snapshot] = []
    notes: list[str] = []
    try:
        while len(found) < min(count, limits.MAX_STATES):
            l1_at, entries, id_length, name_length, seconds, _, _, machine, extra = _ENTRY.unpack(
                reader.read(at, _ENTRY.size)
            )
            size = -1
            if extra >= _SIZES.size:
                machine, size = _SIZES.unpack(reader.read(at + _ENTRY.size, _SIZES.size))
            names_at = at + _ENTRY.size + extra
            raw = reader.read(names_at, id_length + name_length)
            shown_id, name = (
                part.decode("utf-8", "replace")[:_NAME] for part in (raw[:id_length], raw[id_length:])
            )
            found.append(
                Snapshot(
                    number=len(found) + 1,
                    id=shown_id,
                    name=name,
                    taken=seconds,
                    l1_at=l1_at,
                    l1_entries=entries,
                    size=size,
                    machine=machine,
                )
            )
            at = names_at + id_length + name_length + 7 & ~7
    except EvidenceError:
        notes.append(f"the list of internal snapshots is cut short: {len(found)} of {count} are known")
    if count > limits.MAX_STATES:
        notes.append(f"and {count - limits.MAX_STATES} more internal snapshots, which are not shown")
    return found, notes


def at_snapshot(reader: Reader, header: Header, key: str) -> Header:
    """Return the header as it was when a snapshot was taken.

    Raises:
        Malformed: there is no such snapshot, or it says what cannot be.
    """
    for snapshot in read_snapshots(reader, header)[0]:
        if snapshot.state.key == key:
            break
    else:
        raise Malformed(f"no internal snapshot {key[:32]!r}")
    size = header.size if snapshot.size < 0 else snapshot.size
    if size > limits.MAX_SIZE or snapshot.l1_at % header.cluster:
        raise Malformed(f"internal snapshot {snapshot}: {size} bytes, its first table at {snapshot.l1_at}")
    notes = [*header.notes, f"the disk as it was when internal snapshot {snapshot} was taken"]
    if snapshot.machine:
        notes.append(f"the state of the machine, {snapshot.machine} bytes behind the disk, is not shown")
    return replace(
        header,
        size=size,
        l1_at=snapshot.l1_at,
        l1_entries=snapshot.l1_entries,
        snapshots=(0, 0),
        notes=notes,
    )
