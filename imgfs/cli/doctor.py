"""``imgfs doctor``: what this machine offers, and repairs of what imgfs itself needs."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from imgfs import __version__, runtime
from imgfs.backends import discover
from imgfs.block import gcrypt
from imgfs.block.sectors import FAST
from imgfs.cli.mounts import survey
from imgfs.daemon import crash
from imgfs.daemon import mountpoint as points
from imgfs.errors import MountError
from imgfs.worker import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELPER: Final = Path("/usr/sbin/mount.fuse.imgfs")
_PACKAGES: Final = {"pyewf": "libewf-python", "pyfwnt": "libfwnt-python"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``advice`` says what to do."""

    good: bool
    what: str
    advice: str = ""
    essential: bool = True

    @property
    def mark(self) -> tuple[str, str]:
        """Return the word in front of the line and its colour."""
        if self.good:
            return "ok  ", "green"
        return ("miss", "red") if self.essential else ("note", "yellow")


@click.command(short_help="See what is missing on this machine, and mend it.")
@click.option("--check", is_flag=True, help="Only look: repair and install nothing.")
def doctor(*, check: bool) -> None:
    """Look at FUSE, the sandbox, libraries and stale mounts; repair what can be repaired.

    As root this also installs the helper behind `mount -t fuse.imgfs` and fstab. Exit code 1 when
    something essential is missing.
    """
    findings = [Finding(good=True, what=f"imgfs {__version__}, Python {sys.version.split()[0]}")]
    findings += _fuse(repair=not check)
    findings += _sandbox()
    findings += _libraries()
    findings += _ciphers()
    findings += _stale(repair=not check)
    findings += _helper(repair=not check)
    for finding in findings:
        word, colour = finding.mark
        mark = click.style(word, fg=colour)
        click.echo(f"{mark}  {finding.what}" + (f": {finding.advice}" if finding.advice else ""))
    if any(not f.good and f.essential for f in findings):
        raise SystemExit(1)


def _fuse(*, repair: bool) -> Iterator[Finding]:
    device = Path("/dev/fuse")
    if not device.exists():
        yield Finding(good=False, what="/dev/fuse", advice="modprobe fuse; in a container give it the device")
    else:
        mode = device.stat().st_mode
        if mode & 0o666 != 0o666 and repair and os.getuid() == 0:
            device.chmod(stat.S_IMODE(mode) | 0o666)
            yield Finding(good=True, what="/dev/fuse", advice="opened to all users (was for root alone)")
        elif not os.access(device, os.R_OK | os.W_OK):
            yield Finding(
                good=False, what="/dev/fuse", advice="not yours to open; as root: chmod 666 /dev/fuse"
            )
        else:
            yield Finding(good=True, what="/dev/fuse")
    program = shutil.which("fusermount3")
    if program is None:
        yield Finding(good=False, what="fusermount3", advice="apt install fuse3")
    else:
        setuid = bool(os.stat(program).st_mode & stat.S_ISUID)  # noqa: PTH116
        yield Finding(
            good=setuid or os.getuid() == 0,
            what=program,
            advice="" if setuid else "not setuid root: only root can mount",
        )
    if os.getuid() and not _allow_other():
        advice = "without user_allow_other in it, -o allow_other is for root alone"
        yield Finding(good=False, what="/etc/fuse.conf", advice=advice, essential=False)
    try:
        importlib.import_module("pyfuse3")
        yield Finding(good=True, what=f"pyfuse3 {version('pyfuse3')}")
    except ImportError as why:
        yield Finding(
            good=False, what="pyfuse3", advice=f"{why}; apt install libfuse3-3, then install imgfs again"
        )


def _allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return "user_allow_other" in (line.strip() for line in lines)


def _sandbox() -> Iterator[Finding]:
    status = sandbox.status()
    if status.missing:
        yield Finding(
            good=False, what="sandbox", advice=f"{status.missing}; parsers run only with --unsafe-no-sandbox"
        )
        return
    yield Finding(good=True, what=f"sandbox: Landlock ABI {status.landlock}, seccomp, rlimits")


