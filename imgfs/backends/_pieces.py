"""Compressed files whose pieces can be decoded one by one: from the pieces to a layout.

Packed units are of one size; pieces are, up to the last one of whatever the compressor was given. Neighbours
of one size are a group, and a layout of its own; where groups are many, one layout of units of any sizes.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import PACKED_CODED, PACKED_ROW, RAGGED_ROW, Codec, Linear, Media, Packed, Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.model import Layout

# A larger piece is not kept once it is decoded: every read of it would decode it again.
LARGEST: Final = limits.CACHE_BYTES // limits.CACHE_LARGEST_SHARE
_MOST: Final = 4_000_000  # pieces: 256 GiB of those of bgzip
_GROUPS: Final = 4096


class Pieces:
    """Pieces in the order of the media. Units: bytes; ``kind`` is a parameter of the codec."""

    def __init__(self, codec: str, title: str, advice: str) -> None:
        """``advice`` says what the analyst can do when the pieces cannot be used."""
        self.size = 0
        self._codec = codec
        self._title = title
        self._advice = advice
        self._offsets = array("Q")
        self._words = array("Q")  # stored length and flags of a row
        self._sizes = array("Q")
        self._varied = False  # parameters differ
        self._groups: list[tuple[int, dict[str, int | bytes]]] = []  # first piece, parameters

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, offset: int, stored: int, size: int, **parameters: int) -> None:
        """Append a piece of ``size`` bytes, ``stored`` at ``offset``.

        Raises:
            NotSupported: it is too large to be decoded at every read, or they are of ever other sizes.
            Malformed: there are too many.
        """
        if not size:
            return
        if size > LARGEST:
            raise self.unusable(f"a piece of {size} bytes would be decoded whole for each read")
        if len(self._sizes) >= _MOST or stored >= 1 << 32:
            raise Malformed(f"{len(self._sizes)} pieces and one of {stored} bytes")
        if self._begins(size, parameters):
            if len(self._groups) >= _GROUPS and (self._groups[0][1] != parameters or self._varied):
                raise self.unusable("its pieces are of ever other sizes and kinds")
            self._varied = self._varied or bool(self._groups and self._groups[0][1] != parameters)
            self._groups.append((len(self._sizes), dict(parameters)))
        self._offsets.append(offset)
        self._words.append(PACKED_CODED << 32 | stored)
        self._sizes.append(size)
        self.size += size

    def unusable(self, why: str) -> NotSupported:
        """Return the refusal of a file that is what its name says."""
        return NotSupported(f"{self._title}: {why}; {self._advice}")

    def _begins(self, size: int, parameters: dict[str, int]) -> bool:
        """Say whether a piece cannot be a unit behind the ones before."""
        if not self._groups:
            return True
        first, said = self._groups[-1]
        unit = self._sizes[first]
        return size > unit or self._sizes[-1] != unit or said != parameters

    def media(self, reader: Reader, notes: list[str], facts: dict[str, str]) -> Media:
        """Lay the pieces one behind the other.

        Raises:
            Malformed: there are none.
        """
        if not self._groups:
            raise Malformed("there is nothing in it")
        if len(self._groups) > _GROUPS:
            return self._ragged(reader, notes, facts)
        inline = PACKED_ROW * len(self._sizes) <= limits.TABLE_INLINE
        layouts: list[Layout] = []
        rows: list[tuple[int, int, int]] = []
        at, tickets = 0, 1 + len(reader.others)
        for number, (first, parameters) in enumerate(self._groups):
            last = number + 1 == len(self._groups)
            stop = len(self._sizes) if last else self._groups[number + 1][0]
            size = sum(self._sizes[first:stop])
            layouts.append(
                Packed(
                    size=size,
                    unit=self._sizes[first],
                    codec=Codec(self._codec, dict(parameters)),
                    table=self._table(first, stop) if inline else b"",
                )
            )
            rows.append((at, size, 0))
            at += size
        if not inline:
            reader.write_table(self._slices())
        if len(rows) > 1:
            layouts.append(Linear.of(at, rows, range(tickets, tickets + len(rows))))
        return self._media(layouts, notes, facts)

    def _media(self, layouts: list[Layout], notes: list[str], facts: dict[str, str]) -> Media:
        return Media(
            layouts=tuple(layouts),
            version=self._title,
            metadata={"pieces": str(len(self._sizes)), **facts},
            notes=tuple(notes),
        )

    def _ragged(self, reader: Reader, notes: list[str], facts: dict[str, str]) -> Media:
        """Lay the pieces one behind the other, each of its own size."""
        words = array("Q", bytes(RAGGED_ROW * len(self._sizes)))
        words[::3] = array("Q", accumulate(self._sizes[:-1], initial=0))
        words[1::3] = self._offsets
        words[2::3] = self._words
        table = words.tobytes()
        inline = len(table) <= limits.TABLE_INLINE
        if not inline:
            reader.write_table(table[at : at + limits.MIB] for at in range(0, len(table), limits.MIB))
        codec = Codec(self._codec, dict(self._groups[0][1]))
        rows, size = len(self._sizes), self.size
        layout = Ragged(size=size, codec=codec, rows=rows, table=table if inline else b"")
        return self._media([layout], notes, facts)

    def _table(self, first: int, stop: int) -> bytes:
        words = array("Q", bytes(PACKED_ROW * (stop - first)))
        words[::2] = self._offsets[first:stop]
        words[1::2] = self._words[first:stop]
        return words.tobytes()

    def _slices(self) -> Iterator[bytes]:
        step = limits.MIB // PACKED_ROW
        for first in range(0, len(self._sizes), step):
            yield self._table(first, min(first + step, len(self._sizes)))


def hosted(reader: Reader, what: str) -> None:
    """Take host files only, whatever their names: inside other layers such data is plain content.

    Raises:
        NotMine: it is no host file.
    """
    if not reader.name:
        raise NotMine(what)
