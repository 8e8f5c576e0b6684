"""``imgfs mount-helper``: what mount(8) calls for ``-t fuse.imgfs`` and fstab."""

from __future__ import annotations

import click

from imgfs.cli.mount import mount


@click.command(hidden=True)
@click.argument("image")
@click.argument("mountpoint")
@click.option("-o", "words", multiple=True)
@click.option("-n", "_n", is_flag=True)
@click.option("-s", "_s", is_flag=True)
@click.option("-v", "_v", is_flag=True)
@click.option("-f", "_f", is_flag=True)
@click.option("-N", "_namespace", default="")
@click.option("-t", "_type", default="")
@click.pass_context
def mount_helper(
    ctx: click.Context, /, image: str, mountpoint: str, words: tuple[str, ...], **_rest: object
) -> None:
    """Mount as ``mount -t fuse.imgfs IMAGE MOUNTPOINT -o OPTS`` asks."""
    ctx.invoke(
        mount,
        images=(image,),
        mountpoint=mountpoint,
        words=words,
        foreground=False,
        unsafe=False,
        keys=None,
        offset=None,
        sector=None,
        kind=None,
        raw=False,
        tz="",
        codepage="",
    )
