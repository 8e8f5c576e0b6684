"""The contract of MEDIA back-ends: what opening may answer, whatever the files hold."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from imgfs.backends import Options, discover
from imgfs.backends._index import NAME as INDEX
from imgfs.block.batches import decode_unit
from imgfs.block.build import build
from imgfs.block.foreign import ForeignSource
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, ForeignUnit, Lost, StoredUnit, Strip, Verified, Zeros
from imgfs.errors import BadUnit, EvidenceError, NeedKey, NeedMembers, NotMine, NotSupported
from imgfs.model import Foreign, Media
from imgfs.testing.fakes import MemoryReader
from imgfs.worker.checks import check_slice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from imgfs.backends import Bytes as BytesOf
    from imgfs.backends import Index, Reader
    from imgfs.block.pieces import ByteSource, Piece, SummedSource

_ALLOWED: Final = (EvidenceError, NotMine, NeedMembers, NeedKey, NotSupported)
_DEADLINE: Final = 5.0  # seconds for one opening; a worker has thirty
_STEP: Final = 32 << 10  # bytes compared at a time: a lost range costs no more than its pieces


def check_media(
    name: str,
    files: Mapping[str, bytes],
    truth: bytes,
    *,
    verified: bool = False,
    seeds: int = 100,
    options: Options | None = None,
    cut: bool = False,
) -> None:
    """Check a back-end on an image and on damaged forms of it.

    ``files`` maps names to contents, the file the analyst names first. ``verified`` says that the format has
    checksums over everything: then no damage may change a byte that can still be read. ``cut``: nor where the
    disk got another size. ``options`` may ask for a further disk of the container. ``IMGFS_SEEDS`` in the
    environment asks for more damages, ``IMGFS_CAMPAIGN`` names a file that is told of them.

    Raises:
        AssertionError: the contract is broken; the message says by what.
    """
    first = _open(name, files, options)
    assert isinstance(first, tuple), f"{name}: the undamaged image gives {first!r}"
    again = _open(name, files, options)
    assert isinstance(again, tuple), f"{name}: opened again, it gives {again!r}"
    assert first[0] == again[0], f"{name}: opened twice, two answers"
    source = first[1]
    assert source.size == len(truth), f"{name}: {source.size} bytes, truth has {len(truth)}"
    for at, data in _contents(source):
        assert data == truth[at : at + _STEP], f"{name}: bytes at {at} differ or are missing"
    begin, counts = time.monotonic(), {"refused": 0, "other size": 0, "same size": 0}
    for label, damaged in _damages(files, max(seeds, int(os.environ.get("IMGFS_SEEDS", "0")))):
        answer = _open(name, damaged, options)
        refused = isinstance(answer, Exception)
        same = isinstance(answer, tuple) and answer[1].size == len(truth)
        counts["refused" if refused else "same size" if same else "other size"] += 1
        if isinstance(answer, Exception) or not verified or not (same or cut):
            continue
        for at, data in _contents(answer[1]):
            right = data is None or at >= len(truth) or data.startswith(truth[at : at + len(data)])
            assert right, f"{name}: {label}: wrong bytes at {at}"
            assert data is None or at + len(data) <= len(truth), (
                f"{name}: {label}: more bytes than there were"
            )
    if report := os.environ.get("IMGFS_CAMPAIGN"):
        row = {
            "backend": name,
            "files": list(files)[:4],
            **counts,
            "seconds": round(time.monotonic() - begin, 1),
        }
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def contents(
    name: str, files: Mapping[str, bytes], *, lost: bytes | None = None, options: Options | None = None
) -> bytes:
    """Return what a back-end makes of an image, the file the analyst names first.

    Args:
        name: the back-end's.
        files: names to contents.
        lost: a byte that stands for each one that is lost or does not decode; None: that is an error.
        options: what is asked of the back-end.

    Raises:
        EvidenceError: bytes cannot be read.
    """
    answer = _open(name, files, options)
    if isinstance(answer, Exception):
        raise answer
    source = answer[1]
    found: list[bytes] = []
    for at in range(0, source.size, _STEP):
        for piece in _narrow(source.plan(at, min(at + _STEP, source.size))):
            try:
                found += pieces([piece])
            except EvidenceError:
                if lost is None:
                    raise
                found.append(lost * piece.length)
    return b"".join(found)


def _narrow(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield pieces with units in place of strips."""
    for piece in pieces:
        if isinstance(piece, Coded) and isinstance(piece.unit, Strip):
            strip = piece.unit
            at = strip.index * strip.source.unit + piece.skip
            yield from strip.source.units(at, at + piece.length)
        else:
            yield piece


def _open(
    name: str, files: Mapping[str, bytes], options: Options | None = None
) -> tuple[Media, ByteSource] | Exception:
    """Open and build; return the outcome if it is an allowed one."""
    begin = time.monotonic()
    readers = [MemoryReader(data, name=member) for member, data in files.items()]
    readers[0].others = readers[1:]
    try:
        opened = discover()[name].open(cast("Reader", readers[0]), options or Options())
    except _ALLOWED as why:
        return why
    finally:
        assert time.monotonic() - begin < _DEADLINE, f"{name}: opening takes too long"
    files = dict(files)
    if hasattr(opened, "index"):
        files[INDEX] = _index(name, cast("Index", opened))
        readers = [MemoryReader(data, name=member) for member, data in files.items()]
        readers[0].others = readers[1:]
        try:
            opened = discover()[name].open(cast("Reader", readers[0]), options or Options())
        except _ALLOWED as why:
            return why
    media = opened if isinstance(opened, Media) else getattr(opened, "media", None)
    assert isinstance(media, Media), f"{name}: opening gives {type(opened).__name__}"
    tickets = [Memory(data) for data in files.values()]
    foreign = None
    if any(isinstance(layout, Foreign) for layout in media.layouts):
        foreign = _foreign(name, opened)
    source = build(media.layouts, tickets, name, table=memoryview(readers[0].table), foreign=foreign)
    for start, stop, reason in media.lost:
        assert 0 <= start < stop <= source.size, f"{name}: a lost range outside: [{start}, {stop})"
        assert reason, f"{name}: a range is lost without a reason"
    return media, source


