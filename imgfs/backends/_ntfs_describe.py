"""One MFT record as entries: attributes, streams, and layouts that the record itself gives away.

One pass over the record serves a listing, a stat and a layout. What one record does not say (an
attribute list, a part of a stream) is left to TSK: the answer is then None.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "Standard and non-resident
attribute header", "$STANDARD_INFORMATION"; [MS-FSCC] 2.1.2.1 (reparse tags), 2.6 (file attributes).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends._ntfs_record import ATTRIBUTE_LIST, DATA, REPARSE, STANDARD, filetime
from imgfs.backends._ntfs_runs import clipped, pairs
from imgfs.backends._tsk_layout import linear
from imgfs.errors import EvidenceError, ImgfsError, NotSupported
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Entry, Foreign, Inline, Kind, Layout, Linear

if TYPE_CHECKING:
    from imgfs.backends._ntfs_record import Mft

LINKS: Final = frozenset({0xA000000C, 0xA0000003, 0xA000001D})  # symbolic link, mount point, WSL link
ELSEWHERE: Final = {  # tags whose files hold their content in another form: the stream itself reads as zeros
    0x80000017: "compressed by Windows Overlay Filter: see the stream WofCompressedData",
    0x80000013: "deduplicated: the content is in the chunk store of the volume",
}
INLINE_IN_LISTING: Final = 700  # resident content a page carries along
RUNS_IN_LISTING: Final = 1
_EFS: Final = "EFS: the key is not in the image"
_INDEX_ROOT, _INDEX_ALLOCATION = 0x90, 0xA0
_END: Final = 0xFFFFFFFF
_MAX_ATTRIBUTES: Final = 4096  # a record of 64 KiB holds fewer
_RECORD = struct.Struct("<HHHHII")  # from byte 16: sequence, links, first attribute, flags, bytes used, room
_HEAD = struct.Struct("<IIBBHHH")  # type, length, non-resident, letters, name, flags, id
_VALUE = struct.Struct("<IH")  # from byte 16 of a resident attribute
_REMOTE = struct.Struct("<QQHHIQQQ")  # from byte 16: lowest, highest, runs, unit, -, room, size, valid
_STANDARD = struct.Struct("<4QI")  # born, modified, changed, accessed, attributes
_IN_USE, _DIRECTORY = 1, 2
_COMPRESSED, _ENCRYPTED = 0x00FF, 0x4000
_READ_ONLY: Final = 0x1


class Data(NamedTuple):
    """A data attribute. ``problem`` says why there is no layout. Units: bytes."""

    name: bytes
    stream: int
    size: int
    allocated: int
    layout: Layout | None
    problem: str


class Describer:
    """Describes the records of one volume. Units: ``cluster`` and ``volume`` bytes."""

    __slots__ = ("_cluster", "_mft", "_volume")

    def __init__(self, mft: Mft, cluster: int, volume: int) -> None:
        self._mft = mft
        self._cluster = cluster
        self._volume = volume

    def entries(self, number: int, name: bytes, sequence: int = 0) -> list[Entry] | None:
        """Return the entry of a record in use and those of its streams; None: TSK may know.

        ``sequence`` is that of the reference that names the file, 0: any.
        """
        found = self._read(number, sequence)
        if found is None:
            return None
        attr, streams, layout = found
        entries = [Entry(name, attr, 0, _light(layout))]
        for data in streams:
            stream = _stream_attr(attr, data)
            entries.append(Entry(name + b":" + data.name, stream, data.stream, _light(data.layout)))
        return entries

    def layout(self, number: int, stream: int) -> Layout | None:
        """Return the layout of a stream; None: TSK may know.

        Raises:
            NotSupported: encrypted, or the content is kept elsewhere.
        """
        found = self._read(number, 0)
        if found is None:
            return None
        attr, streams, layout = found
        if not stream:
            if layout is None and attr.damaged:
                raise NotSupported(attr.damaged)
            return layout
        for data in streams:
            if data.stream == stream:
                if data.layout is None:
                    raise NotSupported(data.problem)
                return data.layout
        return None

    def _read(self, number: int, sequence: int) -> tuple[Attr, list[Data], Layout | None] | None:
        try:
            record = self._mft.record(number)
        except EvidenceError:
            return None
        own, links, at, flags, used, _ = _RECORD.unpack_from(record, 16)
        if not flags & _IN_USE or (sequence and own != sequence):
            return None
        stop = min(used, len(record)) - 16
        tag = size = mode = 0
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
                return None
            if kind == DATA:
                data = self._data(record, at, length, remote, letters, name_at, form, ident)
                if data is None:
                    return None
                if letters:
                    streams.append(data)
                elif content is None:
                    content = data
                else:
                    return None
            elif kind == STANDARD:
                value, value_at = _VALUE.unpack_from(record, at + 16)
                if remote or value < 36 or value_at + 36 > length:
                    return None
                born, modified, changed, accessed, bits = _STANDARD.unpack_from(record, at + value_at)
                mode = _mode(bits)
            elif kind == ATTRIBUTE_LIST:
                return None
            elif kind == REPARSE:
                value, value_at = _VALUE.unpack_from(record, at + 16)
                if remote or value < 4 or value_at + 4 > length:
                    return None
                (tag,) = struct.unpack_from("<I", record, at + value_at)
            elif kind > DATA and letters == 4:
                size = _index_size(record[at : at + length], kind, remote, name_at) or size
            at += length
        kind = Kind.LNK if tag in LINKS else Kind.DIR if flags & _DIRECTORY else Kind.REG
        allocated, problem = 0, ""
        layout: Layout | None = None
        if content is not None and kind != Kind.DIR:
            size = content.size
        if kind == Kind.REG:
            if content is None:
                size, layout = 0, Inline(b"")
            elif tag in ELSEWHERE:
                allocated, problem = content.allocated, ELSEWHERE[tag]
            else:
                allocated, layout, problem = content.allocated, content.layout, content.problem
        elif kind == Kind.LNK:
            layout = Inline(b"")
        attr = Attr(
            kind=kind,
            inum=number,
            generation=own,
            size=size,
            allocated=allocated,
            mode=mode,
            nlink=links,
            b_ns=filetime(born),
            m_ns=filetime(modified),
            c_ns=filetime(changed),
            a_ns=filetime(accessed),
            damaged=problem,
        )
        return attr, streams, layout

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
            return Data(name, 1 + ident, value, 0, layout, "")
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
            return Data(name=name, stream=1 + ident, size=size, allocated=0, layout=None, problem=why.message)
        return Data(name, 1 + ident, size, allocated, found, "")

    def _remote(self, rows: list[tuple[int, int, int]], size: int, valid: int, form: int) -> Layout:
        if form & _ENCRYPTED:
            raise NotSupported(_EFS)
        if form & _COMPRESSED:
            return Foreign(size=size, why="LZNT1")
        if not size:
            return Inline(b"")
        if len(rows) == 1:
            logical, length, target = rows[0]
            if length >= size <= valid and 0 <= target <= self._volume - size:
                return linear(size, [(logical, size, target)])
        return linear(size, clipped(rows, size, valid, self._volume))


def _index_size(body: bytes, kind: int, remote: int, name_at: int) -> int:
    if kind not in {_INDEX_ROOT, _INDEX_ALLOCATION} or body[name_at : name_at + 8] != "$I30".encode(
        "utf-16-le"
    ):
        return 0
    if remote:
        return min(int(_REMOTE.unpack_from(body, 16)[6]), MAX_SIZE) if len(body) >= 64 else 0
    return int(_VALUE.unpack_from(body, 16)[0])


def _light(layout: Layout | None) -> tuple[Layout, ...] | None:
    """Return a layout a page carries along: short content, or a run."""
    if type(layout) is Inline:
        return (layout,) if len(layout.data) <= INLINE_IN_LISTING else None
    if type(layout) is Linear:
        return (layout,) if len(layout.logical) <= 8 * RUNS_IN_LISTING else None
    return None if layout is None else (layout,)


def _mode(bits: int) -> int:
    return 0o555 if bits & _READ_ONLY else 0o777


def plain_mode(attr: Attr, _meta: int) -> Attr:
    """Return attributes of TSK with the mode every other entry has.

    TSK takes the right to read from read-only files and the right to write from hidden ones.
    """
    mode = 0o777 if attr.mode & 0o444 else 0o555
    if attr.mode in {0, mode}:
        return attr
    fields = {name: getattr(attr, name) for name in attr.__struct_fields__}
    return Attr(**fields | {"mode": mode})


def _stream_attr(attr: Attr, data: Data) -> Attr:
    return Attr(
        kind=Kind.REG,
        inum=attr.inum,
        generation=attr.generation,
        size=data.size,
        allocated=data.allocated,
        mode=attr.mode,
        nlink=attr.nlink,
        b_ns=attr.b_ns,
        m_ns=attr.m_ns,
        c_ns=attr.c_ns,
        a_ns=attr.a_ns,
        damaged=data.problem,
    )
