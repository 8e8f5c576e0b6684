"""A tree on APFS: no tool of a Linux machine writes one, so the composer of the tests does."""

from __future__ import annotations

import os
from pathlib import Path

from tests.backends.apfscompose import DIR, Composer, File, Volume, roots

_FIRST = 16  # the lowest number of a user's file


def write(tree: Path, image: Path) -> None:
    """Write ``image`` of one volume with what is below ``tree``; contents stay in memory until then."""
    files = roots()
    numbers = {str(tree): 2}
    for top, folders, names in os.walk(tree):
        for name in folders:
            numbers[f"{top}/{name}"] = number = _FIRST + len(files)
            files.append(File(number, numbers[top], name, DIR))
        for name in names:
            path = Path(top, name)
            times = (path.stat().st_mtime_ns,) * 4
            files.append(File(_FIRST + len(files), numbers[top], name, data=path.read_bytes(), times=times))
    blocks = sum(-(-len(file.data) // 4096) for file in files) + len(files) + 4096
    image.write_bytes(Composer([Volume("bench", files)], blocks=blocks).image())