def made(name: str, image: bytes) -> bytes:
    """Return the index a back-end makes of an image."""
    opened = discover()[name].open(cast("Reader", MemoryReader(image, name="image")), Options())
    return _index(name, cast("Index", opened))


def _index(name: str, opened: Index) -> bytes:
    """Make an index; each step has a worker's deadline, and gets on."""
    parts: list[bytes] = []
    for part in range(opened.indexing.parts):
        last, step, done = False, 0, 0
        while not last:
            begin = time.monotonic()
            piece = opened.index(part, step)
            assert time.monotonic() - begin < _DEADLINE, f"{name}: a step of indexing takes too long"
            check_slice(piece, done, opened.indexing.total)
            parts.append(piece.data)
            last, step, done = piece.last, step + 1, piece.done
    return b"".join(parts)


def _foreign(name: str, opened: object) -> Callable[[int, int], Awaitable[bytes]]:
    """Return what reads the bytes that only the back-end can produce; each read has a worker's deadline."""

    async def read(offset: int, length: int) -> bytes:
        begin = time.monotonic()
        try:
            data = cast("BytesOf", opened).read(offset, length)
        finally:
            assert time.monotonic() - begin < _DEADLINE, f"{name}: a read of {length} bytes takes too long"
        assert len(data) == length, f"{name}: {len(data)} foreign bytes, {length} asked for"
        return data

    return read


def _finished(work: Awaitable[bytes]) -> bytes:
    """Return the outcome of a coroutine that never waits."""
    try:
        work.__await__().__next__()
    except StopIteration as done:
        return cast("bytes", done.value)
    raise AssertionError("a foreign read waits")


def _damages(files: Mapping[str, bytes], seeds: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Return damaged forms: a member missing, cut short, with a bit flipped, with a block of zeros."""
    for member, data in files.items():
        if len(files) > 1:
            yield f"without {member}", {other: kept for other, kept in files.items() if other != member}
        rng = random.Random(member)
        ends = {0, 1, len(data) // 2, *range(13, min(len(data), 2500), 60), len(data) - 1}
        ends |= {rng.randrange(len(data)) for _ in range(20)}
        for end in sorted(ends):
            yield f"{member} cut to {end}", {**files, member: data[:end]}
        for seed in range(seeds):
            rng = random.Random(seed)
            changed = bytearray(data)
            near = rng.choice((100, 3000, len(data)))  # structures crowd at the ends
            at = min(rng.randrange(near), len(data) - 1)
            at = rng.choice((at, len(data) - 1 - at))
            if rng.randrange(4):
                changed[at] ^= 1 << rng.randrange(8)
            else:
                changed[at : at + 16] = bytes(len(changed[at : at + 16]))
            yield f"{member} damaged at {at}, seed {seed}", {**files, member: bytes(changed)}


def _contents(source: ByteSource) -> Iterator[tuple[int, bytes | None]]:
    """Return the bytes of a source in steps; None where something is lost or does not decode."""
    for at in range(0, min(source.size, 64 << 20), _STEP):
        try:
            yield at, b"".join(pieces(source.plan(at, min(at + _STEP, source.size))))
        except EvidenceError:
            yield at, None


def pieces(planned: Sequence[Piece]) -> Iterator[bytes]:
    """Return the bytes of a plan over memory, piece by piece. Raises EvidenceError where some are lost."""
    for piece in planned:
        match piece:
            case Zeros(length):
                yield bytes(length)
            case Bytes(data, offset, length):
                yield data[offset : offset + length]
            case Coded(Strip() as strip, skip, length):
                at = strip.index * strip.source.unit + skip
                yield from pieces(strip.source.units(at, at + length))
            case Coded(StoredUnit() as unit, skip, length):
                stored = memoryview(b"".join(pieces(unit.pieces)))
                block = decode_unit(unit, stored)
                if isinstance(block, Exception):
                    raise block
                yield bytes(block[skip : skip + length])
            case Verified(source, start, length):
                first = start // source.sector * source.sector
                last = -(-(start + length) // source.sector) * source.sector
                sectors = [
                    _sector(source, at, at + source.sector) for at in range(first, last, source.sector)
                ]
                yield b"".join(sectors)[start - first : start - first + length]
            case Coded(ForeignUnit() as unit, skip, length):
                assert isinstance(unit.source, ForeignSource)
                data = _finished(unit.source.read(unit.index * unit.source.unit, unit.length))
                yield data[skip : skip + length]
            case Lost(_, why):
                raise EvidenceError(why)
            case _:
                raise AssertionError(f"{piece!r} over memory")


def _sector(source: SummedSource, start: int, stop: int) -> bytes:
    """Return a sector from the first place that has it. Raises EvidenceError: none has."""
    sums = b"".join(pieces(source.sums(start, stop)))
    failed: EvidenceError = BadUnit("checksum", start=start, stop=stop)
    for way in range(source.ways):
        try:
            data = b"".join(pieces(source.stored(start, stop, way)))
        except EvidenceError as why:
            failed = why
            continue
        if not source.wrong(data, sums):
            return data
    raise failed
