"""Rows of chunks over members, some of which may be missing in places: stripes, parity, copies.

A row is one chunk of every member. What is missing is solved from the rest of its row, by factors the daemon
applies; between two changes of what is missing the pattern is one ``Striped``.

Source: kernel documentation admin-guide/device-mapper/dm-raid.rst (names of the layouts) and striped.rst;
md(4) (near copies of RAID10). Where parity lies: ``_parity``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, Final

from imgfs.backends import _parity
from imgfs.backends._lvm2_bodies import Body, joined, merged
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgfs.backends._lvm2_bodies import Range, Run, Stack

    Chunks = list[list[tuple[int, int, int]]]  # of a group of rows: terms (disk, row of the group, factor)

PARITY: Final = {  # level and layout as md numbers them
    "raid5_la": (5, _parity.LEFT_ASYMMETRIC),
    "raid5_ra": (5, _parity.RIGHT_ASYMMETRIC),
    "raid5_ls": (5, _parity.LEFT_SYMMETRIC),
    "raid5_rs": (5, _parity.RIGHT_SYMMETRIC),
    "raid5_0": (5, _parity.PARITY_FIRST),
    "raid5_n": (5, _parity.PARITY_LAST),
    "raid6_zr": (6, _parity.ZERO_RESTART),
    "raid6_nr": (6, _parity.N_RESTART),
    "raid6_nc": (6, _parity.N_CONTINUE),
    "raid6_n_6": (6, _parity.PARITY_LAST),
    "raid6_0_6": (6, _parity.WITH_Q_LAST + _parity.PARITY_FIRST),
    "raid6_la_6": (6, _parity.WITH_Q_LAST + _parity.LEFT_ASYMMETRIC),
    "raid6_ra_6": (6, _parity.WITH_Q_LAST + _parity.RIGHT_ASYMMETRIC),
    "raid6_ls_6": (6, _parity.WITH_Q_LAST + _parity.LEFT_SYMMETRIC),
    "raid6_rs_6": (6, _parity.WITH_Q_LAST + _parity.RIGHT_SYMMETRIC),
}
DISKS: Final = 64  # the most images that the tools make
UNSURE: Final = -1  # in the place of a disk
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
    rows = _parity.stripes(*PARITY[layout], count) if layout in PARITY and count <= DISKS else None
    if rows is None or not rows[0].data:
        raise Malformed(f"{layout} of {count} disks")
    kept = rows

    def terms(row: int, missing: frozenset[int]) -> Chunks:
        stripe = kept[row % len(kept)]
        chunks = range(len(stripe.data))
        return [[(disk, 0, factor) for disk, factor in _parity.solved(stripe, n, missing)] for n in chunks]

    return Pattern(rows=1, chunks=len(kept[0].data), period=len(kept), terms=terms)


def deal(
    stack: Stack,
    size: int,
    chunk: int,
    disks: Sequence[Disk | None],
    pattern: Pattern,
    unsure: Sequence[Range] = (),
) -> Body:
    """Return ``size`` bytes dealt to disks; None: one nobody has.

    ``unsure`` are ranges of every disk where nothing is solved: parity may not fit the data there.

    Raises:
        Malformed: sizes that mean nothing, or a pattern too large for a reply.
    """
    if not 0 < chunk <= size or size % 512 or chunk % 512:
        raise Malformed(f"{size} bytes in chunks of {chunk}")
    share = pattern.chunks * chunk  # bytes of a group of rows
    groups = -(-size // share)
    runs: list[Run] = []
    lost: list[Range] = []
    for first, last, missing, sure in _pieces(groups, pattern.rows * chunk, disks, unsure):
        start, stop = first * share, min(last * share, size)
        turns = min(pattern.period, last - first)
        terms = [
            [
                (lower.which, lower.base + ((first + turn) * pattern.rows + row) * chunk, factor)
                for disk, row, factor in each
                if (lower := disks[disk]) is not None and (sure or len(each) == 1)
            ]
            for turn in range(turns)
            for each in pattern.terms((first + turn) % pattern.period, missing)
        ]
        if not all(terms):
            lost.append((start, stop))  # what is lost in one turn is lost all through
        number = stack.deal(stop - start, chunk, turns * pattern.rows * chunk, terms)
        runs.append((start, stop - start, number, 0))
    return Body(size, joined(size, runs), len(runs), tuple(merged(lost)))


def _pieces(
    groups: int, depth: int, disks: Sequence[Disk | None], unsure: Sequence[Range]
) -> Iterator[tuple[int, int, frozenset[int], bool]]:
    """Return groups [first, last) with the disks that miss part of them, and whether parity is sure there.

    A group is ``depth`` bytes of a disk.
    """
    gone: list[tuple[int, int, int]] = []
    for number, disk in enumerate(disks):
        if disk is None:
            gone.append((0, groups, number))
            continue
        for start, stop in (*disk.lost, (disk.size // depth * depth, groups * depth)):
            gone.append((start // depth, min(-(-stop // depth), groups), number))
    gone += [(start // depth, min(-(-stop // depth), groups), UNSURE) for start, stop in unsure if gone]
    gone = [row for row in gone if row[0] < row[1]]
    edges = sorted({0, groups} | {edge for first, last, _ in gone for edge in (first, last)})
    if len(edges) > _PIECES:
        raise Malformed(f"stripes with {len(edges)} changes of what is missing")
    for first, last in pairwise(edges):
        within = frozenset(disk for start, stop, disk in gone if start <= first and last <= stop)
        yield first, last, within - {UNSURE}, UNSURE not in within
