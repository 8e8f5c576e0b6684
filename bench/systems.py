"""Who is measured: imgfs, its peers, the kernel, and file systems that do nothing.

A system is a list of steps that end with the root of a file system (or one file: a media). Each is mounted
afresh for every figure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.images import quiet
from imgfs import runtime
from tests.backends.bdeimages import PASSWORD, RECOVERY

IMGFS = (sys.executable, "-P", "-m", "imgfs")
PEERS = Path(".bench/bin")  # packages that live in an environment of their own
_PATIENCE = 60.0
ROOT = os.getuid() == 0

Up = Callable[[Path, Path], AbstractContextManager[Path]]


@dataclass(frozen=True, slots=True)
class System:
    """Something that shows the files (or the media) of an image."""

    name: str
    image: str  # as ``images.build`` names it; empty: none
    up: Up  # (image, empty folder) -> where the files are
    needs: tuple[str, ...] = ()  # commands
    root: bool = False
    media: bool = False  # shows one file: the media
    stream: bool = False  # which can be read once, from its start

    def missing(self) -> str:
        """Return why it cannot be measured here; empty if it can."""
        if self.root and not ROOT:
            return "needs root"
        lacking = [c for c in self.needs if not shutil.which(c) and not (PEERS / c).exists()]
        return f"not installed: {', '.join(lacking)}" if lacking else ""


def is_mounted(point: Path) -> bool:
    return any(m.mountpoint == str(point) for m in runtime.mounted())


def wait(ready: Callable[[], bool], server: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something answers."""
    until = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > until or (server is not None and server.poll() is not None):
            raise RuntimeError("it did not start")
        time.sleep(0.002)


def folder(under: Path, name: str) -> Path:
    made = under / name
    made.mkdir(exist_ok=True)
    return made


