"""Where the bytes of an opened BitLocker volume are: in ciphertext, in the plain, moved, or nowhere.

Source: Joachim Metz, BitLocker Drive Encryption (BDE) format, "Virtual sector(s)", "FVE metadata block header
version 2"; Niels Ferguson, AES-CBC + Elephant diffuser, 2006. As Windows and libbde show it, the metadata and
the place of the moved first sectors read as zeros.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.errors import Malformed
from imgfs.model import HOLE, LOST, Codec, Enciphered, Inline, Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._bde import Boot, Metadata
    from imgfs.backends._bde_eow import Range
    from imgfs.model import Layout

_STORED, _PLAINTEXT, _MADE = 0, 1, 2  # tickets and layouts, as rows count them
Row = tuple[int, int, int, int]  # logical, length, target, which


def known(meta: Metadata, eow: list[Range] | None, size: int) -> list[Range]:
    """Say of the image what is encrypted: by a map of blocks, or up to where it was or still is."""
    if eow is not None:
        return [(start, min(stop, size), kind) for start, stop, kind in eow if start < min(stop, size)]
    until = size if meta.encrypted < 0 else min(meta.encrypted, size)
    return [one for one in ((0, until, True), (until, size, False)) if one[0] < one[1]]


def length(meta: Metadata, eow: list[Range] | None, size: int) -> int:
    """Return the size of the volume: that of the image, or more where it ends before the volume does."""
    return max(size, eow[-1][1] if eow else 0, meta.encrypted)


def codec(method: int, key: bytes) -> Codec:
    """Return the cipher of a method.

    Raises:
        Malformed: there is none of that number, or the key is of another length.
    """
    short = 16 if method in (0x8000, 0x8002) else 32
    if method in (0x8000, 0x8001) and len(key) == 64:
        return Codec("aes-elephant", {"key": key[:short] + key[32 : 32 + short], "iv": b"eboiv"})
    if method in (0x8002, 0x8003) and len(key) == short:
        return Codec("aes-cbc", {"key": key, "iv": b"eboiv"})
    if (method, len(key)) in ((0x8004, 32), (0x8005, 64)):
        return Codec("aes-xts", {"key": key, "iv": b"plain64"})
    raise Malformed(f"method {method:#x} with a key of {len(key)} bytes")


def layouts(
    reader: Reader, boot: Boot, meta: Metadata, ranges: list[Range], how: Codec | None, size: int
) -> list[Layout]:
    """Return the layouts of the volume, the last of which it is; ``how`` None: nothing is encrypted.

    Long ones go to the memory file.
    """
    whole = reader.size // boot.sector * boot.sector
    found: list[Layout] = []
    if how is not None:
        found.append(Enciphered(size=whole, sector=boot.sector, codec=how))
    else:
        found.append(Inline(b""))  # rows count layouts
    if boot.kind == "Vista":
        raw = boot.raw
        found.append(
            Inline(raw[:3] + b"NTFS    " + raw[11:56] + meta.mirror.to_bytes(8, "little") + raw[64:])
        )
    rows = list(_joined(_rows(_Known(ranges), boot, meta, reader.size, whole, size)))
    columns = [array("q", column).tobytes() for column in zip(*(row[:3] for row in rows), strict=True)]
    columns.append(array("H", [row[3] for row in rows]).tobytes())
    if sum(map(len, columns)) <= limits.TABLE_INLINE:
        logical, lengths, target, which = columns
        found.append(Linear(size=size, logical=logical, length=lengths, target=target, which=which))
    else:
        found.append(Linear(size=size, logical=b"", length=b"", target=b"", rows=len(rows)))
        reader.write_table(columns)
    return found


class _Known:
    """What is encrypted, looked up by where it is stored."""

    def __init__(self, ranges: list[Range]) -> None:
        self._ranges = ranges
        self._starts = [one[0] for one in ranges]

    def over(self, start: int, stop: int) -> Iterator[tuple[int, int, bool | None]]:
        """Yield ranges that make up [start, stop); None: nobody knows."""
        number = max(bisect_right(self._starts, start) - 1, 0)
        while start < stop:
            while number < len(self._ranges) and self._ranges[number][1] <= start:
                number += 1
            if number == len(self._ranges):
                yield start, stop, None
                return
            begin, end, kind = self._ranges[number]
            if start < begin:
                yield start, min(begin, stop), None
                start = begin
                continue
            yield start, min(end, stop), kind
            start = end


def _rows(ranges: _Known, boot: Boot, meta: Metadata, stored: int, whole: int, size: int) -> Iterator[Row]:
    head = min(meta.header, size)
    if boot.kind == "Vista":  # left where they are, and as they are
        yield 0, min(512, head), 0, _MADE
        if head > 512:
            yield 512, head - 512, 512, _STORED
    else:
        yield from _placed(ranges, 0, meta.header_at, head, stored, whole)
    at = head
    for start, stop in _zeros(boot, meta, size):
        if start > at:
            yield from _placed(ranges, at, at, start - at, stored, whole)
        if stop > max(start, at):
            yield max(start, at), stop - max(start, at), HOLE, _STORED
            at = stop
    if at < size:
        yield from _placed(ranges, at, at, size - at, stored, whole)


def _zeros(boot: Boot, meta: Metadata, size: int) -> list[tuple[int, int]]:
    """Return what is the format's own: metadata, and the place of the moved sectors."""
    areas = [(at, at + meta.area) for at in {*meta.at, *boot.at} if at]
    areas += [(meta.header_at, meta.header_at + meta.header)] if meta.header_at else []
    return sorted((start, min(stop, size)) for start, stop in areas if start < size)


def _placed(ranges: _Known, logical: int, at: int, count: int, stored: int, whole: int) -> Iterator[Row]:
    """Yield the rows of ``count`` bytes that are stored at ``at``."""
    shift = logical - at
    for start, stop, kind in ranges.over(at, at + count):
        end = start if kind is None else max(min(stop, whole if kind else stored), start)
        if start < end:
            yield start + shift, end - start, start, _PLAINTEXT if kind else _STORED
        if end < stop:
            yield end + shift, stop - end, LOST, _STORED


def _joined(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows, neighbours that say the same as one."""
    held: Row | None = None
    for row in rows:
        if held is not None:
            logical, count, target, which = held
            follows = target + count == row[2] if target >= 0 else target == row[2]
            if follows and which == row[3] and logical + count == row[0]:
                held = (logical, count + row[1], target, which)
                continue
            yield held
        held = row
    if held is not None:
        yield held
