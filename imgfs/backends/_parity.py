"""Where arrays with parity keep their chunks, and what a missing one is the sum of.

Source: md(4), mdadm(8) ``--layout``; SNIA DDF 2.0, section 4.2.9 ("RAID-6 rotating ..."); "The mathematics of
RAID-6", H. Peter Anvin: P is the sum of the data, Q the sum of the data each multiplied by a power of 2 in
GF(2^8), and sections 2 and 3 for what is missing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Final

from imgfs.block.galois import product
from imgfs.model import Striped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

NONE: Final = -1
Terms = list[tuple[int, int]]  # member, factor

# RAID 4 and 5, and RAID 6 where they are named alike; the numbers are md's.
LEFT_ASYMMETRIC, RIGHT_ASYMMETRIC, LEFT_SYMMETRIC, RIGHT_SYMMETRIC, PARITY_FIRST, PARITY_LAST = range(6)
ZERO_RESTART, N_RESTART, N_CONTINUE = 8, 9, 10
WITH_Q_LAST: Final = 16  # this and a layout of RAID 5 over all members but the last, which holds Q
NAMES: Final = {
    LEFT_ASYMMETRIC: "left-asymmetric",
    RIGHT_ASYMMETRIC: "right-asymmetric",
    LEFT_SYMMETRIC: "left-symmetric",
    RIGHT_SYMMETRIC: "right-symmetric",
    PARITY_FIRST: "parity-first",
    PARITY_LAST: "parity-last",
    ZERO_RESTART: "ddf-zero-restart",
    N_RESTART: "ddf-N-restart",
    N_CONTINUE: "ddf-N-continue",
    WITH_Q_LAST + LEFT_ASYMMETRIC: "left-asymmetric-6",
    WITH_Q_LAST + RIGHT_ASYMMETRIC: "right-asymmetric-6",
    WITH_Q_LAST + LEFT_SYMMETRIC: "left-symmetric-6",
    WITH_Q_LAST + RIGHT_SYMMETRIC: "right-symmetric-6",
    WITH_Q_LAST + PARITY_FIRST: "parity-first-6",
}
_POWERS: Final = tuple(accumulate(repeat(2, 254), product, initial=1))
_DDF: Final = (ZERO_RESTART, N_RESTART, N_CONTINUE)


@dataclass(frozen=True, slots=True)
class Stripe:
    """One row of chunks: members of the data in the order of the array, of P and of Q (NONE: there is none).

    ``weights`` are the factors of the data in Q.
    """

    data: tuple[int, ...]
    p: int
    q: int = NONE
    weights: tuple[int, ...] = ()


def stripes(level: int, layout: int, members: int) -> tuple[Stripe, ...] | None:
    """Return the rows that repeat, of RAID 4, 5 or 6; None: no such layout over so many members."""
    if level == 4:
        layout = PARITY_LAST
    fewest, most = (3, 257) if level == 6 else (2, 2048)
    if level not in (4, 5, 6) or not fewest <= members <= most:
        return None
    if level != 6:
        if not 0 <= layout <= PARITY_LAST:
            return None
        return tuple([_single(layout, row, members) for row in range(_period(layout, members))])
    if layout not in NAMES:
        return None
    if layout >= WITH_Q_LAST:
        layout -= WITH_Q_LAST
        rows = [_single(layout, row, members - 1) for row in range(_period(layout, members - 1))]
        return tuple([_weighed(row.data, row.p, members - 1, members, ddf=False) for row in rows])
    return tuple([_double(layout, row, members) for row in range(_period(layout, members))])


def _period(layout: int, members: int) -> int:
    return 1 if layout in (PARITY_FIRST, PARITY_LAST) else members


def _single(layout: int, row: int, members: int) -> Stripe:
    last = members - 1
    if layout in (LEFT_ASYMMETRIC, LEFT_SYMMETRIC):
        p = last - row % members
    elif layout in (RIGHT_ASYMMETRIC, RIGHT_SYMMETRIC):
        p = row % members
    else:
        p = 0 if layout == PARITY_FIRST else last
    if layout in (LEFT_SYMMETRIC, RIGHT_SYMMETRIC):
        return Stripe(tuple([(p + 1 + number) % members for number in range(last)]), p)
    return Stripe(tuple([member for member in range(members) if member != p]), p)


def _double(layout: int, row: int, members: int) -> Stripe:
    last = members - 1
    if layout == N_RESTART:
        row += 1  # as left-asymmetric, which begins one row earlier
    if layout in (LEFT_ASYMMETRIC, LEFT_SYMMETRIC, N_RESTART, N_CONTINUE):
        p = last - row % members
    elif layout in (RIGHT_ASYMMETRIC, RIGHT_SYMMETRIC, ZERO_RESTART):
        p = row % members
    else:
        p = 0 if layout == PARITY_FIRST else members - 2
    q = (p - 1 if layout == N_CONTINUE else p + 1) % members
    if layout in (LEFT_SYMMETRIC, RIGHT_SYMMETRIC):
        data = tuple([(p + 2 + number) % members for number in range(members - 2)])
    elif layout == N_CONTINUE:
        data = tuple([(p + 1 + number) % members for number in range(members - 2)])
    else:
        data = tuple([member for member in range(members) if member not in (p, q)])
    return _weighed(data, p, q, members, ddf=layout in _DDF)


def _weighed(data: tuple[int, ...], p: int, q: int, members: int, *, ddf: bool) -> Stripe:
    """Return a row with its powers of 2: they count data from behind Q on, or with DDF all members from 0."""
    order = [(q + 1 + step) % members for step in range(members)]
    powers = (
        {member: member for member in data}
        if ddf
        else {member: number for number, member in enumerate([m for m in order if m not in (p, q)])}
    )
    return Stripe(data, p, q, tuple([_POWERS[powers[member] % 255] for member in data]))


def inverse(value: int) -> int:
    """Return what gives 1 when multiplied by a value that is not 0."""
    power = value  # value^254
    for _ in range(6):
        power = product(product(power, power), value)
    return product(power, power)


def solved(stripe: Stripe, wanted: int, missing: Collection[int]) -> Terms:
    """Return what chunk ``wanted`` of a row is the sum of; none: too much is missing."""
    data = stripe.data
    if data[wanted] not in missing:
        return [(data[wanted], 1)]
    others = [number for number, member in enumerate(data) if number != wanted]
    gone = [number for number in others if data[number] in missing]
    has_p = stripe.p != NONE and stripe.p not in missing
    has_q = stripe.q != NONE and stripe.q not in missing
    if not gone and has_p:
        return [(data[number], 1) for number in others] + [(stripe.p, 1)]
    weights = stripe.weights
    if not gone and has_q:
        undo = inverse(weights[wanted])
        terms = [(data[number], product(weights[number], undo)) for number in others]
        return [*terms, (stripe.q, undo)]
    if len(gone) == 1 and has_p and has_q:
        other = weights[gone[0]]
        undo = inverse(weights[wanted] ^ other)
        known = [number for number in others if number != gone[0]]
        terms = [(data[number], product(weights[number] ^ other, undo)) for number in known]
        return [*terms, (stripe.p, product(other, undo)), (stripe.q, undo)]
    return []


def dealt(
    rows: Sequence[Stripe],
    which: Mapping[int, int],
    *,
    chunk: int,
    first: int,
    count: int,
    computed: bool = True,
) -> Striped:
    """Return rows [first, first + count) of an array as a layout; what cannot be solved is LOST.

    Args:
        rows: those that repeat.
        which: the sources of the members that are there; row r of a member lies at r * chunk.
        chunk: bytes.
        first: row of the array.
        count: of rows.
        computed: False: parity cannot be relied upon, what is missing is LOST.
    """
    ends, terms = [], []
    shown = min(len(rows), count)
    missing = {member for member in (*rows[0].data, rows[0].p, rows[0].q) if member not in which}
    for step in range(shown):
        stripe = rows[(first + step) % len(rows)]
        gone = sum(member in missing for member in stripe.data)
        solvable = computed and gone <= sum(one in which for one in (stripe.p, stripe.q))
        for wanted, member in enumerate(stripe.data):
            if member in which:
                terms.append((which[member], (first + step) * chunk, 1))
            elif solvable:
                found = solved(stripe, wanted, missing)
                terms += [(which[one], (first + step) * chunk, factor) for one, factor in found]
            ends.append(len(terms))
    return Striped(
        size=count * chunk * len(rows[0].data),
        chunk=chunk,
        stride=shown * chunk,
        ends=array("I", ends).tobytes(),
        which=array("H", [term[0] for term in terms]).tobytes(),
        base=array("q", [term[1] for term in terms]).tobytes(),
        factor=bytes([term[2] for term in terms]),
    )
