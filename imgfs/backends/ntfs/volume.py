"""One volume: its geometry, its files with all records they are spread over, and bytes of attributes.

A file whose attributes do not fit one record has a list of them. What a list names and what cannot be
had is said in ``File.damaged``; a record that does not name the file as its base is not read for it.

Source: NTFS documentation of the Linux-NTFS project, "$ATTRIBUTE_LIST", "FILE record", "$MFT".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.ntfs.lznt1 import Packed
from imgfs.backends.ntfs.record import (
    ATTRIBUTE_LIST,
    DATA,
    IN_USE,
    REFERENCE,
    Attribute,
    Mft,
    State,
    next_sequence,
    parse,
    state_of,
    unfixed,
    utf8,
)
from imgfs.backends.ntfs.runs import Extents, clipped, pairs
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row
    from imgfs.backends.ntfs.boot import Boot

_LISTED = struct.Struct("<IHBBQQH")  # type, length, letters, name, lowest, reference, id
_LIST_MAX: Final = 1 << 20  # bytes: 32,768 entries; Windows stops at 256 KiB
_UNIT_BITS: Final = 4  # log2 of clusters per compression unit: NTFS knows no other
_RECORDS_MAX: Final = 64 << 20  # bytes of records of one file
_EXTENSIONS: Final = 16  # bits of an attribute's number within its record; above: which record


Parts = list[Attribute]  # of one attribute, in the order of its clusters
_Entry = tuple[int, bytes, int, int, int]  # type, name, lowest cluster, reference, number
_Held = dict[tuple[int, bytes, int, int], Attribute]  # by type, name, lowest cluster, number


class File(NamedTuple):
    """One file. ``attributes`` have numbers that are unique in it; ``damaged`` says what is missing."""

    number: int
    state: State
    attributes: list[Attribute]
    damaged: str


class Volume:
    """Records and attributes of one volume. Units: ``cluster`` and ``size`` bytes."""

    __slots__ = ("cluster", "index_block", "mft", "reader", "size")

    def __init__(self, reader: Reader, boot: Boot) -> None:
        """Find the table of records. Raises Malformed: its own record says not where it lies."""
        self.reader = reader
        self.cluster = boot.cluster
        self.index_block = boot.index_block
        self.size = min(boot.size // boot.cluster * boot.cluster, reader.size)
        self.mft = self._table(boot)

    def file(self, number: int) -> File:
        """Return a file, in use or not, with the attributes of all its records.

        Raises:
            Malformed: its record cannot be read, or is a part of another file.
        """
        record = self.mft.record(number)
        state = state_of(record)
        if state.base & REFERENCE:
            raise Malformed(f"MFT record {number} is a part of file {state.base & REFERENCE}")
        own: list[Attribute] = []
        damaged = ""
        try:
            own.extend(parse(record))
        except EvidenceError as why:
            damaged = f"MFT record {number}: {why.message}"
        for attribute in own:
            if attribute.type == ATTRIBUTE_LIST:
                return self._listed(number, state, own, attribute, damaged)
        return File(number, state, own, damaged)

    def rows(self, parts: Parts) -> list[Row]:
        """Return the runs of a non-resident attribute, whole clusters, as far as they are known.

        Raises:
            Malformed: parts that overlap, a bad mapping pair, or more runs than a file may have.
        """
        rows: list[Row] = []
        for part in parts:
            start = part.lowest * self.cluster
            if rows and start < rows[-1][0] + rows[-1][1]:
                raise Malformed(f"two records hold the runs at {start} of a stream")
            rows += pairs(part.content, 0, len(part.content), self.cluster, start)[0]
            if len(rows) > MAX_RUNS:
                raise Malformed(f"more than {MAX_RUNS} runs")
        return rows

    def extents(self, parts: Parts) -> Extents:
        """Return a non-resident attribute to be read. Raises Malformed as ``rows`` does."""
        first = parts[0]
        return Extents(self.reader, clipped(self.rows(parts), first.size, first.valid, self.size), first.size)

    def packed(self, parts: Parts) -> Packed:
        """Return a compressed stream to be read. Raises Malformed as ``rows`` does."""
        rows, first = self.rows(parts), parts[0]
        stop = rows[-1][0] + rows[-1][1] if rows else 0
        extents = Extents(self.reader, clipped(rows, stop, stop, self.size), stop)
        if first.unit > _UNIT_BITS:
            raise Malformed(f"compression units of 2^{first.unit} clusters")
        return Packed(self.reader, extents, first.size, first.valid, self.cluster << first.unit)

    def value(self, parts: list[Attribute], limit: int) -> bytes:
        """Return the bytes of an attribute, those of a longer one up to ``limit``.

        Raises:
            EvidenceError: they are lost, or their runs contradict each other.
        """
        if parts[0].resident:
            return parts[0].content[:limit]
        extents = self.extents(parts)
        return extents.read(0, min(extents.size, limit))

    def _listed(
        self, number: int, state: State, own: list[Attribute], listed: Attribute, damaged: str
    ) -> File:
        """Return a file with what the list of its attributes names, in the list's order."""
        entries: list[_Entry] = []
        try:
            entries.extend(_entries(self._list(listed, released=not state.flags & IN_USE)))
        except EvidenceError as why:
            if not entries or state.flags & IN_USE:
                damaged = damaged or f"attribute list of file {number}: {why.message}"
            if not entries:
                return File(number, state, own, damaged)
        records: dict[int, tuple[int, _Held]] = {number: (0, _held(own))}
        found = [listed]
        for kind, name, lowest, reference, ident in entries:
            other = reference & REFERENCE
            known = records.get(other)
            if known is None:
                try:
                    if len(records) * self.mft.record_size > _RECORDS_MAX:
                        raise Malformed(f"more than {_RECORDS_MAX} bytes of records")
                    held = _held(self._extension(reference, number, state))
                except EvidenceError as why:
                    held = {}
                    damaged = damaged or f"attribute list of file {number}: {why.message}"
                known = records[other] = len(records), held
            order, held = known
            attribute = held.pop((kind, name, lowest, ident), None)
            if attribute is not None:
                found.append(attribute._replace(id=order << _EXTENSIONS | ident) if order else attribute)
            else:
                damaged = damaged or f"record {other} holds no attribute {kind:#x} of file {number}"
        return File(number, state, found, damaged)

    def _list(self, listed: Attribute, *, released: bool) -> bytes:
        """Return an attribute list, of a released file with what lies behind it in its clusters.

        Whoever deletes a file may shorten the list and not write it again: the old one is still there.
        What it names counts only if it names the file as its base.
        """
        if listed.resident or not released:
            return self.value([listed], _LIST_MAX)
        rows = self.rows([listed])
        stop = min(rows[-1][0] + rows[-1][1] if rows else 0, _LIST_MAX)
        return Extents(self.reader, clipped(rows, stop, stop, self.size), stop).read(0, stop)

    def _extension(self, reference: int, number: int, base: State) -> list[Attribute]:
        """Return the attributes of a record that extends a file.

        Raises:
            Malformed: it belongs to another file, or was given to one since.
        """
        other = reference & REFERENCE
        record = self.mft.record(other)
        state = state_of(record)
        released = not base.flags & IN_USE
        if (
            state.base & REFERENCE != number
            or (state.flags ^ base.flags) & IN_USE
            or not same_file(reference >> 48, state.sequence, released=released)
            or not same_file(state.base >> 48, base.sequence, released=released)
        ):
            raise Malformed(f"MFT record {other} is no part of it")
        return list(parse(record))

    def _table(self, boot: Boot) -> Mft:
        why: EvidenceError | None = None
        for place in (boot.mft_at, boot.mirror_at):
            try:
                return self._table_at(place, boot.record)
            except EvidenceError as found:
                why = why or found
        assert why is not None  # noqa: S101  # both places failed
        raise why

    def _table_at(self, place: int, size: int) -> Mft:
        """Return the table by its first record. Its own attribute list leads from run to run."""
        record = unfixed(self.reader.read(place, size), b"FILE", "MFT record", 0)
        own = list(parse(record))
        parts = [a for a in own if a.type == DATA and not a.name and not a.resident and not a.lowest]
        if not parts:
            raise Malformed("the table of files has no runs")
        mft = self._mft(parts, size)
        listed = next((a for a in own if a.type == ATTRIBUTE_LIST), None)
        if listed is None:
            return mft
        state = state_of(record)
        named = sorted(
            (lowest, reference, ident)
            for kind, name, lowest, reference, ident in _entries(self.value([listed], _LIST_MAX))
            if kind == DATA and not name and lowest
        )
        for lowest, reference, ident in named:
            try:
                self.mft = mft
                more = self._extension(reference, 0, state)
            except EvidenceError:
                break  # what lies behind is not known
            parts += [a for a in more if (a.type, a.lowest, a.id, a.name) == (DATA, lowest, ident, b"")][:1]
            mft = self._mft(parts, size)
        return mft

    def _mft(self, parts: list[Attribute], size: int) -> Mft:
        rows = self.rows(parts)
        stop = min(parts[0].size, parts[0].valid, rows[-1][0] + rows[-1][1] if rows else 0)
        extents = Extents(self.reader, clipped(rows, stop, stop, self.size), stop)
        # no table is larger than its volume, whatever its runs say of clusters named twice
        count = min(stop, self.size) // size
        if not count:
            raise Malformed("the table of files is empty")
        return Mft(extents, size, count)


