"""Keys the analyst gives. They reach the one worker that opens a locked layer and nothing else."""

from __future__ import annotations

import fnmatch
import os
import stat
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TYPES: Final = ("password", "recovery", "keyfile", "volume-key", "clear")
_FILE_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Key:
    """One key; ``volume`` is a glob on the printed address of what it may open."""

    type: str
    value: str = field(repr=False)
    volume: str = "*"

    def fits(self, spec: str) -> bool:
        """Say whether the key may be tried on a layer."""
        return fnmatch.fnmatchcase(spec, self.volume)


def load(path: Path) -> tuple[Key, ...]:
    """Read a key file: TOML, a list of ``[[key]]`` with type, value and optionally volume.

    Raises:
        UsageError: unreadable, readable by others, or not of that form.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
                raise UsageError(f"{path}: others can read this key file (chmod 600 {path})")
            text = file.read(_FILE_MAX).decode()
        rows = tomllib.loads(text).get("key", [])
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}") from why
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
        raise UsageError(f"{path}: not a TOML key file: {why}") from why
    return tuple(_key(path, number, row) for number, row in enumerate(_rows(path, rows), 1))


def _rows(path: Path, rows: object) -> Sequence[object]:
    if not isinstance(rows, list):
        raise UsageError(f"{path}: keys stand in [[key]] tables")
    return rows


def _key(path: Path, number: int, row: object) -> Key:
    if not isinstance(row, dict) or not set(row) <= {"type", "value", "volume"}:
        raise UsageError(f"{path}: key {number}: a key has type, value and volume")
    kind = row.get("type")
    if kind not in TYPES:
        raise UsageError(f"{path}: key {number}: type is one of {', '.join(TYPES)}")
    if not all(isinstance(value, str) for value in row.values()):
        raise UsageError(f"{path}: key {number}: values are strings")
    if kind != "clear" and not row.get("value"):
        raise UsageError(f"{path}: key {number}: no value")
    return Key(kind, row.get("value", ""), row.get("volume", "*"))
