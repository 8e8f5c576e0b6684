"""Rows of chunks over members, some of which may be missing in places: stripes, parity, copies.

A row is one chunk of every member. What is missing is solved from the rest of its row, by factors the daemon
applies; between two changes of what is missing the pattern is one ``Striped``.

Source: SNIA DDF 2.0, chapter 4 (RAID levels, parity rotations, Q); kernel documentation
admin-guide/device-mapper/dm-raid.rst (names of the layouts) and striped.rst; md(4) (near copies of RAID10).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Final

from imgfs.backends._galois import solve
from imgfs.backends._lvm2_bodies import Body, joined
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgfs.backends._galois import Term
    from imgfs.backends._lvm2_bodies import Range, Run, Stack

    Chunks = list[list[tuple[int, int, int]]]  # of a group of rows: terms (disk, row of the group, factor)

PARITY: Final = {  # how the parity moves: layout -> disks of Q
    "raid5_n": 0,
    "raid5_0": 0,
    "raid5_la": 0,
    "raid5_ra": 0,
    "raid5_ls": 0,
    "raid5_rs": 0,
    "raid6_zr": 1,
    "raid6_nr": 1,
    "raid6_nc": 1,
    "raid6_n_6": 1,
    "raid6_0_6": 1,
    "raid6_la_6": 1,
    "raid6_ra_6": 1,
    "raid6_ls_6": 1,
    "raid6_rs_6": 1,
}
DISKS: Final = 256
_PIECES: Final = 1024  # changes of what is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A member: bytes [base, base + size) of a lower, some ranges of which (counted from base) are lost."""

    which: int
    base: int
    size: int
    lost: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """How chunks are dealt: ``rows`` are a group, in which ``chunks`` lie; ``period`` groups repeat."""

    rows: int
    chunks: int
    period: int
    terms: Callable[[int, frozenset[int]], Chunks]


def plain(count: int) -> Pattern:
    """Return stripes without parity."""

    def terms(_row: int, missing: frozenset[int]) -> Chunks:
        return [[] if disk in missing else [(disk, 0, 1)] for disk in range(count)]

    return Pattern(rows=1, chunks=count, period=1, terms=terms)


