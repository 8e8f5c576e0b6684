"""No exception in any handler ends the daemon."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyfuse3
import pytest
import trio

from imgfs.daemon.attributes import Owner
from imgfs.daemon.operations import Operations
from imgfs.errors import LostBytes

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLERS = [
    name
    for name, _ in inspect.getmembers(Operations, inspect.iscoroutinefunction)
    if not name.startswith("_")
]


class Broken:
    """A session in which everything fails with one exception."""

    def __init__(self, why: Exception) -> None:
        object.__setattr__(self, "why", why)

    def __getattr__(self, name: str) -> object:
        if name == "tree":
            return self
        raise self.why


def call(name: str, why: Exception) -> Callable[[], object]:
    operations = Operations(Broken(why), Owner(0, 0))  # type: ignore[arg-type]  # fails whatever is asked of it
    handler = getattr(operations, name)
    context = SimpleNamespace(pid=1, uid=0, gid=0, umask=0)
    count = len(inspect.signature(handler).parameters)
    samples = {"ctx": context, "name": b"x", "inode_list": [(1, 1)], "flags": 0}
    given = [samples.get(p, 1) for p in list(inspect.signature(handler).parameters)[:count]]

    async def run() -> None:
        await handler(*given)

    return run  # type: ignore[return-value]


@pytest.mark.parametrize(
    "why", [RuntimeError("bug"), OverflowError("2**64 - 1"), LostBytes("lost"), MemoryError()]
)
@pytest.mark.parametrize("name", HANDLERS)
def test_only_fuse_errors_leave_a_handler(name: str, why: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMGFS_STRICT", raising=False)
    try:
        trio.run(call(name, why))  # type: ignore[arg-type]
    except pyfuse3.FUSEError as error:
        assert error.errno > 0
