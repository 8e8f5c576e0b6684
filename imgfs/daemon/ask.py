"""(Outside the daemon) asking one: the other end of the control socket, without an event loop."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE: Final = 5.0  # seconds for an answer


def ask(path: Path, verb: str, *, patience: float = _PATIENCE, **more: object) -> dict[str, object] | None:
    """Ask a daemon, from outside it, with ``more`` words; None when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(patience)
        try:
            stream.connect(str(path))
            stream.sendall(json.dumps({"verb": verb, **more}).encode() + b"\n")
            answer = bytearray()
            while not answer.endswith(b"\n"):
                part = stream.recv(65536)
                if not part:
                    return None
                answer += part
        except OSError:
            return None
    reply = json.loads(answer)
    return reply if isinstance(reply, dict) else None
