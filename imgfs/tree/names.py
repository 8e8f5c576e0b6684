"""Evidence names as directory entries, and back.

A directory entry cannot hold ``/`` or NUL, cannot be empty, ``.`` or ``..``; evidence can. The escape is
reversible, and a name without such bytes is shown as it is, whatever else it holds: hashes of names match.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from imgfs import limits

_AMBIGUOUS: Final = re.compile(rb"%(?=[0-9A-Fa-f]{2})|[/\0]")
_SPECIAL: Final = re.compile(rb"[/%\0]").search
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_WHOLE: Final = {b"": b"%", b"%": b"%25", b".": b"%2E", b"..": b"%2E%2E"}


def escape(name: bytes) -> bytes:
    """Return the directory entry name: at most 1,024 bytes, free of slash and NUL, never a dot entry."""
    if 2 < len(name) <= limits.MAX_NAME and _SPECIAL(name) is None:
        return name  # nearly all of them: one pass over the bytes
    whole = _WHOLE.get(name)
    if whole is not None:
        return whole
    if _SPECIAL(name) is not None:
        name = _AMBIGUOUS.sub(lambda m: b"%%%02X" % m.group()[0], name)
    if len(name) > limits.MAX_NAME:
        tail = b"~" + hashlib.sha256(name).hexdigest()[:8].encode()
        name = name[: limits.MAX_NAME - len(tail)] + tail
    return name


def unescape(name: bytes) -> bytes:
    """Return the evidence name of an entry name that was not cut."""
    if name == b"%":
        return b""
    return _ESCAPED.sub(lambda m: bytes([int(m.group(1), 16)]), name)


def distinct(name: bytes, inum: int, taken: object) -> bytes:
    """Return ``name``, marked with ``~`` and the inode number when it is taken already.

    ``taken`` is a container of entry names.
    """
    candidate = name
    copy = 1
    while candidate in taken:  # type: ignore[operator]  # dict or set
        mark = b"~%d" % inum if copy == 1 else b"~%d-%d" % (inum, copy)
        candidate = name[: limits.MAX_NAME - len(mark)] + mark
        copy += 1
    return candidate


def printable(name: bytes) -> str:
    """Return a name for logs, errors and JSON: no control characters, nothing lost."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text
    )


def slug(text: str, limit: int = 64) -> str:
    """Return a label as part of a directory name: spaces kept, slashes, controls and dots at the ends not."""
    kept = "".join("_" if c == "/" or not c.isprintable() else c for c in text).strip(" .")
    return kept[:limit]
