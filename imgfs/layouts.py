"""Where the bytes of a stream lie: claims of workers, which ``block.build`` turns into sources.

Part of ``model``, from which everybody else imports them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

HOLE: Final = -1  # the image says: zeros
LOST: Final = -2  # the image does not say: an error to read
LINEAR_ROW: Final = 26  # bytes of a run in the memory file of a reply

CODED: Final = 0x8000_0000  # bit of a Chunked table entry: the unit is compressed
UNIT_HOLE: Final = 0xFFFF_FFFF
UNIT_LOST: Final = 0xFFFF_FFFE

PACKED_ROW: Final = 16  # bytes of a row of a Packed table
PACKED_CODED: Final = 1  # flags of such a row: the unit is compressed; none: its bytes are stored verbatim
PACKED_HOLE: Final = 2
PACKED_LOST: Final = 4
PACKED_PLAIN: Final = 8  # not compressed, and yet the codec's: a checksum is stored with it

RAGGED_ROW: Final = 24  # bytes of a row of a Ragged table
FRONT_ROW: Final = 24  # bytes of a row of its second table
RAGGED_HEAD, RAGGED_TAIL = 8, 12  # shifts of such numbers in its flags


class Codec(msgspec.Struct, frozen=True, array_like=True):
    """Name of a unit decoder and its parameters (see ``block.codecs``)."""

    name: str
    parameters: dict[str, int | bytes] = {}  # msgspec decodes one kind of string in a union

    def __repr__(self) -> str:
        """Return what may be logged: a parameter may be a key."""
        return f"Codec({self.name})"


class Inline(msgspec.Struct, frozen=True, tag="inline"):
    """Content stored in the metadata itself."""

    data: bytes

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.data)


class Linear(msgspec.Struct, frozen=True, kw_only=True, tag="linear"):
    """Runs of one stream, in bytes.

    Columns are parallel, of length n, sorted by ``logical``, not overlapping. What no run covers is
    LOST: a back-end that means zeros says HOLE. ``which`` counts the tickets of the worker first and
    the earlier layouts of the same reply after them; empty means ticket 0. ``rows`` > 0: the columns are
    empty here, and lie in the memory file of the reply, one behind the other, of that many rows.

    Shapes:
        logical int64[n]: offset in the stream
        length  int64[n]: > 0
        target  int64[n]: offset in lowers[which], or HOLE, or LOST
        which  uint16[n]
    """

    size: int
    logical: bytes
    length: bytes
    target: bytes
    which: bytes = b""
    rows: int = 0

    @classmethod
    def of(cls, size: int, runs: Iterable[tuple[int, int, int]], which: Iterable[int] = ()) -> Linear:
        """Build the columns from (logical, length, target) rows."""
        rows = list(runs)
        columns = [array("q", column).tobytes() for column in zip(*rows, strict=True)] or [b"", b"", b""]
        return cls(
            size=size,
            logical=columns[0],
            length=columns[1],
            target=columns[2],
            which=array("H", which).tobytes(),
        )


class Chunked(msgspec.Struct, frozen=True, kw_only=True, tag="chunked"):
    """Units of one size, each decoded by a codec from where it is stored.

    The stored bytes of unit i of group g are [base[g] + entry(i), base[g] + entry(i + 1)) of
    lowers[which[g]]; the last unit of a group ends at ends[g]. Entries are offsets below 2^31 with
    the CODED bit, or UNIT_HOLE, or UNIT_LOST. Within a group they ascend.

    Shapes:
        table uint32[n]: n = ceil(size / unit); empty: the rows lie in the memory file of the reply
        first  int64[m]: first unit of each group, ascending, first[0] == 0
        base   int64[m]
        ends   int64[m]
        which uint16[m]: as in Linear; empty means ticket 0
    """

    size: int
    unit: int
    codec: Codec
    table: bytes
    first: bytes
    base: bytes
    ends: bytes
    which: bytes = b""


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed"):
    """Units of one decoded size, each with an explicit place in lowers[which].

    Rows are little-endian: offset u64, stored length u32, flags u32 (PACKED_CODED, PACKED_PLAIN, PACKED_HOLE,
    PACKED_LOST or none of them). Units may lie in any order, overlap, and have gaps between them; the
    last may be shorter than ``unit``, which counts decoded bytes. ``which`` counts as in Linear.

    Shapes:
        table rows[n] of 16 bytes: n = ceil(size / unit); empty: the rows lie in the memory file of the reply
    """

    size: int
    unit: int
    codec: Codec
    table: bytes
    which: int = 0


class Ragged(msgspec.Struct, frozen=True, kw_only=True, tag="ragged"):
    """Units of any decoded sizes, each with an explicit place in lowers[which].

    Rows ascend: first decoded byte u64, offset u64, stored length u32, flags u32; the last unit ends at
    ``size``. Flags: those of Packed, and at RAGGED_HEAD and RAGGED_TAIL how many bits of the first and last
    byte are not the unit's. With ``front`` >= 0 a second table: offset u64, length u32, skip u32, check u32,
    zero u32. That much of lowers[front] comes before the stored bytes, ``skip`` decoded bytes before the
    unit's; ``check`` is their CRC-32.

    Shapes: ``rows`` rows of 24 bytes in table, and in ahead with ``front``; empty: both in the memory file
    """

    size: int
    codec: Codec
    rows: int
    table: bytes = b""
    ahead: bytes = b""
    which: int = 0
    front: int = -1

    @property
    def needed(self) -> int:
        """Return how many bytes both tables have."""
        return self.rows * (RAGGED_ROW + (FRONT_ROW if self.front >= 0 else 0))


class Striped(msgspec.Struct, frozen=True, kw_only=True, tag="striped"):
    """Chunks dealt out to members in a pattern that repeats, some of them to be computed from others.

    Chunk i of the stream, ``chunk`` bytes, is number c = i % period of round r = i // period. Its terms are
    [ends[c - 1], ends[c]): one term is bytes [base + r * stride, + chunk) of lowers[which], several are added
    in GF(2^8) of the polynomial 0x11D, each byte multiplied by its factor: the parity of RAID 5 has factors
    of 1, Q of RAID 6 and what is solved from it others. No term: LOST. One term of factor 1 is stored bytes.
    The last chunk may be shorter; of its terms as much is used.

    Shapes:
        ends  uint32[period]: ascending
        which uint16[t], base int64[t], factor uint8[t]: of all terms, t = ends[-1]
    """

    size: int
    chunk: int
    stride: int
    ends: bytes
    which: bytes
    base: bytes
    factor: bytes


class Enciphered(msgspec.Struct, frozen=True, kw_only=True, tag="enciphered"):
    """Sectors of ciphertext as long as their plaintext: byte i of the stream is stored at base + i.

    ``codec`` names a cipher (see ``block.ciphers``) with its key; sector k of the stream has the number
    ``first`` + k * ``step`` for the cipher. Units: ``size``, ``sector``, ``base`` bytes. ``which`` is as in
    Linear. What is not encrypted, or lies elsewhere, is laid over this by a Linear.
    """

    size: int
    sector: int
    codec: Codec
    first: int = 0
    step: int = 1
    base: int = 0
    which: int = 0


class Summed(msgspec.Struct, frozen=True, kw_only=True, tag="summed"):
    """Sectors stored verbatim in place, each with a checksum elsewhere that is compared when it is read.

    Sector k is bytes [k * sector, + sector) of lowers[which], its checksum number k of those that lie one
    behind the other in lowers[sums]; ``kind`` names them (see ``block.sums``). ``also`` are further sources
    of the same bytes, for sectors whose checksum differs. Units: ``size`` and ``sector`` bytes, the first a
    multiple of the other.

    Shapes:
        also uint16[m]
    """

    size: int
    sector: int
    kind: str
    which: int
    sums: int
    also: bytes = b""


class Foreign(msgspec.Struct, frozen=True, kw_only=True, tag="foreign"):
    """Bytes only the worker can produce, through its ``read`` verb. ``why`` is counted and shown."""

    size: int
    why: str = ""


Layout = Inline | Linear | Chunked | Packed | Ragged | Striped | Enciphered | Summed | Foreign
