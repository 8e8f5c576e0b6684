"""Compact discs composed by hand: sectors with their frames, cue sheets, Nero's chunks."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SYNC = b"\0" + b"\xff" * 10 + b"\0"
DATA = 2048


def noise(sectors: int, seed: int = 1) -> bytes:
    """Return user data."""
    return random.Random(seed).randbytes(sectors * DATA)


def audio(sectors: int, seed: int = 9, stride: int = 2352) -> bytes:
    """Return sectors of audio."""
    return random.Random(seed).randbytes(sectors * stride)


def _bcd(number: int) -> int:
    return number // 10 * 16 + number % 10


def header(lba: int, mode: int) -> bytes:
    """Return the sync pattern, the address and the mode of a sector."""
    minute, rest = divmod(lba + 150, 75 * 60)
    return SYNC + bytes(map(_bcd, (minute, *divmod(rest, 75)))) + bytes([mode])


def sectors(data: bytes, shape: str, *, lba: int = 0, form2: Sequence[int] = ()) -> bytes:
    """Return user data in sectors of a shape as cue sheets name it."""
    mode, stride = int(shape[4]), int(shape[6:])
    rng = random.Random(stride)
    out = []
    for index in range(len(data) // DATA):
        body = data[index * DATA : (index + 1) * DATA]
        subheader = (b"\0\0\x20\0" if index in form2 else b"\0\0\x08\0") * 2
        if stride == 2336:
            raw = subheader + body + rng.randbytes(280)
        elif stride > 2336:
            raw = header(lba + index, mode) + (subheader if mode == 2 else b"") + body
            raw = raw.ljust(2352, b"e") + rng.randbytes(stride - 2352)
        else:
            raw = body
        out.append(raw)
    return b"".join(out)


def time(frames: int) -> str:
    """Return a time of a cue sheet."""
    minute, rest = divmod(frames, 75 * 60)
    return f"{minute:02}:{rest // 75:02}:{rest % 75:02}"


def sheet(*files: tuple[str, Sequence[tuple[str, dict[int, int]]]]) -> bytes:
    """Return a cue sheet of files (name, tracks), tracks as (mode, indexes in sectors)."""
    lines = []
    number = 0
    for name, tracks in files:
        lines.append(f'FILE "{name}" BINARY')
        for mode, indexes in tracks:
            number += 1
            lines.append(f"  TRACK {number:02} {mode}")
            lines += [f"    INDEX {index:02} {time(at)}" for index, at in indexes.items()]
    return "\r\n".join([*lines, ""]).encode()


def nero(
    data: bytes,
    tracks: Sequence[tuple[int, int, int, int, int, int]],
    *,
    wide: bool = True,
    taken: bool = False,
) -> bytes:
    """Return an image of tracks (mode, stride, gap, begin, end, first sector), positions in bytes.

    ``wide``: version 2; ``taken``: written track by track.
    """
    chunks = b""
    if taken:
        body = b"".join(
            struct.pack(">QQIIQ" if wide else ">5I", begin, end - begin, mode, start, 0)
            for mode, _, _, begin, end, start in tracks
        )
        chunks += struct.pack(">4sI", b"ETN2" if wide else b"ETNF", len(body)) + body
    else:
        last = tracks[-1] if tracks else (0, DATA, 0, 0, 0, 0)
        points = [(0x41, 0, 0, -150)]  # lead-in, then the gap and the content of each track, lead-out
        for number, (mode, _, _, _, _, start) in enumerate(tracks, 1):
            control = 0x01 if mode in (7, 0x10) else 0x41
            points += [(control, _bcd(number), 0, max(start - 150, -150)), (control, _bcd(number), 1, start)]
        points.append((0x41, 0xAA, 1, last[5] + (last[4] - last[3]) // last[1]))
        body = b"".join(
            struct.pack(">BBBB", control, number, index, 0)
            + (struct.pack(">i", at) if wide else b"\0" + header(at, 1)[12:15])
            for control, number, index, at in points
        )
        chunks += struct.pack(">4sI", b"CUEX" if wide else b"CUES", len(body)) + body
        body = bytes(13) + b"\0\0\x01\x01" + bytes([len(tracks)])
        for mode, stride, gap, begin, end, _ in tracks:
            body += bytes(12) + struct.pack(">HBBH", stride, mode, 0, 1)
            body += struct.pack(">3Q" if wide else ">3I", gap, begin, end)
        body = struct.pack("<I", len(body) + 4) + body
        chunks += struct.pack(">4sI", b"DAOX" if wide else b"DAOI", len(body)) + body
    chunks += struct.pack(">4sII", b"SINF", 4, len(tracks)) + struct.pack(">4sII", b"MTYP", 4, 1)
    chunks += struct.pack(">4sI", b"END!", 0)
    footer = struct.pack(">4sQ", b"NER5", len(data)) if wide else struct.pack(">4sI", b"NERO", len(data))
    return data + chunks + footer
