"""One walk of all MFT records, and one of all names: what the deleted tree is told from.

Both are done in steps, so that no call takes long. Units: one byte of state and two of sequence a record.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "$FILE_NAME", "File reference".
"""

from __future__ import annotations

import re
import struct
import time
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.ntfs.index import Index
from imgfs.backends.ntfs.record import (
    ATTRIBUTE_LIST,
    DATA,
    DIRECTORY,
    FILE_NAME,
    IN_USE,
    REFERENCE,
    SHORT,
    state_of,
    unfixed,
    utf8,
)
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.backends.ntfs.record import Attribute
    from imgfs.backends.ntfs.volume import Volume

FIRST: Final = 24  # records below are the file system's own or reserved
NOTHING: Final = 0  # a record that is no file's, or was never used
LIVE, NAMED = 1, 3  # in use; and named by a directory
RELEASED, PLACED = 2, 4  # not in use; and shown in its directory
_ORPHAN = re.compile(b"[\x01\x02]")
_WINDOW: Final = 1024  # records read at once
_NAMES_MAX: Final = 2_000_000  # of files not in use: 260 MiB at worst
_FIRST = struct.Struct("<H")  # of a record at byte 20: its first attribute
_HEAD = struct.Struct("<IIB")  # type, length, non-resident
_VALUE = struct.Struct("<IH")  # from byte 16 of a resident attribute
_END: Final = 0xFFFFFFFF
_OFTEN: Final = 255  # names between two steps, less one


class Stated(NamedTuple):
    """A name a record states: the reference of its directory, the name, whether it is a short one."""

    parent: int
    name: bytes
    short: bool


Statements = list[Stated]


class Scan:
    """Which records are in use, which were released, and what those name as their directories.

    ``damaged`` says what was left out.
    """

    __slots__ = (
        "_children",
        "_directories",
        "_following",
        "_heads",
        "_names",
        "_records",
        "_sequences",
        "_states",
        "_volume",
        "damaged",
    )

    def __init__(self, volume: Volume) -> None:
        count = volume.mft.count
        self._volume = volume
        self._states = bytearray(count)
        self._sequences = array("H", bytes(2 * count))
        self._directories = array("q")  # in use
        self._heads: dict[int, int] = {}  # by reference of a directory: its newest row of the two columns
        self._children = array("q")  # a record, and the row before it of the same directory, -1: none
        self._following = array("q")
        self._records: Iterator[None] | None = self._read_records()
        self._names: Iterator[None] | None = self._read_names()
        self.damaged = ""

    def has_records(self, deadline: float) -> bool:
        """Walk the records until a time; says whether all are known."""
        if self._records is not None and not _ended(self._records, deadline):
            return False
        self._records = None
        return True

    def has_names(self, deadline: float) -> bool:
        """Walk records and names until a time; says whether all are known."""
        if not self.has_records(deadline):
            return False
        if self._names is not None and not _ended(self._names, deadline):
            return False
        self._names = None
        return True

    def state(self, number: int) -> tuple[int, int]:
        """Return what a record is, and its sequence."""
        if not 0 <= number < len(self._states):
            return NOTHING, 0
        return self._states[number], self._sequences[number]

    def children(self, number: int, sequences: Iterable[int]) -> Iterator[int]:
        """Yield the released records that name a directory as theirs."""
        for sequence in sequences:
            row = self._heads.get(sequence << 48 | number, -1)
            while row >= 0:
                yield self._children[row]
                row = self._following[row]

    def next_unnamed(self, number: int) -> int:
        """Return the first record from ``number`` on that may be an orphan, -1: there is none."""
        found = _ORPHAN.search(self._states, max(number, FIRST))
        return -1 if found is None else found.start()

    def stated(self, number: int) -> list[Stated]:
        """Return the names a file states, long ones first. Raises EvidenceError."""
        names, _, listed = _quick(self._volume.mft.record(number))
        return names_of(self._volume.file(number).attributes) if listed else names

    def place(self, parents: Iterable[int]) -> None:
        """Note that what was released below these directories is shown in them."""
        for parent in parents:
            row = self._heads.get(parent, -1)
            while row >= 0:
                self._states[self._children[row]] = PLACED
                row = self._following[row]

    def parents(self) -> list[int]:
        """Return the references of all directories that released records name."""
        return list(self._heads)

    def _read_records(self) -> Iterator[None]:
        mft = self._volume.mft
        size = mft.record_size
        number = 0
        while number < mft.count:
            try:
                window = mft.window(number, _WINDOW)
            except EvidenceError:
                window = b""
            if len(window) < size:  # a record in two runs, or none there
                self._one(number)
                number += 1
                if not number & _OFTEN:
                    yield
                continue
            for at in range(0, len(window), size):
                if window[at : at + 4] != b"FILE":
                    continue
                here = number + at // size
                flags = window[at + 22]
                if not flags & IN_USE:
                    self._released(here, window[at : at + size])
                    yield
                elif window[at + 32 : at + 38] == b"\0\0\0\0\0\0":
                    self._states[here] = LIVE
                    self._sequences[here] = window[at + 16] | window[at + 17] << 8
                    if flags & DIRECTORY:
                        self._directories.append(here)
            number += len(window) // size
            yield

    def _one(self, number: int) -> None:
        try:
            record = self._volume.mft.record(number)
        except EvidenceError:
            return
        state = state_of(record)
        if not state.flags & IN_USE:
            self._note(number, record)
        elif not state.base & REFERENCE:
            self._states[number] = LIVE
            self._sequences[number] = state.sequence
            if state.flags & DIRECTORY:
                self._directories.append(number)

    def _released(self, number: int, raw: bytes) -> None:
        try:
            self._note(number, unfixed(raw, b"FILE", "MFT record", number))
        except EvidenceError:
            return

    def _note(self, number: int, record: bytes) -> None:
        """Remember a released record with names or content."""
        state = state_of(record)
        if state.base & REFERENCE or number < FIRST:
            return
        names, content, listed = _quick(record)
        if listed:
            try:
                attributes = self._volume.file(number).attributes
            except EvidenceError:
                return
            names, content = names_of(attributes), any(a.type == DATA for a in attributes)
        if not names and not content:
            return
        self._states[number] = RELEASED
        self._sequences[number] = state.sequence
        for parent in {found.parent for found in names}:
            if len(self._children) >= _NAMES_MAX:
                self.damaged = f"more than {_NAMES_MAX} names of released files"
                return
            self._following.append(self._heads.get(parent, -1))
            self._heads[parent] = len(self._children)
            self._children.append(number)

    def _read_names(self) -> Iterator[None]:
        """Note which files in use are named by a directory in use."""
        states, sequences, count = self._states, self._sequences, len(self._states)
        for directory in self._directories:
            try:
                index = Index(self._volume, self._volume.file(directory))
            except EvidenceError:
                continue
            for number, found in enumerate(index.names()):
                if (
                    not isinstance(found, str)
                    and found.number < count
                    and states[found.number] == LIVE
                    and found.sequence in {0, sequences[found.number]}
                ):
                    states[found.number] = NAMED
                if not number & _OFTEN:
                    yield
            yield


