"""Figures to a table, ratios and bars: ``result.json`` and ``result.md``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

Rows = list[dict]  # as ``run.Row``


def median(rows: Rows, image: str, system: str, workload: str, state: str = "cold") -> float | None:
    for row in rows:
        if (row["image"], row["system"], row["workload"]) == (image, system, workload) and row[state]:
            return statistics.median(row[state])
    return None


class Figures:
    """Medians, and ratios of them; None where one was not measured."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def of(self, image: str, system: str, workload: str, state: str = "cold") -> float | None:
        return median(self.rows, image, system, workload, state)

    def ratio(
        self, image: str, workload: str, *others: str, best: Callable = max, state: str = "cold"
    ) -> float | None:
        """Imgfs over the best of the others on the same image."""
        mine = self.of(image, "imgfs", workload, state)
        theirs = [t for o in others if (t := self.of(image, o, workload, state)) is not None]
        return mine / best(theirs) if mine is not None and theirs else None

    def bars(self) -> list[tuple[str, str, float | None, str]]:
        """Return (number, what, ratio, bar) of performance P1 to P10."""
        raw, e01, ntfs, qcow = "ext4.raw", "ext4.E01", "ntfs.raw", "ext4.qcow2"
        seq, eight = "sequential", "random 4 KiB, 8 jobs"
        floor = [
            t for t in (self.of(raw, "null, pyfuse3", seq), self.of(raw, "plain pread", seq)) if t is not None
        ]
        mine = self.of(raw, "imgfs", seq)
        media = self.of(raw, "imgfs, disk.raw", seq)
        e_media, e_peer = self.of(e01, "imgfs, disk.raw", seq), self.of(e01, "ewfmount", seq)
        e_find, r_find = self.of(e01, "imgfs", "find"), self.of(raw, "imgfs", "find")
        return [
            ("P1", "sequential ext4 / fuse2fs", self.ratio(raw, seq, "fuse2fs"), ">= 1.3"),
            ("P1", "sequential NTFS / ntfs-3g", self.ratio(ntfs, seq, "ntfs-3g"), ">= 1.3"),
            ("P1", "sequential ext4 / kernel loop", self.ratio(raw, seq, "kernel loop"), ">= 0.6"),
            (
                "P1",
                "sequential ext4 / lesser of null and pread",
                over(mine, min(floor, default=None)),
                ">= 0.8",
            ),
            (
                "P1",
                "disk.raw of raw / lesser of null and pread",
                over(media, min(floor, default=None)),
                ">= 0.8",
            ),
            ("P2", "sequential E01 / ewfmount + loop", self.ratio(e01, seq, "ewfmount + loop"), ">= 3"),
            ("P2", "disk.raw of E01 / ewfmount", over(e_media, e_peer), ">= 1.62"),
            (
                "P3",
                "E01, 4 readers / ewfmount + loop",
                self.ratio(e01, "4 readers", "ewfmount + loop"),
                ">= 3",
            ),
            ("P4", "random raw, 8 jobs / kernel loop", self.ratio(raw, eight, "kernel loop"), ">= 0.8"),
            ("P4", "random E01, 8 jobs / ewfmount + loop", self.ratio(e01, eight, "ewfmount + loop"), ">= 2"),
            (
                "P5",
                "sequential again / kernel loop",
                self.ratio(raw, seq, "kernel loop", state="warm"),
                ">= 0.9",
            ),
            (
                "P5",
                "find again / kernel loop",
                self.ratio(raw, "find", "kernel loop", state="warm"),
                "<= 1.1",
            ),
            ("P6", "find ext4 / kernel loop", self.ratio(raw, "find", "kernel loop", best=min), "<= 3"),
            ("P6", "find NTFS / ntfs-3g", self.ratio(ntfs, "find", "ntfs-3g", best=min), "<= 0.7"),
            ("P6", "find E01 / raw", over(e_find, r_find), "<= 1.3"),
            ("P7", "tar / fuse2fs", self.ratio(raw, "tar", "fuse2fs"), ">= 2.3"),
            ("P7", "tar / dissect", self.ratio(raw, "tar", "dissect target-mount"), ">= 10"),
            ("P7", "tar NTFS / ntfs-3g", self.ratio(ntfs, "tar", "ntfs-3g"), ">= 1"),
            (
                "P8",
                "sequential qcow2 / qemu + loop",
                self.ratio(qcow, seq, "qemu-storage-daemon + loop"),
                ">= 3",
            ),
            *[
                (
                    "containers",
                    f"sequential {image} / {peer}",
                    over(self.of(image, "imgfs, disk.raw", seq), self.of(image, peer, seq)),
                    ">= 3",
                )
                for image, peer in (("media.vmdk", "vmdkmount"), ("media.dmg", "7z"))
            ],
            *[
                (
                    "BitLocker",
                    f"sequential media.bde / {peer}",
                    over(self.of("media.bde", "imgfs, volume.raw", seq), self.of("media.bde", peer, seq)),
                    ">= 3",
                )
                for peer in ("bdemount", "dislocker")
            ],
            *[
                (
                    "compressed file systems",
                    f"sequential {image} / {peer}",
                    over(self.of(image, "imgfs", seq), self.of(image, peer, seq)),
                    bar,
                )
                for image, peer, bar in (
                    ("tree.squashfs", "squashfuse", ">= 2"),
                    ("lzo.squashfs", "squashfuse", ">= 2"),
                    ("xz.squashfs", "squashfuse", ">= 2"),
                    ("tree.erofs", "kernel loop", ">= 0.5"),
                )
            ],
            ("P9", "mount, s", self.of(raw, "imgfs", "mount"), "<= 0.5"),
            ("P9", "first ls, ms", self.of(raw, "imgfs", "first ls"), "<= 60"),
            (
                "P10",
                "daemon after find, without its caches, MiB",
                self.of(raw, "imgfs", "daemon without its caches, after find"),
                "<= 100",
            ),
            (
                "P10",
                "daemon after E01, MiB",
                self.of(e01, "imgfs", "daemon at most, after sequential"),
                "<= 356",
            ),
        ]


