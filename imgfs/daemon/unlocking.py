"""What the control socket says of locked layers, and the keys it takes."""

from __future__ import annotations

import ctypes
import resource
from typing import TYPE_CHECKING, Final

from imgfs.errors import UsageError
from imgfs.opening.keys import TYPES, Key

if TYPE_CHECKING:
    from imgfs.daemon.control import Request
    from imgfs.session import Session

_WORDS: Final = {
    "type": str,
    "value": str,
    "volume": str,
    "header": str,
    "offset": int,
    "size": int,
    "pim": int,
}
_KEYS_MOST: Final = 64
_PR_SET_DUMPABLE: Final = 4


def hide() -> None:
    """Keep other processes of the same user out of this one's memory, and its memory out of core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def locked(session: Session) -> list[dict[str, str]]:
    """Return the layers that a key would open."""
    return [
        {"spec": layer.spec, "path": layer.path, "title": layer.title, "needs": layer.needs}
        for layer in session.layers
        if layer.state == "locked"
    ]


async def unlock(session: Session, request: Request) -> dict[str, object]:
    """Try the keys of a request; say what became of the layers that they were tried on.

    Raises:
        UsageError: the request is none.
    """
    rows, volume = request.get("keys"), request.get("volume", "*")
    if not isinstance(rows, list) or len(rows) > _KEYS_MOST or not isinstance(volume, str):
        raise UsageError("unlock takes keys and a volume")
    hide()
    tried = await session.unlock([_key(row) for row in rows], volume)
    return {"tried": [{"path": one.path, "state": one.state, "needs": one.needs} for one in tried]}


def _key(row: object) -> Key:
    if not isinstance(row, dict) or row.get("type") not in TYPES:
        raise UsageError("a key has a type and a value")
    if any(word not in _WORDS or type(value) is not _WORDS[word] for word, value in row.items()):
        raise UsageError("a key has type, value, volume, header, offset, size and pim")
    return Key(**row)