def names_of(attributes: Iterable[Attribute]) -> list[Stated]:
    """Return what $FILE_NAME attributes state, long names first; short ones of a long one are left out."""
    found: list[Stated] = []
    for attribute in attributes:
        if attribute.type == FILE_NAME and attribute.resident:
            _state(attribute.content, 0, len(attribute.content), found)
    return _sorted(found)


def _state(data: bytes, at: int, length: int, found: list[Stated]) -> None:
    """Add the name a $FILE_NAME of ``length`` bytes at ``at`` states, if it holds one."""
    if length < 66 or not data[at + 64] or 66 + 2 * data[at + 64] > length:
        return
    name = utf8(data[at + 66 : at + 66 + 2 * data[at + 64]])
    found.append(Stated(int.from_bytes(data[at : at + 8], "little"), name, data[at + 65] == SHORT))


def _quick(record: bytes) -> tuple[list[Stated], bool, bool]:
    """Return the names one record states, whether it holds content, and whether it lists attributes."""
    found: list[Stated] = []
    content = listed = False
    (at,) = _FIRST.unpack_from(record, 20)
    size = len(record)
    while at + 24 <= size:
        kind, length, remote = _HEAD.unpack_from(record, at)
        if kind == _END or length < 24 or at + length > size:
            break
        if kind == FILE_NAME and not remote:
            value, value_at = _VALUE.unpack_from(record, at + 16)
            if value_at + value <= length:
                _state(record, at + value_at, value, found)
        elif kind == ATTRIBUTE_LIST:
            listed = True
        elif kind == DATA:
            content = True
        at += length
    return (_sorted(found) if len(found) > 1 else found), content, listed


def _sorted(found: list[Stated]) -> list[Stated]:
    long = {name.parent for name in found if not name.short}
    found = [name for name in found if not name.short or name.parent not in long]
    found.sort(key=_is_short)
    return found


def _is_short(name: Stated) -> bool:
    return name.short


def _ended(source: Iterator[None], deadline: float) -> bool:
    """Draw from a source until a time; says whether it ended."""
    for _ in source:  # noqa: SIM110  # an expression would hide that each turn is work
        if time.monotonic() > deadline:
            return False
    return True
