"""``imgfs umount``."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import indent

import click

from imgfs import runtime
from imgfs.daemon import crash
from imgfs.daemon import mountpoint as points
from imgfs.errors import MountError, UsageError

_PATIENCE = 10.0  # seconds for a daemon to end after its mount is gone
_STEP = 0.02


@click.command(short_help="Unmount, and wait until the daemon has ended.")
@click.argument("mountpoint", required=False, type=click.Path())
@click.option("--all", "everything", is_flag=True, help="All mounts of yours, dead ones too.")
@click.option("--force", is_flag=True, help="Also when files are open: they fail from then on.")
def umount(mountpoint: str | None, *, everything: bool, force: bool) -> None:
    """Unmount MOUNTPOINT, live or dead, and wait until its daemon has ended."""
    if bool(mountpoint) == everything:
        raise UsageError("name one MOUNTPOINT, or --all")
    if mountpoint:
        unmount(points.absolute(mountpoint), force=force)
        return
    failed = []
    for _, record in list(runtime.records()):
        try:
            unmount(Path(record.mountpoint), force=force)
            click.echo(f"{record.mountpoint} unmounted")
        except MountError as why:
            failed.append(why.message)
    if failed:
        raise MountError("; ".join(failed))


def unmount(where: Path, *, force: bool = False) -> None:
    """Unmount and tidy up after a daemon that could not.

    Raises:
        MountError: nothing of ours is mounted there, or it is busy.
    """
    record = next(((path, r) for path, r in runtime.records() if r.mountpoint == str(where)), None)
    if not runtime.is_mounted(str(where)):
        if record is None:
            raise MountError(f"{where}: no imgfs is mounted there (imgfs mounts lists them)")
    else:
        try:
            points.unmount(where, lazy=force)
        except MountError as why:
            if record is not None and not points.alive(record[1].pid):
                points.unmount(where, lazy=True)  # nobody can be using a dead mount
            elif "busy" in why.message:
                raise MountError(
                    f"{where} is in use (fuser -vm {where} says by whom); --force unmounts all the same"
                ) from why
            else:
                raise
    if record is None:
        return
    path, known = record
    end = time.monotonic() + _PATIENCE
    while points.alive(known.pid) and path.exists() and time.monotonic() < end:
        time.sleep(_STEP)
    if path.exists() and not points.alive(known.pid):
        _crashed(where, crash.last_words(path))
    runtime.remove(path)
    if known.created:
        points.remove(where)


def _crashed(where: Path, words: str) -> None:
    """Say that a daemon had not ended by itself; its last words are shown once, here."""
    if words:
        click.echo(f"{where}: its daemon had crashed: {crash.headline(words)}", err=True)
        if words != crash.SILENT:
            click.echo(indent(words, "  "), err=True)
