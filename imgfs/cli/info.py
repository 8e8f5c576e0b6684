"""``imgfs info``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from imgfs.block.dmtable import Tables
from imgfs.cli.options import image_path, overrule, overruling
from imgfs.cli.outline import outline
from imgfs.cli.sessions import patience, resolved, run

if TYPE_CHECKING:
    from imgfs.opening.layers import Layer
    from imgfs.opening.place import Overrule


@click.command(short_help="Show containers, tables, volumes and file systems.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Machine readable: what layers.json of a mount says.")
@click.option("--dm", is_flag=True, help="Volumes as tables of the kernel's device-mapper.")
@click.option("--show-keys", is_flag=True, help="With --dm: print the keys of unlocked layers, too.")
@overruling
def info(
    images: tuple[str, ...], *, as_json: bool, dm: bool, show_keys: bool, unsafe: bool, **overruled: Any
) -> None:
    """Show the layers of IMAGES: container, table, volumes, file systems, and what is missing."""
    checked = overrule(**overruled)

    if dm:
        for line in run(lambda: _tables(images, checked, keys=show_keys, unsafe=unsafe)):
            click.echo(line)
        return

    async def work() -> list[Layer]:
        paths = [image_path(image) for image in images]
        async with resolved(paths, checked, unsafe=unsafe) as session:
            async with patience("opening file systems"):
                await session.complete()
            return list(session.layers)

    layers = run(work)
    if as_json:
        click.echo(json.dumps({"layers": [asdict(layer) for layer in layers]}, indent=1))
        return
    for line in outline(layers):
        click.echo(line)


async def _tables(images: tuple[str, ...], checked: Overrule, *, keys: bool, unsafe: bool) -> list[str]:
    """Return the volumes of images as device-mapper tables, each below its path in the mount."""
    tables = Tables(keys=keys)
    paths = [image_path(image) for image in images]
    async with resolved(paths, checked, unsafe=unsafe) as session:
        async for path, source in session.volumes():
            tables.lines.append(f"# {path}")
            tables.volume(source, path.replace("/", "-").replace(":", "_"))
    return tables.lines
