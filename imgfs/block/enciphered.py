"""Ciphertext as a source of units: a key and a sector's number are all it takes. Pure (INV-1, INV-2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from imgfs import limits
from imgfs.block import ciphers
from imgfs.block.pieces import Coded, Stored, StoredUnit, Strip
from imgfs.block.units import UnitMap
from imgfs.errors import BadUnit, Malformed
from imgfs.model import PACKED_CODED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import Block, ByteSource, Piece
    from imgfs.model import Enciphered

_UNIT: Final = 64 * limits.KIB
MARGIN: Final = 2 * _UNIT  # sectors are no larger than a unit


class CipherMap(UnitMap):
    """A ByteSource over ciphertext in one lower source; see ``model.Enciphered``."""

    __slots__ = ("_quick", "claim", "key", "lower")

    def __init__(self, claim: Enciphered, lower: ByteSource, spec: str) -> None:
        """Take over a checked claim; see ``checked``."""
        super().__init__(claim.size, _UNIT, claim.codec, spec)
        self.claim = claim
        self.lower = lower
        self._quick = ciphers.quick(claim.codec)
        self.key = ciphers.plain_key(claim.codec)

    @classmethod
    def checked(cls, claim: Enciphered, lowers: Sequence[ByteSource], spec: str) -> Self:
        """Accept a claim about ciphertext.

        Raises:
            Malformed: it leaves its source, or names no cipher that there is.
        """
        if not 0 <= claim.which < len(lowers):
            raise Malformed(f"ciphertext in source {claim.which} of {len(lowers)}", spec=spec)
        lower = lowers[claim.which]
        try:
            ciphers.check(claim)
        except Malformed as why:
            why.spec = spec
            raise
        if claim.size % claim.sector or not 0 <= claim.base <= claim.base + claim.size <= lower.size:
            raise Malformed(
                f"{claim.size} bytes at {claim.base} of {lower.size}, in sectors of {claim.sector}", spec=spec
            )
        if not 0 <= claim.first < 1 << 63 or not 0 < claim.step <= limits.MIB:
            raise Malformed(f"sectors from {claim.first} in steps of {claim.step}", spec=spec)
        last = claim.first + claim.size // claim.sector * claim.step
        if last * (claim.sector if claim.codec.parameters.get("iv") == b"eboiv" else 1) >= 1 << 64:
            raise Malformed(f"sectors up to {last}: vectors have 64 bits", spec=spec)
        if claim.codec.parameters.get("iv") == ciphers.HMAC.encode() and last > 1 << 32:
            raise Malformed(f"sectors up to {last}: these vectors have 32 bits", spec=spec)
        return cls(claim, lower, spec)

    def decrypt(self, index: int, stored: memoryview, *, ours: bool = False) -> Block | BadUnit:
        """Return the plaintext of what is stored from unit ``index`` on. Runs in a pool thread.

        ``ours``: nobody else refers to ``stored``, which may become the plaintext.
        """
        claim = self.claim
        whole = stored.obj
        data = whole if ours and type(whole) is bytearray and len(whole) == len(stored) else bytearray(stored)
        first, step = self.numbered(index)
        try:
            ciphers.decrypt(claim.codec, claim.sector, first, step, data)
        except BadUnit as why:
            return why
        except ValueError as why:
            return BadUnit(str(why), spec=self.spec, start=index * _UNIT)
        return data

    def at_once(self, piece: Coded, stored: Stored, room: memoryview) -> memoryview:
        """Return the plaintext of part of what is ``stored``, in ``room``, if the page cache has it.

        ``room`` is ``MARGIN`` bytes longer than the piece, or more: whole sectors are decrypted.

        Raises:
            NotCached: some of it would have to be waited for.
            MediaChanged: the host file changed.
        """
        begin, end = self._sectors(piece)
        data = room[: end - begin]
        stored.file.check()
        stored.file.read_into_nowait(stored.offset + begin, data)
        return self.plain(piece, data)

    def waiting(self, piece: Coded, stored: Stored) -> tuple[HostFile, int, memoryview]:
        """Return what is to be read for the plaintext of part of what is ``stored``: see ``plain``.

        Raises:
            MediaChanged: the host file changed.
        """
        begin, end = self._sectors(piece)
        stored.file.check()
        return stored.file, stored.offset + begin, memoryview(bytearray(end - begin))

    def plain(self, piece: Coded, data: memoryview) -> memoryview:
        """Decrypt, in place, the whole sectors around a piece; return what it wants of them."""
        claim = self.claim
        begin, _ = self._sectors(piece)
        number = (piece.unit.index * _UNIT + begin) // claim.sector
        ciphers.decrypt(claim.codec, claim.sector, claim.first + number * claim.step, claim.step, data)
        return data[piece.skip - begin : piece.skip - begin + piece.length]

    def _sectors(self, piece: Coded) -> tuple[int, int]:
        """Return where in its unit the sectors around a piece begin and end."""
        sector = self.claim.sector
        end = piece.skip + piece.length
        return piece.skip - piece.skip % sector, end + -end % sector

    def quick(self, unit: StoredUnit | Strip) -> Stored | None:
        """Return where a unit is stored if decrypting it takes less than another thread's help would."""
        if not self._quick:
            return None
        if isinstance(unit, Strip):
            return unit.stored
        stored = unit.pieces[0]
        return stored if len(unit.pieces) == 1 and isinstance(stored, Stored) else None

    def numbered(self, index: int) -> tuple[int, int]:
        """Return the number of the first sector of a unit, and the step from one to the next."""
        claim = self.claim
        return claim.first + index * _UNIT // claim.sector * claim.step, claim.step

    def units(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie, unit by unit; see ``UnitSource``."""
        pieces: list[Piece] = []
        base = self.claim.base
        while start < stop:
            index = start // _UNIT
            at = index * _UNIT
            until = min(at + _UNIT, self.size)
            taken = min(until, stop) - start
            stored = tuple(self.lower.plan(base + at, base + until))
            unit = StoredUnit(self._number | index, self, index, until - at, self.codec, True, stored)
            pieces.append(Coded(unit, start - at, taken))
            start += taken
        return pieces

    def _strip(self, number: int) -> Strip | None:
        """Return a strip; None: its ciphertext is not stored plainly in one piece."""
        index = number * self._per_strip
        at = index * _UNIT
        until = min(at + self._per_strip * _UNIT, self.size)
        base = self.claim.base
        stored = self.lower.plan(base + at, base + until)
        if len(stored) != 1 or not isinstance(piece := stored[0], Stored):
            return None
        ends = [*range(_UNIT, until - at, _UNIT), until - at]
        return Strip(
            key=self._number | number,
            source=self,
            index=index,
            length=until - at,
            stored=piece,
            starts=tuple(range(0, until - at, _UNIT)),
            ends=tuple(ends),
            flags=(PACKED_CODED,) * len(ends),
        )
