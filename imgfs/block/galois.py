"""Sums in GF(2^8) of what members of an array store. See ``codecs``.

Source: "The mathematics of RAID-6", H. Peter Anvin, sections 1 and 4: the field of the polynomial 0x11D with
the generator 2. Multiplication by a constant is a table; the sum of two elements is their exclusive or.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from imgfs.errors import BadUnit

try:
    from imgfs.block._galois import added as _added
except ImportError:  # no compiler where it was installed
    _added = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from imgfs.block.inflating import Parameters
    from imgfs.block.pieces import Block

_POLYNOMIAL: Final = 0x11D


def galois(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Add terms of ``length`` bytes that are stored one behind the other, each multiplied by its factor.

    Parameter ``factors``: a byte for each term.

    Raises:
        BadUnit: the bytes stored are no such terms.
    """
    factors = parameters.get("factors")
    if not isinstance(factors, bytes) or not factors or len(stored) != len(factors) * length:
        raise BadUnit(f"{len(stored)} bytes are no terms of {length}")
    if _added is not None:
        return _added(stored, factors, length)
    return added(stored, factors, length)


def added(stored: memoryview, factors: bytes, length: int) -> bytes:
    """Return the sum where the extension was not built: the same result, slower."""
    total = 0
    for number, factor in enumerate(factors):
        term: memoryview | bytes = stored[number * length : (number + 1) * length]
        if factor != 1:
            term = bytes(term).translate(multiples(factor))
        total ^= int.from_bytes(term, "little")
    return total.to_bytes(length, "little")


@cache
def multiples(factor: int) -> bytes:
    """Return what every byte is when multiplied by a factor of [0, 256)."""
    return bytes([product(factor, value) for value in range(256)])


def product(left: int, right: int) -> int:
    """Return the product of two elements of the field."""
    result = 0
    while right:
        if right & 1:
            result ^= left
        left <<= 1
        if left & 0x100:
            left ^= _POLYNOMIAL
        right >>= 1
    return result
