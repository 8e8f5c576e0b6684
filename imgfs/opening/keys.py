"""Keys the analyst gives. They reach the one worker that opens a locked layer and nothing else."""

from __future__ import annotations

import fnmatch
import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import UsageError
from imgfs.model import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TYPES: Final = ("password", "recovery", "keyfile", "volume-key", "clear")
_FILE_MAX: Final = 1 << 20
HEADER: Final = "header"
_WORDS: Final = {"type", "value", "volume", HEADER}
_NUMBERS: Final = {"offset", "size", "pim"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key; ``volume`` is a glob on the printed address of what it may open.

    ``value`` of a keyfile is its path, of a volume-key hexadecimal digits. ``offset`` and ``size`` bound what
    is read of a keyfile, in bytes, 0: to its end. ``pim`` is VeraCrypt's multiplier of the iterations.
    ``header`` is the path of a header that lies apart from its volume.
    """

    type: str
    value: str = field(repr=False)
    volume: str = "*"
    offset: int = 0
    size: int = 0
    pim: int = 0
    header: str = ""

    @property
    def kinds(self) -> set[str]:
        """Return what back-ends may declare to be asked with this key."""
        return {HEADER} if self.header else {self.type}

    def fits(self, spec: str, kinds: Iterable[str] = TYPES) -> bool:
        """Say whether the key may be tried on a layer that asks for one of ``kinds``."""
        return not self.kinds.isdisjoint(kinds) and fnmatch.fnmatchcase(spec, self.volume)

    def secret(self) -> Secret:
        """Return what a worker is given.

        Raises:
            UsageError: the keyfile cannot be read, or the digits are none.
        """
        if self.type == "keyfile":
            return Secret("keyfile", _keyfile(Path(self.value), self.offset, self.size), self.pim)
        if self.type == "volume-key":
            try:
                return Secret("volume-key", bytes.fromhex(self.value))
            except ValueError:
                raise UsageError("a volume-key is written in hexadecimal digits") from None
        return Secret(self.type, self.value.encode("utf-8", "surrogateescape"), self.pim)


def _keyfile(path: Path, offset: int, size: int) -> bytes:
    """Read a keyfile as cryptsetup does: from ``offset``, ``size`` bytes or at most ``MAX_KEYFILE``."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(min(size or limits.MAX_KEYFILE, limits.MAX_KEYFILE))
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}") from why
    if len(data) < size:
        raise UsageError(f"{path}: a keyfile of {offset + len(data)} bytes, {offset + size} are asked for")
    return data


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
            text = file.read(_FILE_MAX)
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}") from why
    return parse(text, str(path), path.parent)


def parse(text: bytes, where: str, folder: Path) -> tuple[Key, ...]:
    """Return the keys of a key file's text; paths of keyfiles start from ``folder``.

    Raises:
        UsageError: it is not of that form; the message names ``where``.
    """
    try:
        rows = tomllib.loads(text.decode()).get("key", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
        raise UsageError(f"{where}: not a TOML key file: {why}") from why
    return tuple(_key(where, folder, number, row) for number, row in enumerate(_rows(where, rows), 1))


def _rows(where: str, rows: object) -> Sequence[object]:
    if not isinstance(rows, list):
        raise UsageError(f"{where}: keys stand in [[key]] tables")
    return rows


def _key(where: str, folder: Path, number: int, row: object) -> Key:
    if not isinstance(row, dict) or not set(row) <= _WORDS | _NUMBERS:
        raise UsageError(
            f"{where}: key {number}: a key has type, value, volume, header, offset, size and pim"
        )
    kind = row.get("type")
    if kind not in TYPES:
        raise UsageError(f"{where}: key {number}: type is one of {', '.join(TYPES)}")
    if not all(isinstance(row[word], str) for word in _WORDS & set(row)):
        raise UsageError(f"{where}: key {number}: values are strings")
    numbers = {word: row[word] for word in _NUMBERS & set(row)}
    if not all(type(value) is int and value >= 0 for value in numbers.values()):
        raise UsageError(f"{where}: key {number}: offset, size and pim are numbers from 0")
    if kind != "clear" and not row.get("value"):
        raise UsageError(f"{where}: key {number}: no value")
    value = row.get("value", "")
    if kind == "keyfile":
        value = str((folder / value).absolute())
    header = str((folder / row[HEADER]).absolute()) if row.get(HEADER) else ""
    return Key(kind, value, row.get("volume", "*"), header=header, **numbers)
