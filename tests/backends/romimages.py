"""Trees for the tools that pack a folder into an image."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.backends.compared import Rules
from tests.backends.generated import make
from tests.backends.seen import look

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.backends.seen import Seen

    Trees = Callable[[int], tuple[Path, dict[bytes, Seen]]]

KERNEL = Rules(holes=False, blocks=False, times="m")  # one time is recorded; the kernel counts other blocks


def packed(folder: Path, limits: str, files: int = 0) -> dict[bytes, Seen]:
    """Fill a folder with the generated tree, as far as its file system lets us; return what is in it."""
    folder.mkdir()
    made = make(folder, files=files, limits=limits)
    assert not [what for what in made.refused if what.startswith("name")]
    return look(folder)


def packer(limits: str, factory: pytest.TempPathFactory) -> Trees:
    """Return how to come by a tree of a number of files, made once, and what is in it."""

    @cache
    def tree(files: int) -> tuple[Path, dict[bytes, Seen]]:
        folder = factory.mktemp("packed") / "tree"
        return folder, packed(folder, limits, files)

    return tree


def kept(folder: Path) -> dict[bytes, bytes | None]:
    """Return what is in a folder as the truth of ``check_files``: regular files and directories."""
    top = os.fsencode(folder)
    found: dict[bytes, bytes | None] = {}
    for path, folders, names in os.walk(top):
        for name in (*folders, *names):
            full = os.path.join(path, name)
            mode = os.lstat(full).st_mode
            if stat.S_ISREG(mode):
                found[os.path.relpath(full, top)] = Path(os.fsdecode(full)).read_bytes()
            elif stat.S_ISDIR(mode):
                found[os.path.relpath(full, top)] = None
    return found
