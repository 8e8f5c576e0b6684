"""``python -m bench.compare OLD NEW``: what changed beyond noise between two ``result.json``.

Absolute figures of two runs do not compare: the machine drifts. Each figure is divided by the yardstick of
its own run (the median of what the kernel, the null file system and the peers reached there against the
other run, per workload), and a change counts when the ranges of the two do not overlap.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path


def load(path: Path) -> dict[tuple[str, str, str], dict]:
    rows = json.loads(path.read_text())["rows"]
    return {(row["image"], row["system"], row["workload"]): row for row in rows}


def drift(old: dict, new: dict) -> dict[str, float]:
    """Return, per workload, how much faster everybody but imgfs was in the new run."""
    factors: dict[str, list[float]] = {}
    for key in old.keys() & new.keys():
        if not key[1].startswith("imgfs"):
            factor = statistics.median(new[key]["cold"]) / statistics.median(old[key]["cold"])
            factors.setdefault(key[2], []).append(factor)
    return {workload: statistics.median(values) for workload, values in factors.items()}


def changes(old: dict, new: dict) -> list[tuple[str, float, bool]]:
    """Return (what, ratio new to old without drift, better) of what changed beyond noise."""
    by = drift(old, new)
    found = []
    for key in sorted(old.keys() & new.keys()):
        if not key[1].startswith("imgfs"):
            continue
        factor = by.get(key[2], 1.0)
        before, after = old[key]["cold"], [value / factor for value in new[key]["cold"]]
        if min(after) <= max(before) and min(before) <= max(after):
            continue
        ratio = statistics.median(after) / statistics.median(before)
        found.append((", ".join(key), ratio, (ratio > 1) == old[key]["more_is_better"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    found = changes(load(given.old), load(given.new))
    for what, ratio, better in found:
        print(f"{'better' if better else 'WORSE '}  x {ratio:.2f}  {what}")
    if not found:
        print("nothing changed beyond noise")


if __name__ == "__main__":
    main()
