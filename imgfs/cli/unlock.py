"""``imgfs unlock``: give a running mount a key."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from imgfs import runtime
from imgfs.cli.options import given_keys
from imgfs.daemon import mountpoint as points
from imgfs.daemon.ask import ask
from imgfs.errors import MountError, NeedKey, UsageError
from imgfs.opening.keys import Key

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE: Final = 600.0  # seconds: several slots of several volumes, each derived with a lot of memory
_TRIES: Final = 3


@click.command(short_help="Give a running mount the key of a locked volume.")
@click.argument("mountpoint", type=click.Path())
@click.argument("volume", default="*")
@click.option("--keys", type=click.Path(), help="TOML file with keys.")
@click.option("--key-fd", type=int, metavar="N", help="Read such a file from this open descriptor.")
def unlock(mountpoint: str, volume: str, keys: str | None, key_fd: int | None) -> None:
    """Unlock what is locked on MOUNTPOINT: all of it, or VOLUME (its directory or address, as a glob).

    Without --keys and --key-fd the password is asked for on the terminal.
    """
    from pathlib import Path

    socket = socket_of(points.absolute(mountpoint))
    given = given_keys(Path(keys) if keys else None, key_fd)
    tried = _tried(socket, [asdict(key) for key in given], volume) if given else prompted(socket, volume)
    if not tried:
        raise UsageError(f"nothing that is locked matches {volume!r} (imgfs info lists volumes)")
    for row in tried:
        opened = row["state"] == "open"
        click.echo(f"{row['path']}: unlocked" if opened else f"{row['path']}: {row['state']}: {row['needs']}")
    if not any(row["state"] == "open" for row in tried):
        raise NeedKey("no key opens anything")


def socket_of(where: Path) -> Path:
    """Return the control socket of a mount.

    Raises:
        MountError: nothing of ours is mounted there.
    """
    for path, record in runtime.records():
        if record.mountpoint == str(where):
            return path.with_suffix(".sock")
    raise MountError(f"{where}: no imgfs is mounted there (imgfs mounts lists them)")


def _tried(socket: Path, keys: list[dict[str, Any]], volume: str) -> list[dict[str, str]]:
    reply = ask(socket, "unlock", patience=_PATIENCE, keys=keys, volume=volume)
    if reply is None:
        raise MountError("the daemon does not answer")
    if "error" in reply:
        raise UsageError(str(reply["error"]))
    return reply["tried"]  # type: ignore[return-value]  # our own daemon


def prompted(socket: Path, volume: str = "*") -> list[dict[str, str]]:
    """Ask for the passwords of locked layers on the terminal; an empty one leaves a layer locked."""
    from fnmatch import fnmatchcase

    reply = ask(socket, "locked", patience=_PATIENCE) or {}
    rows: list[dict[str, str]] = reply.get("locked", [])  # type: ignore[assignment]  # our own daemon
    tried: dict[str, dict[str, str]] = {}
    for row in rows:
        if not any(fnmatchcase(row[word], volume) for word in ("path", "spec")):
            continue
        tried[row["spec"]] = {"path": row["path"], "state": "locked", "needs": row["needs"]}
        for _ in range(_TRIES):
            text = f"Password of {row['path']} ({row['title']}; Enter leaves it locked)"
            secret = click.prompt(text, default="", hide_input=True, show_default=False, err=True)
            if not secret:
                break
            keys = [asdict(Key(kind, secret, row["spec"])) for kind in ("password", "recovery")]
            answer = _tried(socket, keys, row["spec"])
            if answer:
                tried[row["spec"]] = answer[0]
            if not answer or answer[0]["state"] == "open":
                break
            click.echo("that does not open it", err=True)
    return list(tried.values())


def terminal() -> bool:
    """Say whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
