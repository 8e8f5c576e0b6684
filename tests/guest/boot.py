"""One run of the guest: disks in, recipe, results out."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guest import initramfs

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_RESULTS = 256 << 20  # bytes of the disk that brings /out
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Result:
    """What a recipe left: ``disks`` by name, files of /out in ``folder``, the console."""

    status: int
    folder: Path
    disks: dict[str, Path]
    console: str


@dataclass(frozen=True, slots=True)
class _Disk:
    name: str
    path: Path
    sector: int = _SECTOR
    snapshot: bool = False

    def arguments(self) -> list[str]:
        drive = f"file={self.path},if=none,id=d{self.name},format=raw,cache=unsafe"
        drive += ",discard=unmap,detect-zeroes=unmap"
        if self.snapshot:
            drive += ",snapshot=on"
        device = (
            f"virtio-blk-pci,drive=d{self.name},serial={self.name},"
            f"logical_block_size={self.sector},physical_block_size={self.sector}"
        )
        return ["-drive", drive, "-device", device]


def run(recipe: str, out: Path, *, beside: Path | None = None, seconds: float = 300) -> Result:
    """Boot the guest, let it run a recipe, and bring its disks and results into ``out``.

    Args:
        recipe: script; its ``# disk:``, ``# use:``, ``# with:``, ``# memory:`` lines name what it works on.
        out: folder, made if it is missing.
        beside: folder of the ``*.shlib`` it sources and the images it uses.
        seconds: of the guest's life at most.

    Raises:
        RuntimeError: the guest did not end in time, or brought no results; its console is in the message.
    """
    out.mkdir(parents=True, exist_ok=True)
    disks = _disks(recipe, out, beside or Path())
    with tempfile.TemporaryDirectory(prefix="imgfs-guest-") as name:
        folder = Path(name)
        (folder / "in").write_bytes(_packed(recipe, beside))
        results = folder / "out"
        with results.open("wb") as file:
            file.truncate(_RESULTS)
        extra = [_Disk(".in", folder / "in"), _Disk(".out", results)]
        console = _boot(_memory(recipe), [*extra, *disks], seconds)
        (out / "log").write_text(console)
        try:
            with tarfile.open(results) as archive:
                _extract(archive, out)
            status = int((out / "status").read_text())
        except (tarfile.TarError, OSError) as why:
            raise RuntimeError(f"no results ({why}):\n{console[-4000:]}") from None
    return Result(status, out, {disk.name: disk.path for disk in disks}, console)


def _disks(recipe: str, out: Path, beside: Path) -> list[_Disk]:
    disks = []
    for line in re.findall(r"^# disk: (.+)$", recipe, re.MULTILINE):
        name, size, *more = line.split()
        path = out / f"{name}.img"
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(_bytes(size))
        told = dict(word.split("=", 1) for word in more)
        if "image" in told:
            shutil.copyfile(beside / told["image"], path)
            os.truncate(path, max(_bytes(size), path.stat().st_size))
        disks.append(_Disk(name, path, int(told.get("sector", _SECTOR))))
    for line in re.findall(r"^# use: (.+)$", recipe, re.MULTILINE):
        name, given = line.split()
        disks.append(_Disk(name, beside / given, snapshot=True))
    return disks


def _bytes(size: str) -> int:
    return int(size.rstrip("KMGT")) * _UNITS[size.lstrip("0123456789")]


def _extract(archive: tarfile.TarFile, out: Path) -> None:
    """Put the files of an archive into a folder: names that lead elsewhere are left out."""
    for member in archive:
        name = member.name.removeprefix("./")
        held = archive.extractfile(member) if member.isfile() else None
        if held is not None and name and ".." not in Path(name).parts and not name.startswith("/"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(held.read())


def _memory(recipe: str) -> int:
    found = re.search(r"^# memory: (\d+)$", recipe, re.MULTILINE)
    return int(found[1]) if found else 1024


def _packed(recipe: str, beside: Path | None) -> bytes:
    """Return an archive of the recipe and what it sources, as long as a disk may be."""
    made = io.BytesIO()
    files = {"recipe.sh": recipe.encode()}
    files |= {path.name: path.read_bytes() for path in sorted(beside.glob("*.shlib"))} if beside else {}
    for name in re.findall(r"^# with: (.+)$", recipe, re.MULTILINE):
        path = (beside or Path()) / name
        files[path.name] = path.read_bytes()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue() + bytes(-len(made.getvalue()) % 4096)


def _boot(memory: int, disks: list[_Disk], seconds: float) -> str:
    if not shutil.which("qemu-system-x86_64"):
        raise RuntimeError("qemu-system-x86_64 is not installed (package qemu-system-x86)")
    kernel, image = initramfs.built()
    command = [
        "qemu-system-x86_64", "-accel", os.environ.get("IMGFS_GUEST_ACCEL", "tcg"), "-cpu", "max",
        "-smp", "2", "-m", str(memory), "-display", "none", "-serial", "stdio", "-monitor", "none",
        "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", image,
        "-append", "console=ttyS0 quiet panic=-1 rdinit=/init",
    ]  # fmt: skip
    for disk in disks:
        command += disk.arguments()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode("utf-8", "replace")
        raise RuntimeError(f"the guest did not end within {seconds:.0f} s:\n{said[-4000:]}") from None
    return done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")