def _libraries() -> Iterator[Finding]:
    wanted: dict[str, list[str]] = {}
    for backend in discover().values():
        for name in backend.imports:
            if name.startswith("imgfs.") or name.partition(".")[0] in sys.stdlib_module_names:
                continue
            wanted.setdefault(name, []).append(backend.name)
    for name, users in sorted(wanted.items()):
        package = _PACKAGES.get(name, name)
        try:
            yield Finding(good=True, what=f"{package} {version(package)} ({', '.join(users)})")
        except PackageNotFoundError:
            yield Finding(
                good=False,
                what=package,
                advice=f"not installed: {', '.join(users)} cannot be read",
                essential=False,
            )


def _ciphers() -> Iterator[Finding]:
    """What decrypts: with less of it layers are read slowly, or not at all."""
    for package in ("cryptography", "argon2-cffi"):
        try:
            yield Finding(good=True, what=f"{package} {version(package)}")
        except PackageNotFoundError:
            advice = "not installed: encrypted layers cannot be unlocked"
            yield Finding(good=False, what=package, advice=advice, essential=False)
    advice = "" if FAST else "not built: AES is slower; apt install gcc libssl-dev, then install imgfs again"
    yield Finding(good=FAST, what="AES over many sectors", advice=advice, essential=False)
    there = gcrypt.available()
    advice = "" if there else "serpent, twofish, whirlpool are not known; apt install libgcrypt20"
    yield Finding(good=there, what="libgcrypt", advice=advice, essential=False)


def _stale(*, repair: bool) -> Iterator[Finding]:
    for row in survey():
        where = str(row["mountpoint"])
        if row["state"] == "alive":
            yield Finding(good=True, what=f"mount {where}", advice=f"alive, pid {row['pid']}")
        elif row["state"] == "other":
            yield Finding(good=True, what=f"mount {where}", advice=f"of {row['user']}, not looked at")
        elif not repair:
            yield Finding(
                good=False,
                what=f"mount {where}",
                advice=f"{_ended(row)}; imgfs umount {where} clears it",
                essential=False,
            )
        else:
            yield _cleared(where, _ended(row))


def _ended(row: dict[str, object]) -> str:
    words = crash.headline(str(row["last_words"]))
    return f"its daemon is gone: {words}" if words else "its daemon is gone"


def _cleared(where: str, how: str) -> Finding:
    try:
        if runtime.is_mounted(where):
            points.unmount(Path(where), lazy=True)
    except MountError as why:
        return Finding(good=False, what=f"dead mount {where}", advice=why.message, essential=False)
    for path, record in list(runtime.records()):
        if record.mountpoint == where:
            runtime.remove(path)
            if record.created:
                points.remove(Path(where))
    return Finding(good=True, what=f"dead mount {where}", advice=f"cleared; {how}")


def _program() -> str:
    """Return how a shell calls this very installation."""
    beside = Path(sys.executable).with_name("imgfs")
    if beside.exists():
        return shlex.quote(str(beside))
    return f"{shlex.quote(sys.executable)} -P -m imgfs"


def _helper(*, repair: bool) -> Iterator[Finding]:
    program = _program()
    script = (
        "#!/bin/sh\n"
        "# installed by imgfs doctor: mount -t fuse.imgfs IMAGE DIR, and fstab\n"
        f'exec {program} mount-helper "$@"\n'
    )
    if _HELPER.exists() and _HELPER.read_text() == script:
        yield Finding(good=True, what=str(_HELPER))
        return
    if not repair or os.getuid():
        yield Finding(
            good=False,
            what=str(_HELPER),
            advice="mount -t fuse.imgfs and fstab need it: run imgfs doctor as root",
            essential=False,
        )
        return
    scratch = _HELPER.with_suffix(".new")
    scratch.write_text(script)
    scratch.chmod(0o755)
    scratch.replace(_HELPER)
    yield Finding(good=True, what=str(_HELPER), advice="installed")
