"""Empty ext file systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path


def make(image: Path, *options: str, size: int = 24 << 20) -> Path:
    """Make an empty file system."""
    need("mke2fs")
    with image.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-L", "EVIDENCE", *options, image)
    return image
