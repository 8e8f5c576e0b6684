from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.tskimages import need, noise, run
from tests.mounts import daemon
from tests.peers import need_backend, watched
from tests.recipes import MIB, ext, sfdisk, sized

if TYPE_CHECKING:
    from collections.abc import Iterator


PROBES = 100  # more files than the daemon keeps attributes of: asking for each in turn always asks a worker


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted disk of two volumes and what is in it: content by path, names by folder."""

    point: Path
    root: Path
    files: dict[str, bytes]
    folders: dict[str, frozenset[str]]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Return a GPT disk with ext4 and NTFS, and the content of its files by path."""
    need_backend("ext")
    need("mke2fs", "mkfs.ntfs", "ntfscp", "sfdisk")
    folder = tmp_path_factory.mktemp("pair")
    source = folder / "source"
    (source / "dir" / "deeper").mkdir(parents=True)
    files: dict[str, bytes] = {}
    for number, size in enumerate((0, 30, 5000, 70_000, 400_000)):
        for below in ("", "dir/", "dir/deeper/"):
            files[f"{below}file{number}"] = noise(size, number + len(below))
    for name, data in files.items():
        (source / name).write_bytes(data)
    for number in range(PROBES):
        files[f"dir/probe{number:03d}"] = b"%d\n" % number
        (source / f"dir/probe{number:03d}").write_bytes(b"%d\n" % number)
    disk = sfdisk(
        sized(folder / "disk.dd", 32 * MIB),
        "label: gpt\nstart=2048, size=20480\nstart=24576, size=32768\n",
    )
    linux = ext(folder / "linux", source, "ext4", 10 * MIB)
    windows = sized(folder / "windows", 16 * MIB)
    run("mkfs.ntfs", "-F", "-q", "-Q", windows)
    truth = {f"01-ext/root/{name}": data for name, data in files.items()}
    for name, data in files.items():
        if "/" not in name:
            run("ntfscp", "-f", "-q", windows, source / name, name)
            truth[f"02-ntfs/root/{name}"] = data
    for number in range(PROBES):
        run("ntfscp", "-f", "-q", windows, source / f"dir/probe{number:03d}", f"probe{number:03d}")
        truth[f"02-ntfs/root/probe{number:03d}"] = b"%d\n" % number
    with disk.open("r+b") as file:
        for at, volume in ((MIB, linux), (12 * MIB, windows)):
            file.seek(at)
            file.write(volume.read_bytes())
    return disk, truth


@pytest.fixture
def disk(pair: tuple[Path, dict[str, bytes]], tmp_path: Path) -> Iterator[Disk]:
    """Yield the disk mounted, its listings taken before anything happens."""
    image, truth = pair
    with watched(image, at=tmp_path / "m") as point:
        root = point / image.name
        folders = {
            os.path.relpath(path, root): frozenset([*names, *rest])
            for path, names, rest in os.walk(root)
            if "/root" in path and "/deleted" not in path
        }
        assert len(folders) >= 4
        for name, data in truth.items():
            assert (root / name).read_bytes() == data
        yield Disk(point, root, truth, folders)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, nearest first."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop(0)
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            tasks = [t.name for t in Path(f"/proc/{parent}/task").iterdir() if t.name != str(parent)]
            for task in tasks:
                children += Path(f"/proc/{parent}/task/{task}/children").read_text().split()
        except OSError:
            continue  # gone in the meantime
        found += map(int, children)
        todo += map(int, children)
    return found


def workers(point: Path) -> list[int]:
    """Return the parser processes of a mount: the children of its template."""
    below = descendants(daemon(point))
    return below[1:]


def drop_caches(root: Path, paths: list[str]) -> None:
    """Let the kernel forget: everything it can as root, else the pages of these files."""
    if os.geteuid() == 0:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2\n")
        except OSError:
            pass  # a container without the right to: pages are dropped below
        else:
            return
    for path in paths:
        try:
            fd = os.open(root / path, os.O_RDONLY)
        except OSError:
            continue
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
