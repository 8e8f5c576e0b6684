"""``imgfs verify``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from imgfs.cli.options import image_path, overrule, overruling
from imgfs.cli.sessions import resolved, run
from imgfs.errors import EvidenceError
from imgfs.verify import Outcome
from imgfs.verify import verify as verify_media

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgfs.opening.layers import Layer


_Range = tuple[int, int, str]


class _Unsound(EvidenceError):
    """The image is not what was acquired."""


@click.command(short_help="Read everything: checksums and stored digests.")
@click.argument("image", metavar="IMAGE")
@click.option("--json", "as_json", is_flag=True, help="Machine readable.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@overruling
def verify(image: str, *, as_json: bool, quiet: bool, unsafe: bool, **overruled: Any) -> None:
    """Read all of IMAGE: chunk checksums, and digests stored in it (an image without any: its sha256).

    Exit code 6 when a byte cannot be read or a digest differs.
    """
    checked = overrule(**overruled)
    path = image_path(image)

    async def work() -> Outcome:
        async with resolved([path], checked, unsafe=unsafe) as session:
            disk = await session.find((path.name.encode("utf-8", "surrogateescape"), b"disk.raw"))
            source = await disk.open()
            stored: dict[str, str] = {}
            for layer in session.layers:
                stored |= layer.digests
            with _bar(path.name, source.size, quiet=quiet or as_json) as progress:
                outcome = await verify_media(session.fetcher, source, stored, progress)
            outcome.bad = _reasons(outcome.bad, session.layers)
            return outcome

    outcome = run(work)
    if as_json:
        click.echo(json.dumps({**asdict(outcome), "sound": outcome.sound}, indent=1))
    else:
        _tell(outcome)
    if not outcome.sound:
        raise _Unsound(f"{image} is not what was acquired")


def _reasons(bad: list[_Range], layers: Iterable[Layer]) -> list[_Range]:
    """Return ranges with the reason the container gave for what it lacks, which reading does not know."""
    lost = [row for layer in layers if layer.kind == "container" for row in layer.lost]
    return [
        (start, stop, next((w for first, last, w in lost if first <= start and stop <= last), why))
        for start, stop, why in bad
    ]


def _tell(outcome: Outcome) -> None:
    for name, value in outcome.computed.items():
        stored = outcome.stored.get(name)
        verdict = (
            "no digest is stored"
            if stored is None
            else "as stored"
            if stored == value
            else f"STORED {stored}"
        )
        click.echo(f"{name}  {value}  {verdict}")
    for start, stop, why in outcome.bad:
        click.echo(f"unreadable [{start}, {stop}): {why}")
    if outcome.bad and outcome.stored:
        click.echo("stored digests cannot be compared: not every byte was read")


@contextmanager
def _bar(name: str, size: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; elsewhere and with ``quiet`` nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done: None
        return
    columns = (f"{name}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=size)
        yield lambda done: bar.update(task, completed=done)
