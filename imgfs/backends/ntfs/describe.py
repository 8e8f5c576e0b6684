"""Files as entries: attributes, streams, and where the bytes of a stream lie.

One pass over the record serves a listing, a stat and a layout. A file of several records is put together
by ``Volume`` first.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "Standard and non-resident
attribute header", "$STANDARD_INFORMATION"; [MS-FSCC] 2.6 (file attributes).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import linear
from imgfs.backends.ntfs.extended import EA, EA_MAX
from imgfs.backends.ntfs.record import (
    ATTRIBUTE_LIST,
    COMPRESSED,
    DATA,
    ENCRYPTED,
    IN_USE,
    INDEX_ALLOCATION,
    INDEX_ROOT,
    REFERENCE,
    REPARSE,
    STANDARD,
    filetime,
)
from imgfs.backends.ntfs.reparse import REPARSE_MAX, kind_of, resolved, told
from imgfs.backends.ntfs.runs import clipped, pairs
from imgfs.backends.ntfs.streams import Data, light, plain, stream_attr
from imgfs.backends.ntfs.volume import in_order, parts_of
from imgfs.errors import EvidenceError, ImgfsError, Malformed, NotFound, NotSupported
from imgfs.limits import INLINE_MAX, MAX_SIZE
from imgfs.model import Attr, Entry, Foreign, Inline, Kind, Layout

if TYPE_CHECKING:
    from imgfs.backends.ntfs.volume import File, Parts, Volume

INDEX_NAME: Final = b"$I30"
_I30: Final = "$I30".encode("utf-16-le")
_EFS: Final = "EFS: the key is not in the image"
_STALE: Final = "the name refers to an earlier file of this MFT record"
_FREE: Final = "the MFT record is not in use"
_END: Final = 0xFFFFFFFF
_MAX_ATTRIBUTES: Final = 4096  # a record of 64 KiB holds fewer
_RECORD = struct.Struct("<HHHHIIQ")  # from byte 16: sequence, links, attributes, flags, used, room, base
_HEAD = struct.Struct("<IIBBHHH")  # type, length, non-resident, letters, name, flags, id
_VALUE = struct.Struct("<IH")  # from byte 16 of a resident attribute
_REMOTE = struct.Struct("<QQHHIQQQ")  # from byte 16: lowest, highest, runs, unit, -, room, size, valid
_STANDARD = struct.Struct("<4QI")  # born, modified, changed, accessed, attributes
_READ_ONLY: Final = 0x1


_Found = tuple[Attr, list[Data], Data | None]  # of a file, its streams, its content


class Describer:
    """Describes the files of one volume.

    ``numbers`` is added to the numbers of files; ``released`` says that those not in use count too.
    """

    __slots__ = ("_cluster", "_mft", "_numbers", "_released", "_size", "_volume")

    def __init__(self, volume: Volume, numbers: int = 0, *, released: bool = False) -> None:
        self._volume = volume
        self._mft = volume.mft
        self._cluster = volume.cluster
        self._size = volume.size
        self._numbers = numbers
        self._released = released

    def entries(self, number: int, name: bytes, sequence: int = 0) -> list[Entry]:
        """Return the entry of a file and those of its streams.

        ``sequence`` is that of the reference that names the file, 0: any.

        Raises:
            EvidenceError: the record is no file's, or another one's by now.
        """
        attr, streams, content = self._read(number, sequence, -1)
        entries = [Entry(name, attr, 0, light(plain(attr, content)))]
        for data in streams:
            stream = stream_attr(attr, data)
            entries.append(Entry(name + b":" + data.name, stream, data.stream, light(data.layout)))
        return entries

    def layout(self, number: int, stream: int) -> Layout:
        """Return the layout of a stream.

        Raises:
            NotSupported: encrypted, or the content is kept elsewhere.
            EvidenceError: it is damaged.
            NotFound: there is no such stream.
        """
        attr, streams, content = self._read(number, 0, stream)
        if not stream:
            found = Inline(b"") if attr.kind == Kind.DIR else plain(attr, content)
            if found is not None:
                return found
            raise Malformed(attr.damaged) if content is None or content.problem is None else content.problem
        for data in streams:
            if data.stream == stream:
                if data.layout is None:
                    raise data.problem or Malformed(f"file {number}: stream {stream} lies nowhere")
                return data.layout
        raise NotFound(f"file {number} has no stream {stream}")

    def _check(self, number: int, own: int, flags: int, base: int, sequence: int) -> None:
        """Refuse a record that is not the file asked for. Raises Malformed."""
        if base & REFERENCE:
            raise Malformed(f"MFT record {number} is a part of file {base & REFERENCE}")
        if not flags & IN_USE and not self._released:
            raise Malformed(_FREE)
        if sequence and own != sequence:
            raise Malformed(_STALE)

    def _read(self, number: int, sequence: int, wanted: int) -> _Found:
        """Describe a file from its one record, ``_whole`` if that is not so plain."""
        record = self._mft.record(number)
        own, links, at, flags, used, _, base = _RECORD.unpack_from(record, 16)
        if base or not flags & IN_USE or (sequence and own != sequence):
            self._check(number, own, flags, base, sequence)
        stop = min(used, len(record)) - 16
        tag = size = mode = bits = 0
        point = extended = b""
        born = modified = changed = accessed = 0
        content: Data | None = None
        streams: list[Data] = []
        unpack = _HEAD.unpack_from
        for _ in range(_MAX_ATTRIBUTES):
            if at > stop:
                break
            kind, length, remote, letters, name_at, form, ident = unpack(record, at)
            if kind == _END:
                break
            if length < 24 or at + length > stop + 16:
                return self._whole(number, wanted)
            if kind == DATA:
                data = self._data(record, at, length, remote, letters, name_at, form, ident)
                if data is None or (content is not None and not letters):
                    return self._whole(number, wanted)
                if letters:
                    streams.append(data)
                else:
                    content = data
            elif kind == STANDARD:
                value, value_at = _VALUE.unpack_from(record, at + 16)
                if remote or value < 36 or value_at + 36 > length:
                    return self._whole(number, wanted)
                born, modified, changed, accessed, bits = _STANDARD.unpack_from(record, at + value_at)
                mode = _mode(bits)
            elif kind == ATTRIBUTE_LIST:
                return self._whole(number, wanted)
            elif kind == REPARSE:
                value, value_at = _VALUE.unpack_from(record, at + 16)
                if remote or value < 4 or value_at + 4 > length:
                    return self._whole(number, wanted)
                point = record[at + value_at : at + value_at + value]
                tag = int.from_bytes(point[:4], "little")
            elif kind == EA:
                value, value_at = _VALUE.unpack_from(record, at + 16)
                if remote or value_at + value > length:
                    return self._whole(number, wanted)
                extended = record[at + value_at : at + value_at + value]
            elif kind > DATA and letters == 4:
                size = _index_size(record[at : at + length], kind, remote, name_at) or size
            at += length
        kind = kind_of(tag, flags)
        allocated, problem = 0, ""
        if content is not None and kind != Kind.DIR:
            size = content.size
        if kind == Kind.REG:
            if content is None:
                size = 0
            else:
                if tag:
                    content = resolved(point, bits, content, streams)
                allocated = content.allocated
                if content.problem is not None:
                    problem = content.problem.message
        attr = Attr(
            kind=kind,
            inum=self._numbers + number,
            generation=own,
            size=size,
            allocated=allocated,
            mode=mode,
            nlink=links,
            b_ns=filetime(born),
            m_ns=filetime(modified),
            c_ns=filetime(changed),
            a_ns=filetime(accessed),
            deleted=not flags & IN_USE,
            damaged=problem,
        )
        if point or extended:
            attr = told(attr, point, extended)
        return attr, streams, content

    def _data(
        self,
        record: bytes,
        at: int,
        length: int,
        remote: int,
        letters: int,
        name_at: int,
        form: int,
        ident: int,
    ) -> Data | None:
        name = b""
        if letters:
            if name_at + 2 * letters > length:
                return None
            text = record[at + name_at : at + name_at + 2 * letters].decode("utf-16-le", "surrogatepass")
            name = text.encode("utf-8", "surrogatepass")
        if not remote:
            value, value_at = _VALUE.unpack_from(record, at + 16)
            if value_at + value > length:
                return None
            layout = Inline(record[at + value_at : at + value_at + value])
            return Data(name, 1 + ident, value, 0, layout, None)
        if length < 64:
            return None
        lowest, _, runs_at, _, _, _, size, valid = _REMOTE.unpack_from(record, at + 16)
        if lowest or not 64 <= runs_at <= length:
            return None
        size = min(size, MAX_SIZE)
        try:
            rows, allocated = pairs(record, at + runs_at, at + length, self._cluster)
            found = self._remote(rows, size, valid, form)
        except ImgfsError as why:
            return Data(name=name, stream=1 + ident, size=size, allocated=0, layout=None, problem=why)
        return Data(name, 1 + ident, size, allocated, found, None)

    def _remote(self, rows: list[tuple[int, int, int]], size: int, valid: int, form: int) -> Layout:
        if form & ENCRYPTED:
            raise NotSupported(_EFS)
        if form & COMPRESSED:
            return Foreign(size=size, why="LZNT1")
        if not size:
            return Inline(b"")
        if len(rows) == 1:
            logical, length, target = rows[0]
            if length >= size <= valid and 0 <= target <= self._size - size:
                return linear(size, [(logical, size, target)])
        return linear(size, clipped(rows, size, valid, self._size))

    def _whole(self, number: int, wanted: int) -> _Found:
        """Describe a file of several records, or a damaged one; runs are read of ``wanted`` alone."""
        file = self._volume.file(number)
        state, damaged = file.state, file.damaged
        size = mode = bits = 0
        times: tuple[int, ...] = (0, 0, 0, 0)
        found_parts: dict[bytes, Parts] = {}
        for attribute in file.attributes:
            if attribute.type == DATA:
                found_parts.setdefault(attribute.name, []).append(attribute)
            elif attribute.type == STANDARD and len(attribute.content) >= 36 and attribute.resident:
                *found, bits = _STANDARD.unpack_from(attribute.content)
                times, mode = tuple(found), _mode(bits)
            elif attribute.type in {INDEX_ROOT, INDEX_ALLOCATION} and attribute.name == INDEX_NAME:
                size = (0 if attribute.lowest else attribute.size) or size
        point, why = self._value(file, REPARSE, REPARSE_MAX)
        extended, bad = self._value(file, EA, EA_MAX)
        damaged = damaged or why or bad
        streams = [self._parts(number, name, parts, wanted) for name, parts in found_parts.items()]
        content = next((data for data in streams if not data.name), None)
        kind = kind_of(int.from_bytes(point[:4], "little"), state.flags)
        if kind == Kind.REG and content is not None:
            if why:
                content = content._replace(layout=None, problem=Malformed(why))
            elif point:
                content = resolved(point, bits, content, streams)
        if kind != Kind.DIR:
            size = 0 if content is None else content.size
        if content is not None and content.problem is not None and kind == Kind.REG:
            damaged = damaged or content.problem.message
        born, modified, changed, accessed = times
        attr = Attr(
            kind=kind,
            inum=self._numbers + number,
            generation=state.sequence,
            size=size,
            allocated=content.allocated if content is not None and kind == Kind.REG else 0,
            mode=mode,
            nlink=state.links,
            b_ns=filetime(born),
            m_ns=filetime(modified),
            c_ns=filetime(changed),
            a_ns=filetime(accessed),
            deleted=not state.flags & IN_USE,
            damaged=damaged,
        )
        attr = told(attr, point, extended)
        return attr, [data for data in streams if data.name], content

    def _value(self, file: File, kind: int, limit: int) -> tuple[bytes, str]:
        """Return an attribute of a file, empty: none, and why it cannot be read."""
        try:
            parts = parts_of(file, kind, b"")
            return self._volume.value(parts, limit) if parts else b"", ""
        except EvidenceError as why:
            return b"", f"attribute {kind:#x}: {why.message}"

    def _parts(self, number: int, name: bytes, parts: Parts, wanted: int) -> Data:
        """Describe a stream that may lie in several records."""
        ident = 1 + parts[0].id
        try:
            parts = in_order(number, parts)
        except EvidenceError as why:
            return Data(name=name, stream=ident, size=0, allocated=0, layout=None, problem=why)
        first = parts[0]
        stream = 1 + first.id if name else 0
        layout: Layout | None = None
        problem: ImgfsError | None = None
        try:
            if first.resident:
                layout = Inline(first.content) if first.size <= INLINE_MAX else None
            elif len(parts) == 1 or stream == wanted:
                layout = self._remote(self._volume.rows(parts), first.size, first.valid, first.form)
            elif first.form & (ENCRYPTED | COMPRESSED):
                layout = self._remote([], first.size, first.valid, first.form)
        except ImgfsError as why:
            problem = why
        allocated = 0 if first.resident or problem is not None else first.allocated
        return Data(name, 1 + first.id, first.size, allocated, layout, problem)


def _index_size(body: bytes, kind: int, remote: int, name_at: int) -> int:
    if kind not in {INDEX_ROOT, INDEX_ALLOCATION} or body[name_at : name_at + 8] != _I30:
        return 0
    if remote:
        return min(int(_REMOTE.unpack_from(body, 16)[6]), MAX_SIZE) if len(body) >= 64 else 0
    return int(_VALUE.unpack_from(body, 16)[0])


def _mode(bits: int) -> int:
    return 0o555 if bits & _READ_ONLY else 0o777
