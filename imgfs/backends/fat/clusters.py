"""Which clusters an entry has: the chain of a live one, what is left of a deleted one.

A chain that ends early, leaves the volume or bites its tail is as long as it is sound. Of a deleted file
only the first cluster is known for sure: its content is what lies in free clusters from there on, as TSK
recovers it; a first cluster in use belongs to another file by now, and nothing is shown of it.

Source: Microsoft FAT specification 1.03, section 4 (FAT); exFAT specification, sections 4.1, 6.3.4.2
(NoFatChain).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.fat.table import SHIFT, WINDOW
from imgfs.errors import Malformed
from imgfs.limits import MAX_RUNS
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.fat.volume import Form, Item, Volume

NO_FIRST: Final = "the entry names no cluster of the volume"
REUSED: Final = "the first cluster belongs to another file now"
_ENDS: Final = "the chain ends after {} of {} clusters"
_CIRCLE: Final = "the chain leads back into itself"
_LEAVES: Final = "its clusters leave the volume"
_TAKEN: Final = "some of its clusters belong to other files now"
_SKIPPED: Final = "clusters in use by other files were left out: what follows them may be another file's"
_TOO_FEW: Final = "too few free clusters behind the first: nothing says where the rest lies"

Run = tuple[int, int]  # first cluster, how many


class Found(NamedTuple):
    """The clusters of an entry as far as they are known, ``clusters`` of them.

    ``short``: the chain simply ends, which is how a directory without a size does.
    """

    runs: list[Run]
    clusters: int
    damaged: str = ""
    short: bool = False


def chain(volume: Volume, first: int, need: int, runs_max: int = MAX_RUNS) -> Found:
    """Follow a chain for at most ``need`` clusters. ``damaged`` says why there are fewer.

    Raises:
        Malformed: it has more than ``runs_max`` runs.
    """
    if not volume.holds(first):
        return Found([], 0, NO_FIRST)
    run = volume.table.run
    count, following = run(first, need)
    if count >= need:
        return Found([(first, count)], count)
    runs, starts, total = [(first, count)], {first}, count
    why = ""
    while total < need:
        if not following:
            why = _ENDS.format(total, need)
            break
        if following in starts:
            why = _CIRCLE
            break
        starts.add(following)
        count, after = run(following, need - total)
        runs.append((following, count))
        total, following = total + count, after
        if len(runs) > runs_max:
            raise Malformed(f"cluster {first}: more than {runs_max} runs")
    ordered = sorted(runs)
    if why == _CIRCLE or any(start + length > other for (start, length), (other, _) in pairwise(ordered)):
        runs, total = _until_repeated(runs)
        return Found(runs, total, _CIRCLE)
    return Found(runs, total, why, short=bool(why))


def _until_repeated(runs: list[Run]) -> tuple[list[Run], int]:
    """Return the runs up to the first cluster that was there before."""
    kept: list[Run] = []
    seen: list[Run] = []  # by cluster, not overlapping
    total = 0
    for start, count in runs:
        index = bisect_right(seen, (start, 1 << 62))
        if index and seen[index - 1][0] + seen[index - 1][1] > start:
            break
        room = seen[index][0] - start if index < len(seen) else count
        kept.append((start, min(count, room)))
        total += kept[-1][1]
        if room < count:
            break
        insort(seen, (start, count))
    return kept, total


def clusters_of(volume: Volume, item: Item, runs_max: int = MAX_RUNS) -> Found:
    """Return the clusters a live entry needs for its size."""
    need = -(-item.size // volume.cluster)
    if not need:
        return Found([], 0)
    if not item.contiguous:
        return chain(volume, item.first, need, runs_max)
    if not volume.holds(item.first):
        return Found([], 0, NO_FIRST)
    count = min(need, volume.stop - item.first)
    return Found([(item.first, count)], count, "" if count == need else _LEAVES)


def recovered(volume: Volume, item: Item, runs_max: int = MAX_RUNS) -> Found:
    """Return the clusters a deleted entry had, as far as can be told."""
    need = -(-item.size // volume.cluster)
    if not need:
        return Found([], 0)
    if not volume.holds(item.first):
        return Found([], 0, NO_FIRST)
    if not volume.is_free(item.first):
        return Found([], 0, REUSED)
    if item.contiguous:
        return _contiguous(volume, item.first, min(need, volume.stop - item.first), need)
    if volume.table.value(item.first):  # exFAT releases clusters in a bitmap: the chain may have survived
        found = chain(volume, item.first, need, runs_max)
        if not found.damaged and all(_all_free(volume, run) for run in found.runs):
            return found
    runs, total, skipped = list[Run](), 0, False
    for start, count in free_runs(volume, item.first):
        if runs:
            skipped = True
        runs.append((start, min(count, need - total)))
        total += runs[-1][1]
        if total >= need:
            return Found(runs, total, _SKIPPED if skipped else "")
        if len(runs) > runs_max:
            raise Malformed(f"cluster {item.first}: more than {runs_max} runs")
    return Found([(item.first, 1)], 1, _TOO_FEW)


def _contiguous(volume: Volume, first: int, count: int, need: int) -> Found:
    """Return one run that is known to have been the file's; what others have taken of it is lost."""
    runs, free, at, stop = list[Run](), 0, first, first + count
    for start, length in free_runs(volume, first):
        if start >= stop:
            break
        if start > at:
            runs.append((LOST, start - at))
        taken = min(length, stop - start)
        runs.append((start, taken))
        free, at = free + taken, start + taken
    return Found(runs, free, "" if free == need else _TAKEN)


