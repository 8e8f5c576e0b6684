"""Which host files belong together, and opening them: only regular files beside the one that was named.

A sparse bundle is a folder: the analyst names it, or the property list in it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Role
from imgfs.block.beneath import open_beneath
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.errors import UsageError
from imgfs.opening.bundles import bundle, make_room, open_bundle
from imgfs.opening.probe import candidates, look

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource


@dataclass(slots=True)
class Evidence:
    """One disk as the analyst named it: the named file and the other members of its set.

    ``folders`` are where the analyst allows to look for files that an image names, besides its own;
    ``unopened`` are names of members that are there and cannot be opened.
    """

    path: Path
    files: tuple[HostFile, ...]
    folders: tuple[Path, ...] = ()
    unopened: tuple[str, ...] = ()

    @property
    def members(self) -> list[tuple[ByteSource, str]]:
        """Return all members with their names; one that cannot be opened has no bytes."""
        found: list[tuple[ByteSource, str]] = [(file, file.name) for file in self.files]
        return found + [(Memory(b""), name) for name in self.unopened]

    def bring(self, name: str) -> HostFile | None:
        """Open a further member that an image names, for as long as the evidence is open.

        The name is a claim: only a regular file beneath the folder of the file the analyst named, or
        beneath a folder that was allowed, is opened; through no link, no device. None: there is no such file.
        """
        for folder in (self.path.parent, *self.folders):
            file = open_beneath(folder, name)
            if file is not None:
                self.files = (*self.files, file)
                return file
        return None

    def kin(self, pattern: str) -> list[str]:
        """Return the names of files beside the one the analyst named that match a back-end's ``kin``.

        Those in folders that were allowed, too; at most ``limits.MAX_WANTS``, in order.
        """
        match = re.compile(pattern).fullmatch
        found: dict[str, None] = {}
        for folder in (self.path.parent, *self.folders):
            try:
                names = sorted(entry.name for entry in folder.iterdir() if match(entry.name))
            except OSError:
                continue
            found.update(dict.fromkeys(name for name in names if name != self.path.name))
        kept = list(found)[: limits.MAX_WANTS]
        with suppress(UsageError):  # then fewer of them are opened
            make_room(len(kept))
        return kept

    def release(self, file: HostFile) -> None:
        """Close a further member that turned out to be none."""
        self.files = tuple(kept for kept in self.files if kept is not file)
        file.close()

    def close(self) -> None:
        """Close the host files."""
        for file in self.files:
            file.close()


async def gather(
    fetcher: Fetcher, paths: Sequence[Path], *, raw: bool = False, folders: Sequence[Path] = ()
) -> list[Evidence]:
    """Open what the analyst named; several arguments that are members of one set become one disk.

    ``folders``: see ``Evidence``.

    Raises:
        UsageError: a path is no image, unreadable, or named twice.
    """
    left = list(dict.fromkeys(paths))
    if len(left) != len(paths):
        twice = next(path for path in paths if list(paths).count(path) > 1)
        raise UsageError(f"{twice} is named twice")
    gathered: list[Evidence] = []
    try:
        while left:
            path = left.pop(0)
            if not raw and (folder := bundle(path)) is not None:
                files, unopened = open_bundle(folder)
                gathered.append(Evidence(folder, files, unopened=unopened))
                left = [p for p in left if bundle(p) != folder]
                continue
            first = HostFile.open(path)
            gathered.append(Evidence(path, (first,)))
            names = [] if raw else await _siblings(fetcher, path, first)
            make_room(len(names))
            others = [HostFile.open(path.parent / name) for name in names]
            gathered[-1] = Evidence(path, (first, *others), tuple(folders))
            members = {path.parent / name for name in names}
            left = [p for p in left if p not in members]
        _distinct(gathered)
    except BaseException:
        for evidence in gathered:
            evidence.close()
        raise
    return gathered


def _distinct(gathered: list[Evidence]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for evidence in gathered:
        for file in evidence.files:
            key = (file.identity[0], file.identity[1])
            if key in seen:
                raise UsageError(f"{evidence.path} and {seen[key]} are the same file")
            seen[key] = str(evidence.path)


async def _siblings(fetcher: Fetcher, path: Path, first: HostFile) -> list[str]:
    window = await look(fetcher, first)
    for backend in candidates(window, (Role.MEDIA,), name=path.name, trials=False):
        names = _matching(backend, path)
        if names:
            return names
    return []


def _matching(backend: Backend, path: Path) -> list[str]:
    """Return the names of other members in the folder of ``path``, sorted.

    Raises:
        UsageError: the folder holds more than ``limits.MAX_SEGMENTS`` of them.
    """
    pattern = backend.siblings(path.name) if backend.siblings else ""
    if not pattern:
        return []
    match = re.compile(pattern).fullmatch
    names = sorted(
        entry.name
        for entry in path.parent.iterdir()
        if entry.name != path.name and match(entry.name) and entry.is_file() and not entry.is_symlink()
    )
    if len(names) > limits.MAX_SEGMENTS:
        raise UsageError(f"{path}: {len(names)} segments; at most {limits.MAX_SEGMENTS} are opened")
    return names
