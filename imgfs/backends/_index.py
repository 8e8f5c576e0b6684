"""Indexes of compressed files: how a back-end makes one, step by step, and reads it again.

An index is one section or several, one behind the other: bytes that layouts refer to (histories, or the
decoded bytes themselves, compressed again), then tables, then facts, then a foot with lengths and checksums.
Back-ends write and read it, always in a worker; for the daemon it is a file like any other.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import Indexing, Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Reader

    Steps = Iterator[tuple[bytes, int]]  # bytes of the index, stored bytes done

NAME: Final = "imgfs-index"  # of the member that holds it
VERSION: Final = 1  # of what is written here: part of what names a stored index
_FOOT: Final = struct.Struct("<8sIIQQQIII")  # magic, version, part, image, blobs, table, facts, CRC-32s
_MAGIC: Final = b"imgfsidx"
_CRC: Final = struct.Struct("<I")
_END: Final = _FOOT.size + _CRC.size
_STEP_BYTES: Final = limits.INDEX_SLICE // 2  # a step gives so many at most
_COMPARED: Final = (
    256 * limits.MIB
)  # bytes in front of the tables whose checksum is compared at every opening
_MOST_TABLE: Final = limits.TABLE_MAX // 2
_MOST_FACTS: Final = limits.MIB


class Indexer:
    """What ``open`` returns of a container that needs an index; see ``backends.Index``."""

    def __init__(
        self, total: int, steps: Callable[[int], Steps], *, parts: int = 1, copy: bool = False, why: str = ""
    ) -> None:
        """``steps`` makes one part of the index."""
        self.indexing = Indexing(total=total, parts=parts, copy=copy, why=why)
        self._steps = steps
        self._now: Steps | None = None
        self._part = -1
        self._step = 0
        self._done = 0
        self._left = b""  # of the last piece, which was larger than a step may give

    def index(self, part: int, step: int) -> Slice:
        """Go on with a part, of which ``step`` steps were made, for about ``limits.PAGE_SECONDS``.

        Raises:
            Malformed: another worker made them.
        """
        if not step:
            self._now, self._part, self._step, self._done, self._left = self._steps(part), part, 0, 0, b""
        if self._now is None or (part, step) != (self._part, self._step):
            raise Malformed("what was making the index is gone")
        until = time.monotonic() + limits.PAGE_SECONDS
        held = bytearray(self._left)
        last = len(held) <= _STEP_BYTES
        if last:
            for data, done in self._now:
                self._done = done
                held += data
                if len(held) >= _STEP_BYTES or time.monotonic() > until:
                    last = False
                    break
        self._left = bytes(held[_STEP_BYTES:])
        last = last and not self._left
        self._step += 1
        return Slice(bytes(held[:_STEP_BYTES]), self._done, last)


@dataclass(frozen=True, slots=True)
class Section:
    """One section. Units: ``base`` bytes, where it starts in the index."""

    base: int
    blobs: int
    table: bytes
    facts: dict[str, object]


class Writer:
    """Keeps count of a section that is being written."""

    def __init__(self, part: int, image: int) -> None:
        """``image`` bytes long is what is indexed."""
        self._part = part
        self._image = image
        self._crc = 0
        self.at = 0

    def blob(self, data: bytes) -> bytes:
        """Take note of bytes that go in front of the tables; returns them."""
        self._crc = zlib.crc32(data, self._crc)
        self.at += len(data)
        return data

    def end(self, table: bytes, facts: dict[str, object]) -> Iterator[bytes]:
        """Yield the rest of the section in pieces that fit into a step."""
        words = json.dumps(facts).encode()
        crc = zlib.crc32(words, zlib.crc32(table))
        foot = _FOOT.pack(
            _MAGIC, VERSION, self._part, self._image, self.at, len(table), len(words), self._crc, crc
        )
        whole = b"".join((table, words, foot, _CRC.pack(zlib.crc32(foot))))
        for start in range(0, len(whole), _STEP_BYTES):
            yield whole[start : start + _STEP_BYTES]


def index_of(reader: Reader, *, copy: bool = False) -> list[Section] | None:
    """Return the sections of a container's index in order; None: there is none, or it is damaged.

    ``copy``: it holds the decoded bytes; their checksums are compared when they are read.
    """
    if not reader.others or reader.others[-1].name != NAME:
        return None
    try:
        return _sections(reader.others[-1], reader.size, copy=copy)
    except EvidenceError:
        return None


def _sections(index: Reader, image: int, *, copy: bool) -> list[Section]:
    found: list[Section] = []
    parts: list[int] = []
    end = index.size
    while end:
        if end < _END:
            raise Malformed("no foot")
        raw = index.read(end - _END, _END)
        foot, (crc,) = raw[: _FOOT.size], _CRC.unpack(raw[_FOOT.size :])
        magic, version, part, of, blobs, table, facts, crc_blobs, crc_rest = _FOOT.unpack(foot)
        base = end - _END - facts - table - blobs
        if zlib.crc32(foot) != crc or magic != _MAGIC or version != VERSION or of != image or base < 0:
            raise Malformed("the foot of an index differs")
        if table > _MOST_TABLE or facts > _MOST_FACTS or len(found) >= limits.MAX_PARTS:
            raise Malformed("an index too large")
        rest = read_all(index, base + blobs, table + facts)
        if zlib.crc32(rest) != crc_rest:
            raise Malformed("the checksum of tables differs")
        if not copy and blobs <= _COMPARED:
            crc = 0
            for at in range(base, base + blobs, limits.MIB):
                crc = zlib.crc32(index.read(at, min(limits.MIB, base + blobs - at)), crc)
            if crc != crc_blobs:
                raise Malformed("the checksum of what tables refer to differs")
        try:
            said = json.loads(rest[table:])
        except ValueError as why:
            raise Malformed("facts that are none") from why
        if not isinstance(said, dict):
            raise Malformed("facts that are none")
        found.append(Section(base, blobs, rest[:table], said))
        end = base
        parts.append(part)
    if parts[::-1] != list(range(len(parts))) or not parts:
        raise Malformed("sections are missing")
    found.reverse()
    return found


def read_all(reader: Reader, start: int, length: int) -> bytes:
    """Return a range of any length."""
    stop = start + length
    return b"".join(
        reader.read(at, min(limits.SOURCE_READ_MAX, stop - at))
        for at in range(start, stop, limits.SOURCE_READ_MAX)
    )