def over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def met(value: float, bar: str) -> bool:
    sign, number = bar.split()[:2]
    return value >= float(number) if sign == ">=" else value <= float(number)


def write(out: Path, facts: dict, sizes: dict, rows: Rows, left_out: dict[str, str]) -> None:
    """Write both files and print the second."""
    out.mkdir(parents=True, exist_ok=True)
    bars = Figures(rows).bars()
    result = {"facts": facts, "sizes": sizes, "rows": rows, "left_out": left_out}
    result["bars"] = [{"bar": n, "what": w, "value": v, "wanted": b} for n, w, v, b in bars]
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(facts, sizes, rows, left_out, bars)
    (out / "result.md").write_text(text)
    print(text)


def markdown(facts: dict, sizes: dict, rows: Rows, left_out: dict[str, str], bars: list) -> str:
    lines = ["# Benchmark", "", ", ".join(f"{k}: {v}" for k, v in {**facts, **sizes}.items()), ""]
    lines += ["| bar | what | measured | wanted | |", "|---|---|---|---|---|"]
    for number, what, value, bar in bars:
        shown = "not measured" if value is None else f"{value:.3g}"
        verdict = "" if value is None else ("met" if met(value, bar) else "missed")
        lines.append(f"| {number} | {what} | {shown} | {bar} | {verdict} |")
    for workload in dict.fromkeys(row["workload"] for row in rows):
        of_it = [row for row in rows if row["workload"] == workload]
        lines += [
            "",
            f"## {workload}, {of_it[0]['unit']}",
            "",
            "| image | system | cold | range | warm |",
            "|---|---|---|---|---|",
        ]
        for row in sorted(of_it, key=lambda r: r["image"]):
            values = row["cold"]
            warm = f"{statistics.median(row['warm']):.4g}" if row["warm"] else ""
            spread = f"{min(values):.4g} - {max(values):.4g}"
            lines.append(
                f"| {row['image']} | {row['system']} | {statistics.median(values):.4g} | {spread} | {warm} |"
            )
    if left_out:
        lines += ["", "Not measured:", "", *(f"* {label}: {why}" for label, why in left_out.items())]
    return "\n".join(lines) + "\n"
