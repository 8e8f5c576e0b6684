"""Arithmetic in GF(2^8) of the polynomial 0x11D: what P and Q of RAID 6 are made of, and solved with.

Source: H. Peter Anvin, "The mathematics of RAID-6" (sections 2 to 4); SNIA DDF 2.0, 4.2.9 (other orders of data).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_POLYNOMIAL: Final = 0x11D
_ORDER: Final = 255


def _powers() -> tuple[int, ...]:
    found = [1]
    for _ in range(_ORDER - 1):
        value = found[-1] << 1
        found.append(value ^ _POLYNOMIAL if value & 0x100 else value)
    return tuple(found)


_POWER: Final = _powers()
_LOG: Final = {value: index for index, value in enumerate(_POWER)}


def power(exponent: int) -> int:
    """Return 2 to the power of ``exponent``."""
    return _POWER[exponent % _ORDER]


def times(one: int, other: int) -> int:
    """Return a product."""
    return _POWER[(_LOG[one] + _LOG[other]) % _ORDER] if one and other else 0


def inverse(value: int) -> int:
    """Return what gives 1 when multiplied by ``value``, which is not 0."""
    return _POWER[-_LOG[value] % _ORDER]


@cache
def _table(factor: int) -> bytes:
    return bytes(times(factor, value) for value in range(256))


def combine(blocks: Sequence[bytes], factors: bytes) -> bytes:
    """Return the sum of blocks of one length, each byte multiplied by the factor of its block."""
    if len(blocks) == 1 and factors == b"\1":
        return blocks[0]
    total = 0
    for block, factor in zip(blocks, factors, strict=True):
        data = block if factor == 1 else block.translate(_table(factor))
        total ^= int.from_bytes(data, "little")
    return total.to_bytes(len(blocks[0]), "little")


Term = tuple[int, int]  # disk, factor


def solve(
    data: Sequence[int], p: int, q: int, exponents: Sequence[int], missing: frozenset[int]
) -> list[list[Term]]:
    """Return what each chunk of a row is computed from; nothing for one that cannot be.

    Args:
        data: the disks of the data, in order.
        p: the disk of the sum of all data, -1: there is none.
        q: the disk of the sum of all data times 2 ** exponent, -1: there is none.
        exponents: those of the data.
        missing: disks that cannot be read.
    """
    gone = [number for number, disk in enumerate(data) if disk in missing]
    rows = [[] if disk in missing else [(disk, 1)] for disk in data]
    has_p, has_q = p >= 0 and p not in missing, q >= 0 and q not in missing
    rest = [(disk, power(exponents[i])) for i, disk in enumerate(data) if i not in gone]
    if len(gone) == 1 and has_p:
        rows[gone[0]] = [(p, 1), *((disk, 1) for disk, _ in rest)]
    elif len(gone) == 1 and has_q:
        one = inverse(power(exponents[gone[0]]))
        rows[gone[0]] = [(q, one), *((disk, times(one, factor)) for disk, factor in rest)]
    elif len(gone) == 2 and has_p and has_q:
        for this, that in (gone, gone[::-1]):
            other = power(exponents[that])
            one = inverse(power(exponents[this]) ^ other)
            terms = [(p, times(one, other)), (q, one)]
            rows[this] = [*terms, *((disk, times(one, other ^ factor)) for disk, factor in rest)]
    return rows
