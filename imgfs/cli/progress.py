"""What takes long, as bars on a terminal: indexes that are being made."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgfs.opening.layers import Layer

Row = tuple[str, int, int]  # what is being done, bytes done, all of them


def rows(layers: Iterable[Layer]) -> list[Row]:
    """Return what is being made of layers."""
    return [making for layer in layers if (making := layer.making) is not None]


@contextmanager
def bars(what: str = "") -> Iterator[Callable[[Iterable[Row]], None]]:
    """Show bars until the block ends; call the result with how far everything is.

    ``what`` is shown while there are none. Nothing may be printed meanwhile.
    """
    if not sys.stderr.isatty():
        yield lambda _rows: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    shown: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        waiting = progress.add_task(escape(what), total=None) if what else None

        def update(now: Iterable[Row]) -> None:
            seen = set()
            for name, done, total in now:
                seen.add(name)
                if name not in shown:
                    shown[name] = progress.add_task(escape(name), total=total)
                progress.update(shown[name], completed=done)
            for name in shown.keys() - seen:
                progress.remove_task(shown.pop(name))
            if waiting is not None:
                progress.update(waiting, visible=not seen)

        yield update
