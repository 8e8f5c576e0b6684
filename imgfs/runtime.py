"""Where running mounts are written down: a directory only the user can enter, one record per daemon."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgfs.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS: Final = ".crash"  # beside a record: what its daemon said before it ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One mount. Units: ``since`` seconds since 1970."""

    pid: int
    mountpoint: str
    images: tuple[str, ...]
    user: str
    since: float
    created: bool  # the mount point was made by us and goes with the mount


def folder() -> Path:
    """Return the user's runtime directory, made with mode 0700.

    Raises:
        MountError: somebody else owns it or can enter it.
    """
    uid = os.getuid()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(base)] if base else []
    candidates.append(Path(f"/run/user/{uid}"))
    for parent in candidates:
        if parent.is_dir() and os.access(parent, os.W_OK) and parent.stat().st_uid == uid:
            path = parent / "imgfs"
            break
    else:
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"imgfs-{uid}"  # noqa: S108  # owner and mode are checked
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        raise MountError(f"{path}: not a directory that only you can enter; remove it")
    return path


def path_of(pid: int) -> Path:
    """Return where the record of a daemon is kept."""
    return folder() / f"{pid}.json"


def write(record: Record) -> Path:
    """Write a record; returns its path."""
    path = path_of(record.pid)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(record)))
    scratch.replace(path)
    return path


def records() -> Iterator[tuple[Path, Record]]:
    """Yield what is written down, alive or not; unreadable records are skipped."""
    for path in sorted(folder().glob("*.json")):
        try:
            row = json.loads(path.read_text())
            row["images"] = tuple(row["images"])
            yield path, Record(**row)
        except (OSError, ValueError, TypeError, KeyError):
            continue


def remove(path: Path) -> None:
    """Remove a record, its socket and the last words of its daemon."""
    for suffix in (path.suffix, ".sock", WORDS):
        path.with_suffix(suffix).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the kernel's mount table."""

    mountpoint: str
    kind: str
    source: str
    uid: int


def mounted() -> list[Mounted]:
    """Return the FUSE mounts of this name space. The mount itself is never touched: it may be dead."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        kind, source, options = right.split(" ", 2)
        if not kind.startswith("fuse"):
            continue
        uid = next((int(o[8:]) for o in options.split(",") if o.startswith("user_id=")), -1)
        found.append(Mounted(unescape(left.split(" ")[4]), kind, unescape(source), uid))
    return found


def set_read_ahead(mountpoint: str, kib: int) -> None:
    """Set how much the kernel reads ahead of a mount, where we may. Units: KiB."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if unescape(fields[4]) == mountpoint:
            with suppress(OSError):
                Path(f"/sys/class/bdi/{fields[2]}/read_ahead_kb").write_text(f"{kib}\n")


def unescape(text: str) -> str:
    """Undo the octal escapes of the kernel's mount table."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text


def is_mounted(mountpoint: str) -> bool:
    """Say whether something of ours is mounted there, dead or alive."""
    return any(m.mountpoint == mountpoint and m.kind == "fuse.imgfs" for m in mounted())
