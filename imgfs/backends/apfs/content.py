"""Where the bytes of a stream lie, as layouts and for the worker itself.

Source: Apple File System Reference (2020-06-22), j_file_extent_val_t; "Accessing Encrypted Objects". A run at
block 0 is a hole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import linear
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import HOLE, LOST, Enciphered, Inline, Linear

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgfs.backends import Reader
    from imgfs.backends.apfs.catalog import Extent
    from imgfs.backends.apfs.objects import Blocks
    from imgfs.model import Codec, Layout

EMPTY: Final = (Inline(b""),)
SECTOR: Final = 512
_TWEAKS: Final = 1 << 50  # blocks a cipher may count from: beyond are files with keys of their own
_MOVED: Final = 1000  # ways in which runs of one file may have been moved after they were encrypted
Run = tuple[int, int, int, int]  # logical, length, target (HOLE, LOST), by how many blocks its cipher is off


def runs_of(extents: Iterable[Extent], size: int, blocks: Blocks, *, encrypted: bool) -> list[Run]:
    """Return the runs of ``size`` bytes; what leaves the image, or is missing, is LOST.

    Raises:
        Malformed: a run that is no number of bytes.
    """
    runs: list[Run] = []
    at, block = 0, blocks.block
    for logical, whole, start, tweak in extents:
        if logical >= size:
            break
        if logical > at:
            runs.append((at, logical - at, LOST, 0))
        length = min(whole, size - logical)
        if logical > MAX_SIZE or start > MAX_SIZE // block:
            raise Malformed(f"an extent of {length} bytes in block {start}")
        at = logical + length
        if not start:
            _append(runs, (logical, length, HOLE, 0))
            continue
        target = start * block
        inside = max(min(length, blocks.held - target), 0)
        if encrypted:
            inside -= inside % SECTOR if inside < length else 0
        if inside and encrypted and not 0 < tweak < _TWEAKS:
            _append(runs, (logical, inside, LOST, 0))
        elif inside:
            _append(runs, (logical, inside, target, tweak - start if encrypted else 0))
        if inside < length:
            _append(runs, (logical + inside, length - inside, LOST, 0))
    if at < size:
        runs.append((at, size - at, LOST, 0))
    return runs


def _append(runs: list[Run], run: Run) -> None:
    """Add a run, to the one before where it goes on."""
    if runs:
        logical, length, target, off = runs[-1]
        goes_on = target == run[2] if target < 0 else target + length == run[2]
        if goes_on and off == run[3] and logical + length == run[0]:
            runs[-1] = (logical, length + run[1], target, off)
            return
    runs.append(run)


def layouts_of(size: int, runs: Sequence[Run], blocks: Blocks, codec: Codec | None) -> tuple[Layout, ...]:
    """Return the layouts of a stream, the last of them its own; ``codec`` is the cipher of its volume."""
    if not size:
        return EMPTY
    if codec is None:
        return (linear(size, [run[:3] for run in runs]),)
    lowers: dict[int, tuple[int, Enciphered]] = {}
    rows, which = [], []
    for logical, length, target, off in runs:
        if target < 0:
            rows.append((logical, length, target))
            which.append(0)
            continue
        if off not in lowers:
            if len(lowers) >= _MOVED:
                raise Malformed(f"more than {_MOVED} ciphers of one stream")
            lowers[off] = (1 + len(lowers), _plain(off, blocks, codec))
        number, lower = lowers[off]
        rows.append((logical, length, target - lower.base))
        which.append(number)
    return (*(lower for _, lower in lowers.values()), Linear.of(size, rows, which))


def _plain(off: int, blocks: Blocks, codec: Codec) -> Enciphered:
    """Return the container as plaintext of one cipher, whose sectors count from ``off`` blocks further on."""
    base = max(-off, 0) * blocks.block
    held = blocks.held - base
    first = max(off, 0) * (blocks.block // SECTOR)
    return Enciphered(size=held - held % SECTOR, sector=SECTOR, codec=codec, first=first, base=base)


def read_runs(
    reader: Reader, runs: Sequence[Run], start: int, length: int, blocks: Blocks, codec: Codec | None
) -> bytes:
    """Return bytes of a stream through its runs.

    Raises:
        EvidenceError: some of them are lost.
    """
    parts: list[bytes] = []
    stop = start + length
    for logical, run, target, off in runs:
        low, high = max(start, logical), min(stop, logical + run)
        if low >= high:
            continue
        if target == LOST:
            raise Malformed(f"bytes [{low}, {high}) of a stream are not there")
        if target == HOLE:
            parts.append(bytes(high - low))
        elif codec is None:
            parts.append(reader.read(target + low - logical, high - low))
        else:
            place = target + low - logical
            parts.append(deciphered(reader, place, high - low, off * blocks.block, codec))
    data = b"".join(parts)
    if len(data) != length:
        raise Malformed(f"bytes [{start}, {stop}) are outside a stream")
    return data


def deciphered(reader: Reader, at: int, length: int, off: int, codec: Codec) -> bytes:
    """Return plaintext of bytes [at, at + length) of the container, whose cipher is ``off`` bytes off."""
    from imgfs.block import ciphers

    first = at - at % SECTOR
    stop = at + length + -(at + length) % SECTOR
    data = bytearray(reader.read(first, stop - first))
    ciphers.decrypt(codec, SECTOR, (first + off) // SECTOR, 1, data)
    return bytes(data[at - first : at - first + length])
