"""``imgfs mount``: start a daemon, return when its mount is live."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from imgfs.cli.options import image_path, mount_words, overrule, overruling
from imgfs.cli.progress import bars
from imgfs.cli.unlock import prompted, socket_of, terminal
from imgfs.daemon import mountpoint as points
from imgfs.daemon.config import Config
from imgfs.errors import ImgfsError, UsageError
from imgfs.settings import Settings

_HELP = """Mount IMAGES on MOUNTPOINT and return when the mount is live.

A missing MOUNTPOINT is made, and removed again at unmount. Segments of one image (evidence.E*) are one
disk, given all or only the first.

\b
Words of -o (comma separated):
  allow_other           other users see the mount (needs user_allow_other in /etc/fuse.conf)
  fsname=NAME           source shown in the mount table
  uid=N, gid=N          owner of the folders imgfs makes itself
  nested=enter|list|off images inside images: NAME@ can be entered, is listed too, or neither
  system=enter|list     system/, where installed systems are put together: by name, or listed too
  symlinks=confine|raw  targets stay inside their file system, or are shown as stored
  lost=error|zero       what reading a range gives that the image cannot supply
  tz=ZONE, codepage=CP  for FAT: zone of its times, code page of its names
  log=FILE              events are appended there too
  offset= sector-size= type= raw keys=   as the options of the same names
"""


@click.command(help=_HELP, short_help="Mount images.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in front; Ctrl-C unmounts.")
@click.option("-o", "words", multiple=True, metavar="OPTS", help="Words, see above; may be repeated.")
@overruling
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE...")
@click.argument("mountpoint", type=click.Path())
def mount(
    images: tuple[str, ...],
    mountpoint: str,
    *,
    foreground: bool,
    words: tuple[str, ...],
    unsafe: bool,
    **overruled: Any,
) -> None:
    """Mount; the help text is above."""
    said = mount_words(words)
    given = {name: value for name, value in overruled.items() if value}
    merged = {**overruled, **said.overrule, **given}
    settings = Settings(
        overrule=overrule(**merged),
        raw_links=said.symlinks == "raw",
        list_nested=said.nested == "list",
        enter_nested=said.nested != "off",
        list_system=said.system == "list",
        lost_zero=said.lost == "zero",
        unsafe_no_sandbox=unsafe,
    )
    paths = [image_path(image) for image in images]
    config = Config(
        images=tuple(map(str, paths)),
        mountpoint=str(points.absolute(mountpoint)),
        settings=settings,
        allow_other=said.allow_other,
        fsname=said.fsname,
        uid=said.uid,
        gid=said.gid,
        log=_log(said.log, paths) if said.log else "",
    )
    start(config, foreground=foreground)
    if not foreground:
        click.echo(f"{', '.join(Path(i).name for i in config.images)} mounted on {config.mountpoint}")
        if terminal() and not config.settings.overrule.keys:
            for row in prompted(socket_of(Path(config.mountpoint))):
                if row["state"] == "open":
                    click.echo(f"{row['path']}: unlocked")


def _log(name: str, images: list[Path]) -> str:
    """Return the absolute path of the event log.

    Raises:
        UsageError: it would be written into the folder of the evidence, or into evidence itself.
    """
    path = Path(name).resolve()
    for image in images:
        inside = path.parent in (image.resolve(), image.resolve().parent)
        if inside or (path.exists() and path.samefile(image)):
            raise UsageError(f"-o log={name} would write into the folder of the evidence")
    return str(path)


def _answer(reader: int, daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the daemon's answer; until it comes, show on a terminal what it waits for."""
    with os.fdopen(reader, "rb") as pipe:
        line = pipe.readline()
        if _progress(line):
            with bars() as update:
                while now := _progress(line):
                    update([(name, done, total) for name, done, total in now])
                    line = pipe.readline()
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    code = daemon.wait()
    if not code:  # told to end before it was live: an index was being made
        sys.exit(0)
    return {"error": f"the daemon ended with {code}", "exit": 70}


def _progress(line: bytes) -> list[list[Any]]:
    """Return what a line of the daemon says of its progress; empty: it is its answer."""
    found: list[list[Any]] = json.loads(line).get("progress", []) if line else []
    return found


class _Failed(ImgfsError):
    """The daemon said why it could not mount."""


def start(config: Config, *, foreground: bool = False) -> None:
    """Start a daemon and wait until its mount is live; in front: until it ends.

    Raises:
        ImgfsError: with the daemon's message and exit code.
    """
    reader, writer = os.pipe()
    environment = dict(os.environ, IMGFS_FOREGROUND="1" if foreground else "")
    # -P: the current folder may be the evidence's, and must not be a place modules come from
    command = [sys.executable, "-P", "-m", "imgfs.daemon", str(writer)]
    daemon = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(writer,), env=environment)  # noqa: S603
    if foreground:  # the terminal's Ctrl-C reaches the daemon, too: it unmounts, and its exit code is ours
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(writer)
    assert daemon.stdin is not None  # noqa: S101  # PIPE
    daemon.stdin.write(config.dump())
    daemon.stdin.close()
    try:
        answer = _answer(reader, daemon)
    except KeyboardInterrupt:
        daemon.terminate()
        daemon.wait()
        raise
    if "error" in answer:
        daemon.wait()
        failure = _Failed(answer["error"] + (f"\n{answer['traceback']}" if answer.get("traceback") else ""))
        failure.exit_code = int(answer["exit"])  # type: ignore[misc]  # the daemon's own code
        raise failure
    if foreground:
        sys.exit(daemon.wait())
