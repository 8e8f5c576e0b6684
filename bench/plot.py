"""``.bench/bin/python bench/plot.py result.json``: imgfs beside its peers, as PNG and SVG."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOWN = ("sequential", "4 readers", "random 4 KiB, 1 job", "random 4 KiB, 8 jobs", "find", "tar")


def main(path: Path) -> None:
    rows = json.loads(path.read_text())["rows"]
    figure, axes = plt.subplots(2, 3, figsize=(16, 10), constrained_layout=True)
    for axis, workload in zip(axes.flat, SHOWN, strict=True):
        of_it = sorted(
            (r for r in rows if r["workload"] == workload), key=lambda r: (r["image"], r["system"])
        )
        labels = [f"{r['image']}: {r['system']}" for r in of_it]
        medians = [statistics.median(r["cold"]) for r in of_it]
        low = [m - min(r["cold"]) for m, r in zip(medians, of_it, strict=True)]
        high = [max(r["cold"]) - m for m, r in zip(medians, of_it, strict=True)]
        colours = ["#1f6feb" if r["system"].startswith("imgfs") else "#b0b7c0" for r in of_it]
        axis.barh(labels, medians, xerr=[low, high], color=colours, error_kw={"lw": 0.8})
        axis.invert_yaxis()
        unit = of_it[0]["unit"] if of_it else ""
        more = of_it[0]["more_is_better"] if of_it else True
        axis.set_title(f"{workload}, {unit} ({'more' if more else 'less'} is better)", fontsize=10)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
