"""``imgfs map``: mount what a device-mapper table makes of image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from imgfs.cli.mount import start
from imgfs.cli.options import given_keys, image_path
from imgfs.cli.sessions import resolved, run
from imgfs.daemon import mountpoint as points
from imgfs.daemon.config import Config
from imgfs.errors import EvidenceError, NotSupported
from imgfs.opening.place import Overrule
from imgfs.settings import Settings


@click.command("map", short_help="Mount what a device-mapper table makes of images.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in front; Ctrl-C unmounts.")
@click.option(
    "--look-in",
    "look_in",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Where files of the table may be, besides its own folder. May be repeated.",
)
@click.option("--keys", type=click.Path(path_type=Path), help="TOML file with keys of encrypted layers.")
@click.option("--key-fd", type=int, metavar="N", help="Read such a file from this open descriptor.")
@click.argument("table", type=click.Path())
@click.argument("mountpoint", type=click.Path())
def map_(
    table: str,
    mountpoint: str,
    *,
    foreground: bool,
    look_in: tuple[Path, ...],
    keys: Path | None,
    key_fd: int | None,
) -> None:
    """Mount on MOUNTPOINT the last device of TABLE, a file of lines as dmsetup table prints them.

    A line is [NAME:] START LENGTH TARGET ARGUMENTS in sectors of 512 bytes. Devices are files beside TABLE,
    or the names of devices that earlier lines define. Targets: linear, striped, zero, error, crypt, snapshot,
    thin, raid.
    `imgfs info --dm` prints such tables.
    """
    path = image_path(table)
    folders = tuple(str(folder.absolute()) for folder in look_in)
    overrule = Overrule(type="dmtable", look_in=folders, keys=given_keys(keys, key_fd))
    where = points.absolute(mountpoint)
    run(partial(_readable, path, overrule))
    start(
        Config(images=(str(path),), mountpoint=str(where), settings=Settings(overrule=overrule)),
        foreground=foreground,
    )
    if not foreground:
        click.echo(f"{path.name} mounted on {where}")


async def _readable(path: Path, overrule: Overrule) -> None:
    """Look at a table before it is mounted: a damaged one would show its own text as a disk.

    Raises:
        EvidenceError, NotSupported: it is none, or has a target that is not known.
    """
    async with resolved([path], overrule, unsafe=False) as session:
        for layer in session.layers:
            if layer.backend == overrule.type and layer.state == "damaged":
                raise EvidenceError(f"{path.name}: {'; '.join(layer.notes)}")
            if layer.backend == overrule.type and layer.state == "unsupported":
                raise NotSupported(f"{path.name}: {layer.needs}")
