"""Running a session for one verb, without a mount."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from imgfs.session import open_session
from imgfs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from imgfs.opening.place import Overrule
    from imgfs.session import Session

T = TypeVar("T")


@asynccontextmanager
async def resolved(paths: Sequence[Path], overruled: Overrule, *, unsafe: bool) -> AsyncIterator[Session]:
    """Open images and their tables; file systems open when they are walked."""
    settings = Settings(overrule=overruled, unsafe_no_sandbox=unsafe)
    async with open_session(paths, settings) as session:
        await session.resolve()
        yield session


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function; errors come out as they were raised, not as groups of one."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(why: BaseException) -> BaseException:
    while isinstance(why, BaseExceptionGroup) and len(why.exceptions) == 1:
        why = why.exceptions[0]
    return why
