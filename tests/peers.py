"""Independent readers of the same bytes: peers' mounts, and what is compared between two trees."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.backends import discover
from tests.backends.tskimages import run
from tests.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOW = (1 << 48) - 1
FORMATS = {
    stat.S_IFDIR: "d",
    stat.S_IFREG: "f",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
Facts = dict[str, Any]


def need_backend(name: str) -> None:
    """Skip while a format is not read."""
    if name not in discover():
        pytest.skip(f"no back-end {name}")


@contextmanager
def watched(*images: Path, at: Path, options: tuple[str, ...] = ()) -> Iterator[Path]:
    """Mount, and hold the daemon to this: whatever it was asked, no handler met an error of ours."""
    at.mkdir(exist_ok=True)
    with mounted(*images, at=at.resolve(), options=options) as point:
        os.listdir(point)  # waits until containers and tables are opened
        yield point
        counts = statistics(point)["events"]
        assert not {"handler.failed", "resolve.failed"} & counts.keys(), events(point)


def statistics(point: Path) -> dict[str, Any]:
    """Return what the daemon counted."""
    found: dict[str, Any] = json.loads((point / ".imgfs/statistics.json").read_text())
    return found


def layers(point: Path, **wanted: object) -> list[dict[str, Any]]:
    """Return the layers with these values, in the order they were found."""
    said = json.loads((point / ".imgfs/layers.json").read_text())["layers"]
    return [layer for layer in said if all(layer[name] == value for name, value in wanted.items())]


def events(point: Path) -> list[dict[str, Any]]:
    """Return the events so far."""
    return [json.loads(line) for line in (point / ".imgfs/events.jsonl").read_text().splitlines()]


@contextmanager
def by_kernel(image: Path, at: Path, options: str = "ro") -> Iterator[Path]:
    """Mount through the kernel's own file system; needs root."""
    if os.geteuid() or not Path("/dev/loop-control").exists():
        pytest.skip("the kernel mounts for root only")
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", f"loop,{options}", image, at], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the kernel does not mount this: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        run("umount", at)


@contextmanager
def by_ntfs3g(image: Path, at: Path, options: str = "") -> Iterator[Path]:
    """Mount through ntfs-3g; needs root."""
    if os.geteuid():
        pytest.skip("ntfs-3g mounts for root only")
    at.mkdir(exist_ok=True)
    run("ntfs-3g", "-o", ",".join(filter(None, ["streams_interface=xattr", options])), image, at)
    try:
        yield at
    finally:
        run("umount", at)


def digest(path: bytes | Path) -> str:
    """Return the sha256 of a file's content."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(
    root: Path,
    *,
    content: bool = True,
    skip: frozenset[bytes] = frozenset(),
    shown: Callable[[bytes], bytes] = bytes,
) -> dict[bytes, Facts]:
    """Return {path: facts} of everything below ``root``; ``skip`` names are left out at the top.

    ``shown`` says how imgfs shows a path of a peer.
    """
    found: dict[bytes, Facts] = {}
    base = os.fsencode(root)
    todo = [b""]
    while todo:
        folder = todo.pop()
        for name in os.listdir(os.path.join(base, folder)):
            if not folder and name in skip:
                continue
            inner = os.path.join(folder, name)
            said = found[shown(inner)] = facts(os.path.join(base, inner), content=content)
            if said["type"] == "d":
                todo.append(inner)
    return found


def facts(path: bytes, *, content: bool = True) -> Facts:
    """Return what stat, readlink and reading say of a path."""
    status = os.lstat(path)
    kind = FORMATS[stat.S_IFMT(status.st_mode)]
    said: Facts = {
        "type": kind,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "nlink": status.st_nlink,
        "ino": status.st_ino & LOW,
        "size": status.st_size,
        "blocks": status.st_blocks,
        "mtime": status.st_mtime_ns,
        "atime": status.st_atime_ns,
        "ctime": status.st_ctime_ns,
        "rdev": status.st_rdev,
    }
    if kind == "f" and content:
        said["sha256"] = digest(path)
    if kind == "l":
        said["target"] = _target(path)
    return said


def _target(path: bytes) -> bytes:
    with suppress(OSError):
        return os.getxattr(path, "system.imgfs.link", follow_symlinks=False)
    return os.readlink(path)


def differences(ours: dict[bytes, Facts], truth: dict[bytes, Facts], *wanted: str) -> list[str]:
    """Return one line per fact that differs; without ``wanted`` every fact of the truth is compared."""
    lines = [f"{path!r}: only with us" for path in sorted(ours.keys() - truth.keys())]
    lines += [f"{path!r}: missing" for path in sorted(truth.keys() - ours.keys())]
    for path in sorted(ours.keys() & truth.keys()):
        for name in wanted or truth[path]:
            if name in truth[path] and ours[path].get(name) != truth[path][name]:
                lines.append(f"{path!r}: {name} is {ours[path].get(name)!r}, not {truth[path][name]!r}")
    return lines


def attributes(path: bytes) -> dict[str, bytes]:
    """Return the evidence's extended attributes as a peer or as imgfs shows them, under their own names."""
    found: dict[str, bytes] = {}
    for name in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, name, follow_symlinks=False)
        for own in ("user.imgfs.xattr.", "system.imgfs.xattr."):
            if name.startswith(own):
                found[name.removeprefix(own)] = value
                break
        else:
            if not name.startswith(("user.imgfs.", "system.imgfs.")):
                found[name] = value
    return found
