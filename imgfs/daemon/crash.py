"""What a daemon that ended without being told to leaves behind: its last words, beside its record.

From the moment a mount is live, standard error of a daemon in the background is ``PID.crash``: Python's
traceback, the stacks of a fatal signal and what C libraries say before they abort all end up there. It
goes with the record at a clean end, so an empty one says something too: killed from outside.
"""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING, Final

from imgfs import runtime

if TYPE_CHECKING:
    from pathlib import Path

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
_SHOWN: Final = 64 * 1024  # bytes of last words that are read
SILENT: Final = "killed without a word (SIGKILL, or the kernel was out of memory)"


def listen(record: Path) -> None:
    """Send standard error to the file beside ``record``."""
    opened = os.open(_words(record), _NEW, 0o600)
    os.dup2(opened, 2)
    os.close(opened)
    faulthandler.enable()


def last_words(record: Path) -> str:
    """Return what the daemon of a record said last; empty when it kept no such file."""
    try:
        with _words(record).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SHOWN))
            text = file.read(_SHOWN).decode("utf-8", "backslashreplace").strip()
    except OSError:
        return ""
    return text or SILENT


def headline(words: str) -> str:
    """Return the line that says most: of a fatal signal the first, of a traceback the last."""
    lines = words.splitlines() or [""]
    fatal = next((line for line in lines if line.startswith("Fatal Python error")), "")
    return fatal or next((line.strip(" |") for line in reversed(lines) if line.strip(" |+-")), "")


def _words(record: Path) -> Path:
    return record.with_suffix(runtime.WORDS)
