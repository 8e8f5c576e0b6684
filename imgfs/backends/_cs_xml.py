"""Property lists of CoreStorage: XML as the kernel writes it, values with an ID that references repeat.

Source: libfvde, "FileVault Drive Encryption (FVDE)", examples of blocks 0x0019 and 0x001a: integers may be
hexadecimal, ``reference IDREF`` stands for a value with that ID, and there may be no ``plist`` around it.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_MOST: Final = 8 << 20  # bytes: users have pictures, and some hundred KiB of graphics for the login
_DEPTH_MOST: Final = 32
_VALUES_MOST: Final = 50_000

Value = dict[str, object] | list[object] | str | int | bytes


def parse(raw: bytes) -> dict[str, object]:
    """Return the dictionary of a property list; what follows its end is ignored from the first zero on.

    Raises:
        Malformed: it is none, or larger than any.
    """
    from xml.parsers import expat

    text = raw.split(b"\0")[0].strip()
    if len(text) > SIZE_MOST:
        raise Malformed(f"a property list of {len(text)} bytes")
    try:
        found = _Parser().parse(text)
    except (expat.ExpatError, ValueError, LookupError) as why:
        raise Malformed(f"a property list that does not parse: {why}") from why
    if not isinstance(found, dict):
        raise Malformed("a property list without a dictionary")
    return found


def inner(found: object, name: str) -> dict[str, object]:
    """Return a dictionary in a dictionary; an empty one where there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, dict) else {}


def rows(found: object, name: str) -> list[dict[str, object]]:
    """Return the dictionaries of an array in a dictionary."""
    value = found.get(name) if isinstance(found, dict) else None
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def text(found: object, name: str) -> str:
    """Return a text of a dictionary; an empty one where there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


def number(found: object, name: str) -> int:
    """Return a number of a dictionary; 0 where there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) else 0


class _Parser:
    """Builds values bottom up; every bound is checked while elements come."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str, list[object], list[str]]] = []  # element, ID, its values, its text
        self._named: dict[str, object] = {}
        self._root: list[object] = []
        self._count = 0

    def parse(self, text: bytes) -> object:
        from xml.parsers import expat

        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = _refuse
        parser.Parse(text, True)
        return self._root[0] if self._root else None

    def _begin(self, element: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= _DEPTH_MOST or self._count > _VALUES_MOST:
            raise ValueError(f"{self._count} values, {len(self._open)} deep")
        self._open.append((element, attributes.get("ID", attributes.get("IDREF", "")), [], []))

    def _characters(self, data: str) -> None:
        if self._open:
            self._open[-1][3].append(data)

    def _end(self, element: str) -> None:
        _, name, values, parts = self._open.pop()
        if element == "plist":
            self._root = values
            return
        value: object
        if element == "reference":
            value = self._named[name]
        else:
            value = _KINDS.get(element, _nothing)(values, "".join(parts))
            if name:
                self._named[name] = value
        (self._open[-1][2] if self._open else self._root).append(value)


def _refuse(*_: object) -> None:
    raise ValueError("entities are declared")


class _Key(str):
    """The name of a value in a dictionary."""

    __slots__ = ()


def _dictionary(values: list[object], _: str) -> dict[str, object]:
    found: dict[str, object] = {}
    key: str | None = None
    for value in values:
        if isinstance(value, _Key):
            key = str(value)
        elif key is not None:
            found[key] = value
            key = None
    return found


def _integer(_: list[object], text: str) -> int:
    text = text.strip()
    return int(text[:20], 16) if text.lower().startswith("0x") else int(text[:20] or "0")


def _data(_: list[object], text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error as why:
        raise ValueError(f"data: {why}") from why


def _nothing(_values: list[object], text: str) -> str:
    return text


_KINDS: Final[dict[str, Callable[[list[object], str], object]]] = {
    "dict": _dictionary,
    "array": lambda values, _: values,
    "key": lambda _, text: _Key(text),
    "integer": _integer,
    "data": _data,
    "true": lambda _v, _t: 1,
    "false": lambda _v, _t: 0,
}
