"""Disks of a guest in a few KiB: what is zeros or known data is said, the rest kept.

A recording is one xz file: a line of JSON (sizes, runs, and the truth the guest read), then the kept blocks.
Runs are [block, count, name, index] in blocks of 4 KiB: of the data ``name`` (see ``pattern``) from block
``index`` on, or with name "" kept here. What no run covers is zeros.
"""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING, Any

from tests.guest.pattern import BLOCK, block

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_ZEROS = bytes(BLOCK)


def save(
    path: Path, disks: Mapping[str, Path], truth: Mapping[str, Any], known: Iterable[tuple[str, int]] = ()
) -> int:
    """Write a recording of disks and of what is true about them, and return its length in bytes.

    Args:
        path: where to.
        disks: images by name.
        truth: anything JSON can hold.
        known: names of data that the disks may hold, with the size of each in bytes.
    """
    index = {block(name, at): (name, at) for name, size in known for at in range(-(-size // BLOCK))}
    kept: list[bytes] = []
    tables = {}
    for name, image in disks.items():
        runs: list[list[int | str]] = []
        with image.open("rb") as file:
            at = 0
            while data := file.read(BLOCK):
                if data.count(0) != len(data):
                    _note(runs, at, *index.get(data, ("", 0)))
                    if data not in index:
                        kept.append(data.ljust(BLOCK, b"\0"))
                at += 1
        tables[name] = {"size": image.stat().st_size, "runs": runs}
    head = json.dumps({"disks": tables, "truth": truth}, separators=(",", ":")).encode()
    packed = lzma.compress(head + b"\n" + b"".join(kept), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return len(packed)


def _note(runs: list[list[Any]], at: int, name: str, index: int) -> None:
    if runs:
        start, count, last, first = runs[-1]
        if at == start + count and name == last and (not name or index == first + count):
            runs[-1][1] += 1
            return
    runs.append([at, 1, name, index])


def load(path: Path, folder: Path) -> tuple[dict[str, Path], Any]:
    """Compose the disks of a recording in ``folder``; return them by name, and what is true about them."""
    head, _, kept = lzma.decompress(path.read_bytes()).partition(b"\n")
    told = json.loads(head)
    taken = 0
    disks = {}
    for name, table in told["disks"].items():
        disks[name] = folder / f"{name}.img"
        with disks[name].open("wb") as file:
            file.truncate(table["size"])
            for start, count, known, first in table["runs"]:
                file.seek(start * BLOCK)
                if known:
                    file.write(b"".join([block(known, first + step) for step in range(count)]))
                else:
                    file.write(kept[taken : taken + count * BLOCK])
                    taken += count * BLOCK
            file.truncate(table["size"])
    return disks, told["truth"]