def _all_free(volume: Volume, run: Run) -> bool:
    start, count = next(free_runs(volume, run[0]), (0, 0))
    return start == run[0] and count >= run[1]


def free_runs(volume: Volume, cluster: int) -> Iterator[Run]:
    """Yield the runs of free clusters from ``cluster`` on."""
    begin = end = base = -1
    while cluster < volume.stop:
        index = cluster >> SHIFT
        free, base = volume.allocation.free_map(index), index << SHIFT
        at, end = cluster - base, min(len(free), volume.stop - base)
        while at < end:
            if begin < 0:
                at = free.find(1, at, end)
                if at < 0:
                    break
                begin = base + at
            stop = free.find(0, at, end)
            if stop < 0:
                break
            yield begin, base + stop - begin
            begin, at = -1, stop
        if len(free) < WINDOW:
            break
        cluster = base + WINDOW
    if begin >= 0:
        yield begin, min(volume.stop, base + end) - begin


def released(volume: Volume, item: Item, form: Form) -> list[Run]:
    """Return the clusters a deleted directory still has, none when its first belongs to others.

    A directory of exFAT has a size. One of FAT has none: it goes on behind its first cluster as long as
    what lies there goes on like a directory.
    """
    if not volume.is_free(item.first):
        return []
    if item.size:
        found = recovered(volume, item._replace(size=min(item.size, form.longest)))
        return [run for run in found.runs if run[0] >= 0]
    count, most = 1, max(form.longest // volume.cluster, 1)
    while count < most and form.goes_on(volume, item.first + count):
        count += 1
    return [(item.first, count)]


def directory_clusters(volume: Volume, item: Item, form: Form) -> Found:
    """Return the clusters of a live directory: what its size needs, or its whole chain if it states none."""
    if item.contiguous or item.size:
        found = clusters_of(volume, item._replace(size=min(item.size, form.longest)))
    else:
        most = max(form.longest // volume.cluster, 1)
        found = chain(volume, item.first, most + 1)
        if found.short and found.clusters <= most:
            return Found(found.runs, found.clusters)
        if not found.damaged:
            return Found(found.runs, found.clusters, f"a directory of more than {form.longest} bytes")
    return found
