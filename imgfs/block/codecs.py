"""Decoders of stored units: what may run in the daemon, in pool threads, without state (INV-8).

Growing this list is a reviewed decision: each entry names a library whose job is hostile input, or what of
ours was made for it and is fuzzed under sanitizers (LZO: no permissive library is kept).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from imgfs.block.clusters import clusters
from imgfs.block.expert import ewf, ewf2
from imgfs.block.galois import galois
from imgfs.block.inflating import Parameters, deflate, gzip_member, held, zlib_stream
from imgfs.block.lzma1 import lzma_unit
from imgfs.block.lzo import lzo
from imgfs.block.pieces import Block
from imgfs.block.restarting import bzip2_block, deflate_window, lz4_blocks
from imgfs.block.shaping import repeat, sectors
from imgfs.block.shortened import lzo_short, zlib_short, zstd_short
from imgfs.block.unpacking import bzip2, lz4, snappy, xz, xz_block, zstd
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.model import Codec

Decoder = Callable[[memoryview, bool, int, Parameters], Block]


def or_plain(decoder: Decoder) -> Decoder:
    """Return a decoder of units that may lie verbatim between compressed ones: all are one strip."""

    def either(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
        if coded:
            return decoder(stored, coded, length, parameters)
        if len(stored) < length:
            raise BadUnit(held(len(stored), length))
        return bytes(stored[:length])

    return either


DECODERS: Final[Mapping[str, Decoder]] = {
    "ewf": ewf,
    "ewf2": ewf2,
    "deflate": deflate,
    "zlib": or_plain(zlib_stream),
    "zstd": or_plain(zstd),
    "zlib-short": zlib_short,
    "zstd-short": zstd_short,
    "lzo-short": lzo_short,
    "lz4": or_plain(lz4),
    "lzo": or_plain(lzo),
    "snappy": snappy,
    "bzip2": bzip2,
    "xz": or_plain(xz),
    "xz-block": xz_block,
    "lzma": or_plain(lzma_unit),
    "clusters": clusters,
    "gzip": gzip_member,
    "deflate-window": deflate_window,
    "bzip2-block": bzip2_block,
    "lz4-blocks": lz4_blocks,
    "sectors": sectors,
    "repeat": repeat,
    "galois": galois,
}


def decode(codec: Codec, stored: memoryview, coded: bool, length: int) -> Block:  # noqa: FBT001  # per unit
    """Return the ``length`` bytes of a unit.

    Raises:
        BadUnit: it does not decode to exactly that.
    """
    return DECODERS[codec.name](stored, coded, length, codec.parameters)
