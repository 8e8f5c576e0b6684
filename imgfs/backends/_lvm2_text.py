"""LVM2's configuration text: sections within sections, numbers, strings, lists. A claim, like any bytes.

Iterative, and bounded in depth and in the number of words: a text of brackets costs no stack.

Source: libvslvm, "LVM format specification", parameter definitions; lvm.conf(5), "SYNTAX".
"""

from __future__ import annotations

import re
from typing import Final

from imgfs.errors import Malformed

Value = int | str | list["int | str"]
Section = dict[str, "Value | Section"]

_DEPTH: Final = 16  # group, logical_volumes, volume, segment, a list of settings
_WORDS: Final = 2_000_000  # 20,000 logical volumes have half of that
# Possessive throughout: nothing a hostile text holds is tried in two ways.
_WORD: Final = re.compile(
    rb"""[ \t\r\n\0]*+(?:\#[^\n]*+[ \t\r\n\0]*+)*+  # comments are for people
    (?:
      (?P<string>"(?:[^"\\]|\\.)*+")
    | (?P<number>[-+]?[0-9]+(?:\.[0-9]*)?(?![\w.+-]))
    | (?P<name>[\w.+/-]+)
    | (?P<mark>[{}=\[\],])
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_REST: Final = re.compile(rb"[ \t\r\n\0]*+(?:\#[^\n]*+[ \t\r\n\0]*+)*+")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def parse(data: bytes) -> Section:
    """Return the sections of a text as dictionaries, in order.

    Raises:
        Malformed: it is no such text; ``start`` is where that shows, counted in the text.
    """
    root: Section = {}
    stack = [root]
    here = root
    key = ""
    values: list[int | str] | None = None  # of the list that is open
    expects = False  # a value, behind "="
    at = words = 0
    while word := _WORD.match(data, at):
        at, words = word.end(), words + 1
        if words > _WORDS:
            raise Malformed(f"metadata text of more than {_WORDS} words", start=at, stop=at)
        kind, raw = word.lastgroup, word[word.lastgroup or 0]
        if kind == "mark":
            if raw == b"," and values is not None:
                continue
            if raw == b"=" and key and not expects and values is None:
                expects = True
                continue
            if raw == b"[" and expects and values is None:
                values = []
                continue
            if raw == b"]" and values is not None:
                here[key] = list(values)
                values, key, expects = None, "", False
                continue
            if raw == b"{" and key and not expects and values is None and len(stack) < _DEPTH:
                inner: Section = {}
                here[key] = inner
                stack.append(inner)
                here, key = inner, ""
                continue
            if raw == b"}" and not key and len(stack) > 1:
                stack.pop()
                here = stack[-1]
                continue
            raise Malformed(f"{raw.decode()} where it means nothing", start=at - 1, stop=at)
        if values is None and not expects:
            if key or kind == "string":
                raise Malformed("two names in a row", start=at - len(raw), stop=at)
            key = raw.decode()
            continue
        value = _value(kind or "", raw, at)
        if values is not None:
            values.append(value)
        else:
            here[key] = value
            key, expects = "", False
    rest = _REST.match(data, at)
    if (rest is not None and rest.end() < len(data)) or len(stack) > 1 or key or values is not None:
        raise Malformed("the metadata text ends within a section", start=at, stop=len(data))
    return root


def _value(kind: str, raw: bytes, at: int) -> int | str:
    if kind == "string":
        text = raw[1:-1].decode("utf-8", "replace")
        return _ESCAPED.sub(r"\1", text) if "\\" in text else text
    if kind != "number" or len(raw) > 20:
        raise Malformed(f"a value {raw[:32]!r}", start=at - len(raw), stop=at)
    return raw.decode() if b"." in raw else int(raw)