@contextmanager
def unmounting(point: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for _ in range(50):
            done = subprocess.run(["umount", point], check=False, capture_output=True)
            if done.returncode and not ROOT:
                done = subprocess.run(["fusermount3", "-u", point], check=False, capture_output=True)
            if not done.returncode or not is_mounted(point):
                break
            time.sleep(0.1)


@contextmanager
def imgfs(image: Path, under: Path) -> Iterator[Path]:
    point = folder(under, "imgfs")
    quiet(*IMGFS, "mount", image, point)
    try:
        yield next(iter(sorted(point.glob(f"{image.name}/*/root"))))
    finally:
        quiet(*IMGFS, "umount", "--force", point)


@contextmanager
def imgfs_media(image: Path, under: Path) -> Iterator[Path]:
    point = folder(under, "imgfs")
    quiet(*IMGFS, "mount", image, point)
    try:
        yield point / image.name / "disk.raw"
    finally:
        quiet(*IMGFS, "umount", "--force", point)


@contextmanager
def imgfs_unlocked(image: Path, under: Path) -> Iterator[Path]:
    point = folder(under, "imgfs")
    quiet(*IMGFS, "mount", "--keys", image.with_suffix(".keys"), image, point)
    try:
        yield next(point.glob(f"{image.name}/00-bitlocker.*")) / "volume.raw"
    finally:
        quiet(*IMGFS, "umount", "--force", point)


@contextmanager
def dislocker(image: Path, under: Path) -> Iterator[Path]:
    point = folder(under, "dislocker")
    quiet("dislocker-fuse", "-V", image, f"-u{PASSWORD}", "--", point)
    with unmounting(point):
        yield point / "dislocker-file"


def extracting(*command: str) -> Up:
    """A tool that writes the media to its standard output, or to the file behind OUT: read through a pipe."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        pipe = under / "media"
        os.mkfifo(pipe)
        words = [str(image) if word == "IMAGE" else str(pipe) if word == "OUT" else word for word in command]
        script = 'exec "$@"' if "OUT" in command else 'pipe=$1; shift; exec "$@" > "$pipe"'
        ahead = [] if "OUT" in command else [str(pipe)]
        with subprocess.Popen(
            ["sh", "-c", script, "sh", *ahead, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as tool:
            try:
                yield pipe
            finally:
                tool.kill()

    return up


@contextmanager
def kernel(image: Path, under: Path) -> Iterator[Path]:
    point = folder(under, "kernel")
    quiet("mount", "-o", "ro,loop,noload", image, point)
    with unmounting(point):
        yield point


def simple(*command: str) -> Up:
    """A file system that is mounted with COMMAND IMAGE POINT."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        point = folder(under, command[0])
        quiet(*command, image, point)
        with unmounting(point):
            yield point

    return up


def serving(command: list[str], inner: str, *, peer: bool = False) -> Up:
    """A file system that a process serves in front: COMMAND IMAGE POINT."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        point = folder(under, "serving")
        program = str(PEERS / command[0]) if peer else command[0]
        with subprocess.Popen(
            [program, *command[1:], str(image), str(point)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                wait(lambda: is_mounted(point) and (point / inner).exists(), server)
                with unmounting(point):
                    yield point / inner
            finally:
                stop(server)

    return up


def stop(server: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        server.wait(5)
        return
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(10)
        return
    server.kill()


def media_in(command: tuple[str, ...], inner: str) -> Up:
    """A tool that shows the media as a file ``inner``."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        point = folder(under, "media")
        quiet(*command, image, point)
        with unmounting(point):
            yield point / inner.replace("STEM", image.stem)

    return up


ewfmount = media_in(("ewfmount",), "ewf1")
xmount = media_in(("xmount", "--out", "raw", "--in", "ewf"), "STEM.dd")


@contextmanager
def storage_daemon(image: Path, under: Path) -> Iterator[Path]:
    shown = under / "export"
    shown.touch()
    kind = "qcow2" if image.suffix == ".qcow2" else "raw"
    command = ["qemu-storage-daemon"]
    command += ["--blockdev", f"driver=file,node-name=f,filename={image},read-only=on"]
    command += ["--blockdev", f"driver={kind},node-name=n,file=f,read-only=on"]
    command += ["--export", f"type=fuse,id=e,node-name=n,mountpoint={shown}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            wait(lambda: shown.stat().st_size > 0, server)
            yield shown
        finally:
            server.send_signal(signal.SIGTERM)
            stop(server)
            shown.unlink()


def stacked(lower: Up, upper: Up) -> Up:
    """A file system over the media another tool shows."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        with ExitStack() as stack:
            media = stack.enter_context(lower(image, under))
            yield stack.enter_context(upper(media, under))

    return up


@contextmanager
def plain(image: Path, _under: Path) -> Iterator[Path]:
    yield image


def null(*, binding: bool) -> Up:
    """The file system that does nothing, in C or through the binding; as large as the image given."""

    @contextmanager
    def up(image: Path, under: Path) -> Iterator[Path]:
        point = folder(under, "null")
        size = image.stat().st_size
        program = [sys.executable, "-m", "bench.baselines.null"] if binding else [str(built(under))]
        with subprocess.Popen([*program, str(point), str(size), "1000", "100"]) as server:
            wait(lambda: is_mounted(point), server)
            with unmounting(point):
                yield point
            stop(server)

    return up


def built(under: Path) -> Path:
    """Compile the null file system in C."""
    program = under.parent / "null"
    if not program.exists():
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
        ).stdout.split()
        quiet("gcc", "-O2", "bench/baselines/null.c", "-o", program, *flags)
    return program


dissect = serving(["target-mount"], "fs", peer=True)
ntfs3g = simple("ntfs-3g", "-o", "ro,big_writes")
loop = simple("mount", "-o", "ro,loop")

SYSTEMS = (
    System("imgfs", "ext4.raw", imgfs),
    System("kernel loop", "ext4.raw", kernel, root=True),
    System("fuse2fs", "ext4.raw", simple("fuse2fs", "-o", "ro"), ("fuse2fs",), root=True),
    System("dissect target-mount", "ext4.raw", dissect, ("target-mount",)),
    System("null, C", "ext4.raw", null(binding=False), ("gcc",)),
    System("null, pyfuse3", "ext4.raw", null(binding=True)),
    System("imgfs", "ntfs.raw", imgfs),
    System("ntfs-3g", "ntfs.raw", ntfs3g, ("ntfs-3g",), root=True),
    System("dissect target-mount", "ntfs.raw", dissect, ("target-mount",)),
    System("imgfs", "ext4.E01", imgfs),
    System("ewfmount + loop", "ext4.E01", stacked(ewfmount, kernel), ("ewfmount",), root=True),
    System("xmount + loop", "ext4.E01", stacked(xmount, kernel), ("xmount",), root=True),
    System("dissect target-mount", "ext4.E01", dissect, ("target-mount",)),
    System("imgfs", "ntfs.E01", imgfs),
    System("ewfmount + ntfs-3g", "ntfs.E01", stacked(ewfmount, ntfs3g), ("ewfmount", "ntfs-3g"), root=True),
    System("imgfs, disk.raw", "ext4.raw", imgfs_media, media=True),
    System("plain pread", "ext4.raw", plain, media=True),
    System("imgfs, disk.raw", "ext4.E01", imgfs_media, media=True),
    System("ewfmount", "ext4.E01", ewfmount, ("ewfmount",), media=True),
    System("imgfs", "ext4.qcow2", imgfs),
    System(
        "qemu-storage-daemon + loop",
        "ext4.qcow2",
        stacked(storage_daemon, kernel),
        ("qemu-storage-daemon",),
        root=True,
    ),
    System("imgfs", "tree.squashfs", imgfs),
    System("squashfuse", "tree.squashfs", simple("squashfuse"), ("squashfuse",)),
    System("kernel loop", "tree.squashfs", loop, root=True),
    System("imgfs", "lzo.squashfs", imgfs),
    System("squashfuse", "lzo.squashfs", simple("squashfuse"), ("squashfuse",)),
    System("imgfs", "xz.squashfs", imgfs),
    System("squashfuse", "xz.squashfs", simple("squashfuse"), ("squashfuse",)),
    System("imgfs", "tree.erofs", imgfs),
    System("kernel loop", "tree.erofs", loop, root=True),
    System("imgfs, disk.raw", "media.vmdk", imgfs_media, media=True),
    System("vmdkmount", "media.vmdk", media_in(("vmdkmount",), "vmdk1"), ("vmdkmount",), media=True),
    System("imgfs, disk.raw", "media.dmg", imgfs_media, media=True),
    System(
        "7z", "media.dmg", extracting("7z", "x", "-so", "-tdmg", "IMAGE"), ("7z",), media=True, stream=True
    ),
    System("imgfs, disk.raw", "media.aff4", imgfs_media, media=True),
    System("imgfs, volume.raw", "media.bde", imgfs_unlocked, media=True),
    System(
        "bdemount", "media.bde", media_in(("bdemount", "-r", RECOVERY), "bde1"), ("bdemount",), media=True
    ),
    System("dislocker", "media.bde", dislocker, ("dislocker-fuse",), media=True),
)
