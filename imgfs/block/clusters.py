"""Units of clusters that were compressed one by one, each filled up with zeros ahead of it. See ``codecs``.

Many lie in one unit, because one of 4 KiB costs less to decode than to ask for.

Source: erofs.docs.kernel.org, Compressed Format Layout: zero padding, algorithms, interlaced clusters.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.block import lzma1
from imgfs.block.inflating import Parameters, deflate, held
from imgfs.block.unpacking import lz4, zstd
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

CLUSTER: Final = struct.Struct("<IIHH")  # stored bytes, decoded bytes, algorithm, where a turned one begins
LZ4, LZMA, DEFLATE, ZSTD, PLAIN = range(5)
_MICRO: Final[Parameters] = {"form": lzma1.MICRO}


def clusters(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode clusters that are stored one behind the other.

    Parameters: ``front`` bytes of ``stored`` are a row of CLUSTER for each; without any, ``algorithm`` is
    that of the only one.

    Raises:
        BadUnit: one does not decode, or all of them not to ``length`` bytes.
    """
    front, algorithm = parameters.get("front"), parameters.get("algorithm")
    if not front:
        if not isinstance(algorithm, int):
            raise BadUnit("a cluster of no algorithm")
        return cluster(stored, length, algorithm)
    if not isinstance(front, int) or front % CLUSTER.size or front > len(stored):
        raise BadUnit(f"rows of clusters in {front!r} bytes")
    rows = list(CLUSTER.iter_unpack(stored[:front]))
    if sum(row[1] for row in rows) != length:
        raise BadUnit(held(sum(row[1] for row in rows), length))
    parts, at = [], front
    for size, decoded, kind, turn in rows:
        body = stored[at : at + size]
        if len(body) != size:
            raise BadUnit("a cluster is cut short")
        parts.append(plain(body, decoded, turn) if kind == PLAIN else cluster(body, decoded, kind))
        at += size
    return parts[0] if len(parts) == 1 else b"".join(parts)


def plain(stored: memoryview, length: int, turn: int) -> bytes:
    """Return a cluster that is not compressed; it begins at byte ``turn`` and goes on at byte 0.

    Raises:
        BadUnit: it is shorter than ``length`` bytes.
    """
    if length > len(stored) or turn > len(stored):
        raise BadUnit(held(len(stored), length))
    return bytes(stored[turn : turn + length]) + bytes(stored[: max(length - (len(stored) - turn), 0)])


def cluster(stored: memoryview, length: int, algorithm: int) -> Block:
    """Decode one cluster without the zeros ahead of it.

    Raises:
        BadUnit: it does not decode to ``length`` bytes.
    """
    body = memoryview(bytes(stored).lstrip(b"\0"))
    if algorithm == LZ4:
        return lz4(body, True, length, {})
    if algorithm == LZMA:
        return lzma1.lzma_unit(body, True, length, _MICRO)
    if algorithm == DEFLATE:
        return deflate(body, True, length, {})
    if algorithm == ZSTD:
        return zstd(body, True, length, {})
    raise BadUnit(f"clusters of algorithm {algorithm}")
