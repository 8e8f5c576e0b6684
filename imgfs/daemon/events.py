"""Events as JSON lines, in memory and bounded: the content of .imgfs/events.jsonl."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from typing import Final

from imgfs import limits
from imgfs.errors import UsageError

_UNWRITTEN: Final = "log.unwritten"
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventLog(logging.Handler):
    """Keeps the last events; too many of one kind about one layer within a second are only counted."""

    def __init__(self, *, kept: int = limits.EVENTS_KEPT, path: str = "") -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=kept)
        self._path = path
        self._window: dict[tuple[str, str], tuple[float, int]] = {}
        self.suppressed = 0
        self.counts: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one event. Evidence names in it were escaped by whoever logged it; JSON escapes the rest."""
        event = record.getMessage()
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        self.counts[event] = self.counts.get(event, 0) + 1
        if self._too_many(event, str(fields.get("spec", "")), record.created):
            self.suppressed += 1
            return
        line: dict[str, object] = {
            "time": round(record.created, 6),
            "level": record.levelname,
            "event": event,
            **fields,
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        text = json.dumps(line, default=str)
        self._lines.append(text)
        if self._path:
            try:
                append(self._path, text + "\n")
            except OSError:  # a full disk must not end the mount; memory has the line
                self.counts[_UNWRITTEN] = self.counts.get(_UNWRITTEN, 0) + 1

    def _too_many(self, event: str, spec: str, now: float) -> bool:
        since, count = self._window.get((event, spec), (now, 0))
        if now - since >= 1.0:
            since, count = now, 0
        if len(self._window) > limits.EVENTS_KEPT:
            self._window.clear()
        self._window[(event, spec)] = (since, count + 1)
        return count >= limits.EVENTS_PER_SECOND

    def render(self) -> bytes:
        """Return all kept events, one JSON object per line."""
        return "".join(line + "\n" for line in self._lines).encode()


def append(path: str, text: str) -> None:
    """Append to a file that is not kept open; a pipe nobody reads is an error and no wait."""
    file = os.open(path, _APPEND, 0o666)
    try:
        os.write(file, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(file)


def install(path: str = "") -> EventLog:
    """Send the library's log records to a new event log.

    Raises:
        UsageError: ``path`` cannot be appended to.
    """
    if path:
        try:
            append(path, "")
        except OSError as why:
            raise UsageError(f"-o log={path}: {why.strerror}") from why
    events = EventLog(path=path)
    root = logging.getLogger("imgfs")
    root.setLevel(logging.INFO)
    root.addHandler(events)
    root.propagate = False
    events.created = time.time()  # type: ignore[attr-defined]  # shown in statistics
    return events
