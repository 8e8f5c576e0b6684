"""``imgfs completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from imgfs.errors import UsageError


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell: eval "$(imgfs completion bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "imgfs", "_IMGFS_COMPLETE").source())
