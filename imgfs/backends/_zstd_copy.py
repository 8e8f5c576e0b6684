"""Frames of Zstandard that are too large to be units, or do not say what they hold: copied frame by frame.

Source: RFC 8878, section 3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._copying import Copy
from imgfs.backends._zstd_frames import MAX_BLOCKS, Frame, frame_at, walk
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._index import Steps

_WINDOW: Final = 512 * limits.MIB  # zstd --ultra --long=29; a worker has a gigabyte
# Stored bytes at a time: a block of four decodes to 128 KiB, and what one call gives is in memory at once.
_INPUT: Final = 2 * limits.KIB
_READ: Final = 256 * limits.KIB
_NEAR: Final = 1 * limits.MIB  # decoded; what came shortly before a block that does not decode may be wrong


def steps(reader: Reader) -> Steps:
    """Yield an index that is a copy of what all frames hold."""
    copy = Copy(reader.size)
    passed = _Passed(reader)
    number = at = 0
    why = ""
    while at < reader.size:
        frame = frame_at(reader, at)
        if isinstance(frame, int):
            if not frame:
                why = f"there is no frame at {at}"
                break
            at = frame
            continue
        number += 1
        start = copy.size
        for data in passed.frame(frame, copy):
            yield data, min(passed.at, reader.size)
        made = copy.size - start
        if passed.failed and (made == frame.size or "checksum" in passed.failed):
            copy.lose(start, f"the checksum of frame {number} at {at} differs")
        elif passed.failed:
            copy.lose(
                max(start, copy.size - _NEAR), f"frame {number} at {at} does not decode: {passed.failed}"
            )
        if not passed.whole:
            try:
                passed.at, _ = walk(reader, frame, MAX_BLOCKS)
            except EvidenceError:
                passed.at = reader.size
        if made < frame.size and not copy.ends_at(start + frame.size, f"frame {number} at {at} ends early"):
            break
        if not passed.whole and frame.size < 0:
            why = f"frame {number} at {at} is damaged or cut short and does not say how much it held"
            break
        at = passed.at
    if why:
        copy.ends_at(0, f"{why}: of what follows nothing is known")
    for piece in copy.end():
        yield piece, reader.size


class _Passed:
    """Decodes frames. ``at``: what was taken of the file; ``failed`` and ``whole`` are of the last one."""

    def __init__(self, reader: Reader) -> None:
        self._library = importlib.import_module("zstandard")
        self._reader = reader
        self.at = 0
        self.failed = ""
        self.whole = False

    def frame(self, frame: Frame, copy: Copy) -> Iterator[bytes]:
        """Decode a frame into a copy; yields what goes into the index."""
        reader, start = self._reader, copy.size
        decoder = self._library.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        self.at, self.failed, self.whole = frame.start, "", False
        try:
            while self.at < reader.size:
                raw = reader.read(self.at, min(_READ, reader.size - self.at))
                out = bytearray()
                for begin in range(0, len(raw), _INPUT):
                    out += decoder.decompress(raw[begin : begin + _INPUT])
                    self.at += min(_INPUT, len(raw) - begin)
                    if decoder.eof or len(out) > limits.MIB:
                        break
                if 0 <= frame.size < copy.size - start + len(out):
                    self.failed = "it holds more than it says"
                    return
                yield copy.add(bytes(out))
                if decoder.eof:
                    self.at -= len(decoder.unused_data)
                    self.whole = True
                    return
        except self._library.ZstdError as why:
            if out:  # what came before the block that is bad
                yield copy.add(bytes(out))
            self.failed = str(why)[:200]
        except EvidenceError as bad:
            self.failed = bad.message
