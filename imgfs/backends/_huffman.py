"""Canonical prefix codes as tables that say for the next bits which symbol they begin with.

Source: [MS-XCA] 2.1.4.1 (canonical codes from lengths); [MS-PATCH] 2.2 (the same for LZX).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTH: Final = 31  # of an entry: the bits of its code; above them the symbol


class Code(NamedTuple):
    """A code. ``entries[n]`` is ``symbol << 5 | length`` of the code the ``bits`` bits of n begin with.

    Shapes:
        entries 2**bits; none at all where no symbol has a code
    """

    bits: int
    entries: list[int]


def code(lengths: Sequence[int], what: str) -> Code:
    """Return the code of symbols 0, 1, ... with these lengths, 0: the symbol has none.

    Raises:
        BadUnit: the lengths leave a sequence of bits without a symbol, or give it two.
    """
    bits = max(lengths)
    by_length: list[list[int]] = [[] for _ in range(bits + 1)]
    for symbol, length in enumerate(lengths):
        by_length[length].append(symbol)
    entries: list[int] = []
    for length in range(1, bits + 1):
        times = 1 << (bits - length)
        if len(entries) + len(by_length[length]) * times > 1 << bits:
            raise BadUnit(f"the {what} code names a sequence of bits twice")
        for symbol in by_length[length]:
            entries += [symbol << 5 | length] * times
    if bits and len(entries) != 1 << bits:
        raise BadUnit(f"the {what} code leaves out a sequence of bits")
    return Code(bits, entries)