def copies(count: int, each: int) -> Pattern:
    """Return RAID10 with near copies: each chunk lies ``each`` times in a row of disks.

    Raises:
        Malformed: there are more copies than disks.
    """
    if not 0 < each <= count:
        raise Malformed(f"{each} copies on {count} disks")
    chunks = count // gcd(count, each)

    def terms(_group: int, missing: frozenset[int]) -> Chunks:
        found: Chunks = []
        for chunk in range(chunks):
            places = (divmod(chunk * each + copy, count) for copy in range(each))
            usable = [(disk, row, 1) for row, disk in places if disk not in missing]
            found.append(usable[:1])
        return found

    return Pattern(rows=chunks * each // count, chunks=chunks, period=1, terms=terms)


def parity(layout: str, count: int) -> Pattern:
    """Return a layout with parity.

    Raises:
        Malformed: there is no such layout of so many disks.
    """
    queues = PARITY.get(layout, -1)
    data = count - 1 - queues
    if queues < 0 or data < 1 or count > DISKS - 1:
        raise Malformed(f"{layout} of {count} disks")
    fixed = layout in ("raid5_n", "raid5_0", "raid6_n_6", "raid6_0_6")
    period = 1 if fixed else count - 1 if layout.endswith("_6") else count

    def terms(row: int, missing: frozenset[int]) -> Chunks:
        return [[(disk, 0, factor) for disk, factor in each] for each in _row(layout, count, row, missing)]

    return Pattern(rows=1, chunks=data, period=period, terms=terms)


def _row(layout: str, count: int, row: int, missing: frozenset[int]) -> list[list[Term]]:
    """Return the terms of the data of one row."""
    if layout.endswith("_6"):  # RAID 5 on all but the last disk, which holds Q
        p, data = _five(layout.removeprefix("raid6_").removesuffix("_6"), count - 1, row)
        q = count - 1
    elif PARITY[layout]:
        p, q, data = _six(layout, count, row)
    else:
        p, data = _five(layout.removeprefix("raid5_"), count, row)
        return solve(data, p, -1, [0] * len(data), missing)
    if layout in ("raid6_zr", "raid6_nr", "raid6_nc"):
        exponents = data  # DDF counts every disk from the first
    else:
        order = [(q + 1 + step) % count for step in range(count)]
        place = {disk: number for number, disk in enumerate(d for d in order if d not in (p, q))}
        exponents = [place[disk] for disk in data]
    return solve(data, p, q, exponents, missing)


def _five(kind: str, count: int, row: int) -> tuple[int, list[int]]:
    """Return the disk of the parity, and those of the data in order."""
    if kind == "n":
        return count - 1, list(range(count - 1))
    if kind == "0":
        return 0, list(range(1, count))
    turn = row % count
    p = count - 1 - turn if kind[0] == "l" else turn
    if kind[1] == "s":  # symmetric: the data goes on behind the parity
        return p, [(p + 1 + step) % count for step in range(count - 1)]
    return p, [disk for disk in range(count) if disk != p]


def _six(layout: str, count: int, row: int) -> tuple[int, int, list[int]]:
    """Return the disks of P and Q, and those of the data in order."""
    turn = row % count
    if layout == "raid6_nc":
        p = count - 1 - turn
        q = (p - 1) % count
        return p, q, [(p + 1 + step) % count for step in range(count - 2)]
    p = turn if layout == "raid6_zr" else (count - 1 - (row + 1)) % count
    q = (p + 1) % count
    return p, q, [disk for disk in range(count) if disk not in (p, q)]


def deal(stack: Stack, size: int, chunk: int, disks: Sequence[Disk | None], pattern: Pattern) -> Body:
    """Return ``size`` bytes dealt to disks; None: one nobody has.

    Raises:
        Malformed: sizes that mean nothing, or a pattern too large for a reply.
    """
    if not 0 < chunk <= size or size % 512 or chunk % 512:
        raise Malformed(f"{size} bytes in chunks of {chunk}")
    share = pattern.chunks * chunk  # bytes of a group of rows
    groups = -(-size // share)
    runs: list[Run] = []
    for first, last, missing in _pieces(groups, pattern.rows * chunk, disks):
        start, stop = first * share, min(last * share, size)
        turns = min(pattern.period, last - first)
        terms = [
            [
                (lower.which, lower.base + ((first + turn) * pattern.rows + row) * chunk, factor)
                for disk, row, factor in each
                if (lower := disks[disk]) is not None
            ]
            for turn in range(turns)
            for each in pattern.terms((first + turn) % pattern.period, missing)
        ]
        number = stack.deal(stop - start, chunk, turns * pattern.rows * chunk, terms)
        runs.append((start, stop - start, number, 0))
    lost = tuple(_unsolved(size, chunk, pattern, groups, disks))
    return Body(size, joined(size, runs), len(runs), lost)


def _pieces(
    groups: int, depth: int, disks: Sequence[Disk | None]
) -> Iterator[tuple[int, int, frozenset[int]]]:
    """Return groups [first, last) with the disks that miss part of them; ``depth`` bytes of a disk each."""
    gone: list[tuple[int, int, int]] = []
    for number, disk in enumerate(disks):
        if disk is None:
            gone.append((0, groups, number))
            continue
        for start, stop in (*disk.lost, (disk.size // depth * depth, groups * depth)):
            first, last = start // depth, min(-(-stop // depth), groups)
            if first < last:
                gone.append((first, last, number))
    edges = sorted({0, groups} | {edge for first, last, _ in gone for edge in (first, last)})
    if len(edges) > _PIECES:
        raise Malformed(f"stripes with {len(edges)} changes of what is missing")
    for first, last in zip(edges, edges[1:], strict=False):
        yield first, last, frozenset(disk for a, b, disk in gone if a <= first and last <= b)


def _unsolved(
    size: int, chunk: int, pattern: Pattern, groups: int, disks: Sequence[Disk | None]
) -> Iterator[Range]:
    """Return the ranges that are lost, in whole pieces: what is lost in one pattern is lost all through."""
    share = pattern.chunks * chunk
    for first, last, missing in _pieces(groups, pattern.rows * chunk, disks):
        if missing and any(
            not each for turn in range(min(pattern.period, last - first)) for each in pattern.terms(turn, missing)
        ):
            yield first * share, min(last * share, size)
