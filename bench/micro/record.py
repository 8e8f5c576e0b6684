"""Times single steps and keeps what was seen: medians and ranges of several goes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

GOES = 5


class Record:
    """Figures by name. Units: microseconds a call, or what ``add`` is told."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, list[float]]] = {}

    def each(self, name: str, job: Callable[[], object], count: int) -> None:
        """Time a call that takes microseconds."""
        for _ in range(GOES):
            begin = time.perf_counter()
            for _ in range(count):
                job()
            self.add(name, (time.perf_counter() - begin) / count * 1e6, "us")

    def add(self, name: str, value: float, unit: str) -> None:
        """Take note of one figure."""
        self.rows.setdefault(name, (unit, []))[1].append(value)

    def write(self, out: Path) -> None:
        """Write ``micro.json`` and ``micro.md``, and print the latter."""
        out.mkdir(parents=True, exist_ok=True)
        rows = [{"what": name, "unit": unit, "seen": seen} for name, (unit, seen) in self.rows.items()]
        (out / "micro.json").write_text(json.dumps(rows, indent=1) + "\n")
        lines = ["| what | median | range |", "|---|---|---|"]
        for name, (unit, seen) in self.rows.items():
            spread = f"{min(seen):.3g} - {max(seen):.3g}"
            lines.append(f"| {name} | {statistics.median(seen):.3g} {unit} | {spread} |")
        text = "\n".join(lines) + "\n"
        (out / "micro.md").write_text(text)
        print(text)