def same_file(named: int, sequence: int, *, released: bool) -> bool:
    """Say whether a record still is what a reference names: releasing one counts its sequence up."""
    return named == sequence or (released and next_sequence(named) == sequence)


def sequences_of(state: State) -> tuple[int, ...]:
    """Return the sequence numbers of references that mean the file a record holds."""
    own = state.sequence
    return (own,) if state.flags & IN_USE else (own - 1 or 0xFFFF, own)


def parts_of(file: File, kind: int, name: bytes) -> Parts:
    """Return the parts of one attribute in the order of its clusters, empty: there is none.

    Raises:
        Malformed: its first part is missing.
    """
    found = [a for a in file.attributes if a.type == kind and a.name == name]
    return in_order(file.number, found) if found else found


def in_order(number: int, parts: Parts) -> Parts:
    """Return the parts of one attribute of a file in order. Raises Malformed: the first is missing."""
    found = sorted(parts, key=_order)
    if found[0].lowest:
        raise Malformed(f"file {number}: the first runs of attribute {found[0].type:#x} are missing")
    return found[:1] if found[0].resident else found


def _held(attributes: list[Attribute]) -> _Held:
    return {(a.type, a.name, a.lowest, a.id): a for a in attributes}


def _order(attribute: Attribute) -> int:
    return attribute.lowest


def _entries(content: bytes) -> Iterator[_Entry]:
    """Yield type, name, lowest cluster, reference and number of what a list names.

    Raises:
        Malformed: an entry leaves the list.
    """
    at = 0
    while at + _LISTED.size <= len(content):
        kind, length, letters, name_at, lowest, reference, ident = _LISTED.unpack_from(content, at)
        if not kind:
            return
        if length < _LISTED.size or at + length > len(content) or name_at + 2 * letters > length:
            raise Malformed(f"entry of {length} bytes at {at}")
        name = utf8(content[at + name_at : at + name_at + 2 * letters]) if letters else b""
        yield kind, name, lowest, reference, ident
        at += length
