"""The control socket: what must be said to a running daemon. JSON lines; only the same user is heard."""

from __future__ import annotations

import json
import math
import socket
import struct
from typing import TYPE_CHECKING, Final

import trio

from imgfs.errors import ImgfsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Request = Mapping[str, object]
    Verb = Callable[[Request], Awaitable[dict[str, object]]]

_LINE_MAX: Final = 64 * 1024
_PATIENCE: Final = 5.0  # seconds a client may take to say one line


async def serve(
    path: Path,
    verbs: Mapping[str, Verb],
    uid: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests ``{"verb": NAME, ...}`` until cancelled."""
    with trio.socket.from_stdlib_socket(_bound(path)) as listener:
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                stream, _ = await listener.accept()
                nursery.start_soon(_answer, stream, verbs, uid)


def _bound(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(8)
    return listener


async def _answer(stream: trio.socket.SocketType, verbs: Mapping[str, Verb], uid: int) -> None:
    with stream, trio.move_on_after(_PATIENCE) as patience:
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, peer, _ = struct.unpack("3i", credentials)
        if peer not in (uid, 0):
            return
        try:
            line = await _line(stream)
            patience.deadline = math.inf  # deriving a key takes its time
            reply = await _handle(line, verbs)
            await _send(stream, json.dumps(reply).encode() + b"\n")
        except OSError:
            return  # the client is gone


async def _line(stream: trio.socket.SocketType) -> bytes:
    line = bytearray()
    while b"\n" not in line and len(line) <= _LINE_MAX:
        part = await stream.recv(4096)
        if not part:
            break
        line += part
    return bytes(line)


async def _handle(line: bytes, verbs: Mapping[str, Verb]) -> dict[str, object]:
    try:
        request = json.loads(line)
    except ValueError:
        return {"error": "a request is one line of JSON"}
    verb = verbs.get(request.get("verb", "")) if isinstance(request, dict) else None
    if verb is None:
        return {"error": f"verbs are {', '.join(sorted(verbs))}"}
    try:
        return await verb(request)
    except ImgfsError as why:
        return {"error": why.message}


async def _send(stream: trio.socket.SocketType, data: bytes) -> None:
    while data:
        sent = await stream.send(data)
        data = data[sent:]
