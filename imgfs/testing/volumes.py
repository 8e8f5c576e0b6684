"""The contract of VOLUMES back-ends: what opening may answer, whatever the media holds."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, cast

from imgfs.backends import Options, discover
from imgfs.errors import EvidenceError, NotMine, NotSupported, Truncated
from imgfs.model import SlotKind, VolumeTable
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.worker import wire
from imgfs.worker.checks import check_opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imgfs.backends import Reader

_ALLOWED: Final = (EvidenceError, NotMine, NotSupported)
_DEADLINE: Final = 5.0  # seconds for one opening; a worker has thirty

Ranges = dict[int, tuple[int, int]]  # slot -> [start, stop) in bytes


class Damaged:
    """A reader that ends early or holds other bytes in places, and remembers what was read."""

    def __init__(
        self, inner: MemoryReader, *, size: int = -1, changed: Mapping[int, bytes] | None = None
    ) -> None:
        self._inner = inner
        self._changed = changed or {}
        self.size = inner.size if size < 0 else size
        self.name = inner.name
        self.others = ()
        self.ranges: set[tuple[int, int]] = set()

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``backends.Reader``."""
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("read outside the source", start=start, stop=start + length)
        self.ranges.add((start, start + length))
        data = bytearray(self._inner.read(start, length))
        for at, new in self._changed.items():
            first, last = max(at, start), min(at + len(new), start + length)
            if first < last:
                data[first - start : last - start] = new[first - at : last - at]
        return bytes(data)


def check_volumes(
    name: str,
    image: bytes | Path,
    truth: Ranges,
    *,
    options: Options | None = None,
    primary: tuple[int, int] | None = None,
    verified: bool = False,
    seeds: int = 300,
) -> VolumeTable:
    """Check a back-end on an image and on damaged forms of it; return what it says of the undamaged one.

    Args:
        name: the back-end.
        image: the media.
        truth: the allocated volumes, by slot.
        options: what the analyst says.
        primary: the range [start, stop) of the first copy, where the format keeps another one.
        verified: the format has checksums over everything: damage may hide volumes, and never move one.
        seeds: how many random damages are tried.

    Raises:
        AssertionError: the contract is broken; the message says by what.
    """
    options = options or Options()
    inner = MemoryReader(image) if isinstance(image, bytes) else FileReader(image)
    try:
        undamaged = Damaged(inner)
        first = _open(name, undamaged, options)
        assert isinstance(first, VolumeTable), f"{name}: the undamaged image gives {first!r}"
        again = _open(name, Damaged(inner), options)
        assert first == again, f"{name}: opened twice, two answers"
        assert allocated(first) == truth, f"{name}: {allocated(first)}, truth is {truth}"
        if primary is not None:
            wiped = Damaged(inner, changed={primary[0]: bytes(primary[1] - primary[0])})
            copy = _open(name, wiped, options)
            assert isinstance(copy, VolumeTable), f"{name}: without the first copy: {copy!r}"
            assert allocated(copy) == truth, f"{name}: the other copy gives {allocated(copy)}"
            assert copy.notes, f"{name}: nobody is told that the first copy is damaged"
        for label, reader in _damages(inner, sorted(undamaged.ranges), seeds):
            answer = _open(name, reader, options)
            if verified and isinstance(answer, VolumeTable):
                moved = {s: r for s, r in allocated(answer).items() if truth.get(s) != r}
                assert not moved, f"{name}: {label}: volumes that are not there: {moved}"
    finally:
        if isinstance(inner, FileReader):
            inner.close()
    return first


def allocated(table: VolumeTable) -> Ranges:
    """Return the ranges of allocated volumes by slot."""
    return {v.slot: (v.start, v.stop) for v in table.volumes if v.kind is SlotKind.ALLOCATED}


def _open(name: str, reader: Damaged, options: Options) -> VolumeTable | Exception:
    """Open; return the outcome if it is an allowed one that the daemon would accept."""
    begin = time.monotonic()
    try:
        opened = discover()[name].open(cast("Reader", reader), options)
    except _ALLOWED as why:
        return why
    finally:
        assert time.monotonic() - begin < _DEADLINE, f"{name}: opening takes too long"
    assert isinstance(opened, VolumeTable), f"{name}: opening gives {type(opened).__name__}"
    reply = wire.OpenReply(opened=opened)
    wire.encode(reply)
    check_opened(reply, [reader.size])
    slots = [volume.slot for volume in opened.volumes]
    assert len(slots) == len(set(slots)), f"{name}: two volumes of one slot"
    return opened


def _damages(inner: MemoryReader, ranges: list[tuple[int, int]], seeds: int) -> Iterator[tuple[str, Damaged]]:
    """Return damaged forms: cut before, in and behind every structure; bits flipped, bytes lost in one."""
    ends = {0, 1, inner.size - 1} | {
        end for start, stop in ranges for end in (start, (start + stop) // 2, stop)
    }
    rng = random.Random(0)
    for end in sorted(ends if len(ends) < seeds else rng.sample(sorted(ends), seeds)):
        yield f"cut to {end}", Damaged(inner, size=max(min(end, inner.size), 0))
    spots = [spot for spot in ranges if spot[0] < spot[1]]
    for seed in range(seeds if spots else 0):
        rng = random.Random(seed)
        start, stop = rng.choice(spots)
        at = rng.randrange(start, stop)
        if rng.randrange(4):
            new = bytes([inner.read(at, 1)[0] ^ 1 << rng.randrange(8)])
        else:
            new = rng.choice((bytes(16), b"\xff" * 16, rng.randbytes(16)))
        yield f"{new.hex()} at {at}, seed {seed}", Damaged(inner, changed={at: new})
