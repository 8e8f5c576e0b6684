"""The command group: verbs are loaded when they are called, errors become one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import click

from imgfs import __version__
from imgfs.errors import ImgfsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERBS: Final = {
    "mount": "mount",
    "umount": "umount",
    "unlock": "unlock",
    "map": "map",
    "mounts": "mounts",
    "info": "info",
    "ls": "walk",
    "tree": "walk",
    "stat": "walk",
    "cat": "walk",
    "verify": "verify",
    "doctor": "doctor",
    "completion": "completion",
    "mount-helper": "helper",
}

_EPILOG = """\b
Exit codes:
  0  done                         5  recognised, but not supported
  1  an operation failed          6  the evidence is damaged or changed
  2  the command can be mended    7  locked: a key is needed
  3  FUSE or the mount point      70 a bug in imgfs
  4  no sandbox for parsers       130 interrupted
"""


class _Verbs(click.Group):
    """Loads a verb's module when the verb is asked for: `imgfs mount` does not wait for tables."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [verb for verb in _VERBS if verb != "mount-helper"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = _VERBS.get(cmd_name)
        if module is None:
            return None
        name = "map_" if cmd_name == "map" else cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"imgfs.cli.{module}"), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Call the verb. A reader that has seen enough is no error: `imgfs ls ... | head`."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return result


@click.group(cls=_Verbs, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="imgfs")
def imgfs() -> None:
    """Mount disk images as disk/volume/subvolume/files: read-only, without root, parsers isolated."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the third of the three places where errors are caught."""
    try:
        code = imgfs.main(args=arguments, prog_name="imgfs", standalone_mode=False)
    except click.ClickException as why:
        why.show()
        code = why.exit_code
    except click.Abort:
        code = 130
    except KeyboardInterrupt:
        code = 130
    except BaseExceptionGroup as group:
        code = _fail(_first(group))
    except Exception as why:  # noqa: BLE001  # the barrier of the command line
        code = _fail(why)
    sys.exit(code or 0)


def _first(why: BaseException) -> BaseException:
    while isinstance(why, BaseExceptionGroup):
        why = why.exceptions[0]
    return why


def _fail(why: BaseException) -> int:
    if isinstance(why, ImgfsError):
        click.echo(f"imgfs: {why}", err=True)
        return why.exit_code
    if isinstance(why, KeyboardInterrupt):
        return 130
    if isinstance(why, BrokenPipeError):
        return 0
    if os.environ.get("IMGFS_TRACEBACK"):
        raise why
    click.echo(
        f"imgfs: a bug: {type(why).__name__}: {why} (IMGFS_TRACEBACK=1 shows where; please report it)",
        err=True,
    )
    return 70
