"""Raw sectors of a compact disc without a description: .bin, .img and .mdf files.

Each sector starts with a sync pattern, its address and its mode; behind it may be its subchannel. Where the
pattern ends for good, audio begins. A cue sheet knows better: name that, if there is one.

Source: ECMA-130, section 14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._disc import MODE_AT, SYNC, Disc, Shape, Track, address
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_STRIDES: Final = (2352, 2448, 2368)  # alone, with the whole subchannel, with its Q part
_SKIP: Final = {1: 16, 2: 24}
_SAMPLES: Final = 2000
_NEAR: Final = 4  # sectors looked at for one that is not damaged


def open_cdraw(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Find out the distance of sectors, and where their mode changes.

    Raises:
        NotMine: no sync pattern.
        Malformed: no sector of a mode that holds data.
    """
    if reader.size < 2352 or reader.read(0, len(SYNC)) != SYNC:
        raise NotMine("cdraw")
    strides = [n for n in _STRIDES if _synced(reader, n)] or [n for n in _STRIDES if not reader.size % n]
    stride = (*strides, _STRIDES[0])[0]
    sectors = -(-reader.size // stride)
    parts = _parts(reader, stride, sectors)
    if not parts:
        raise Malformed("no sector of mode 1 or 2")
    disc = Disc((reader, *reader.others), f"raw sectors of {stride} bytes")
    first = max(address(reader.read(0, 16)), 0)
    for number, (start, stop, mode) in enumerate(parts, 1):
        disc.tracks.append(
            Track(
                number=number,
                shape=Shape(f"MODE{mode}/{stride}", stride, _SKIP[mode]),
                start=first + start,
                sectors=stop - start,
                ticket=0,
                offset=start * stride,
                file=reader.name,
            )
        )
    end = parts[-1][1]
    sectors = reader.size // stride
    if end < sectors:
        disc.tracks.append(
            Track(
                number=len(parts) + 1,
                shape=Shape("AUDIO", stride, -1),
                start=first + end,
                sectors=sectors - end,
                ticket=0,
                offset=end * stride,
            )
        )
    disc.notes.append("tracks are guessed from the sectors: a cue sheet would say")
    return disc.media()


def _synced(reader: Reader, at: int) -> bool:
    return at + len(SYNC) <= reader.size and reader.read(at, len(SYNC)) == SYNC


def _parts(reader: Reader, stride: int, sectors: int) -> list[tuple[int, int, int]]:
    """Return (first sector, one behind the last, mode) of neighbours of one mode.

    Sectors without a pattern between others belong to those ahead of them: they are damaged.
    """

    def mode(index: int) -> int:
        """Return the mode of a sector or one near behind it, 0: none holds data."""
        for near in range(index, min(index + _NEAR, sectors)):
            try:
                head = reader.read(near * stride, 16)
            except EvidenceError:
                continue
            if head.startswith(SYNC) and head[MODE_AT] in _SKIP:
                return head[MODE_AT]
        return 0

    step = max(1, sectors // _SAMPLES)
    seen = [(index, mode(index)) for index in (*range(0, sectors, step), sectors - 1)]
    held = [row for row in seen if row[1]]
    if not held:
        return []
    parts: list[tuple[int, int, int]] = []
    start, (last, current) = 0, held[0]
    for index, found in held:
        if found != current:
            low, high = last, index  # the first sector that is not of the current mode
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if mode(middle) in (current, 0) else (low, middle)
            parts.append((start, high, current))
            start, current = high, found
        last = index
    low, high = last, next((index for index, found in seen if index > last and not found), sectors)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mode(middle) else (low, middle)
    return [*parts, (start, high, current)]


BACKEND = Backend(
    name="cdraw",
    title="Raw CD sectors",
    role=Role.MEDIA,
    rank=60,
    signatures=(Signature(0, SYNC),),
    open=open_cdraw,
    supports="2352, 2368, 2448 bytes a sector; mode 1, mode 2 (2048 of each); audio stays in the file",
    truth=("peer", "composed"),
)
