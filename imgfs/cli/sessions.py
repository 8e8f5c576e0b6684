"""Running a session for one verb, without a mount."""

from __future__ import annotations

import logging
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgfs.cli.progress import bars, rows
from imgfs.daemon.unlocking import hide
from imgfs.session import open_session
from imgfs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from imgfs.cli.progress import Row
    from imgfs.opening.place import Overrule
    from imgfs.session import Session

T = TypeVar("T")

_EVERY: Final = 0.2  # seconds between two looks at how far it is
_SOON: Final = 1.0  # seconds people wait without wondering


@asynccontextmanager
async def resolved(paths: Sequence[Path], overruled: Overrule, *, unsafe: bool) -> AsyncIterator[Session]:
    """Open images and their tables; file systems open when they are walked."""
    # events are the daemon's to keep; without any handler Python would print their bare names
    logging.getLogger("imgfs").addHandler(logging.NullHandler())
    if overruled.keys:
        hide()
    settings = Settings(overrule=overruled, unsafe_no_sandbox=unsafe)
    async with open_session(paths, settings) as session:
        what = f"opening {', '.join(path.name for path in paths)}"
        async with patience(what, lambda: rows(session.layers)):
            await session.resolve()
        yield session


@asynccontextmanager
async def patience(what: str, progress: Callable[[], list[Row]] = list) -> AsyncIterator[None]:
    """Say on a terminal what is going on, when it goes on for long. Nothing may be printed meanwhile.

    ``progress`` returns what is being made meanwhile, and how far it is.
    """
    if not sys.stderr.isatty():
        yield
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say, what, progress)
        yield
        nursery.cancel_scope.cancel()


async def _say(what: str, progress: Callable[[], list[Row]]) -> None:
    await trio.sleep(_SOON)
    with bars(what) as update:
        while True:
            update(progress())
            await trio.sleep(_EVERY)


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
