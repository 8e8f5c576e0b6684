"""The sample disk of ``./dev demo``: a laptop's GPT disk made with real tools, acquired to E01 segments.

``python -m tests.sample FOLDER`` writes FOLDER/laptop.dd, laptop.E01, laptop.E02 ... No mount by the kernel
is needed; NTFS gets its deleted files only as root, because ntfs-3g does.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20
_START = {"efi": 1, "linux": 35, "windows": 99}  # MiB
_SIZE = {"efi": 34, "linux": 64, "windows": 60}  # MiB; FAT32 needs 65,525 clusters
_DISK = 160  # MiB


def run(*command: str | Path, text: str | None = None) -> str:
    """Run a tool; its output is shown when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, input=text, check=False)
    if done.returncode:
        message = f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
        raise RuntimeError(message)
    return done.stdout


def files(folder: Path, seed: int = 7) -> None:
    """Write what a user's home looks like: text, incompressible pictures, links."""
    chance = random.Random(seed)
    for name, size in (("photo1.jpg", 9 * MIB), ("photo2.jpg", 7 * MIB), ("notes.txt", 0), ("todo.txt", 0)):
        path = folder / name
        path.write_bytes(
            chance.randbytes(size)
            if size
            else b"".join(b"line %d of %s\n" % (i, name.encode()) for i in range(2000))
        )
    (folder / "empty").write_bytes(b"")


def efi(image: Path, scratch: Path) -> None:
    """Make the FAT32 EFI volume, with one deleted file."""
    run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "EFI", "-C", image, str(_SIZE["efi"] * 1024))
    (scratch / "bootx64.efi").write_bytes(random.Random(1).randbytes(300_000))
    run("mmd", "-i", image, "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", image, scratch / "bootx64.efi", "::EFI/BOOT/BOOTX64.EFI")
    run("mcopy", "-i", image, scratch / "bootx64.efi", "::EFI/BOOT/old boot loader.efi")
    run("mdel", "-i", image, "::EFI/BOOT/old boot loader.efi")


def linux(image: Path, scratch: Path) -> None:
    """Make the ext4 volume, with a link, an absolute link, extended attributes and a deleted file."""
    root = scratch / "linux"
    home = root / "home" / "anna"
    home.mkdir(parents=True)
    files(home)
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n")
    (home / "passwd").symlink_to("/etc/passwd")
    (home / "photo.jpg").symlink_to("photo1.jpg")
    image.touch()
    os.truncate(image, _SIZE["linux"] * MIB)
    run("mkfs.ext4", "-q", "-L", "linux", "-d", root, image)
    run(
        "debugfs",
        "-w",
        "-f",
        "-",
        image,
        text="ea_set /home/anna/notes.txt user.source downloads\nrm /home/anna/todo.txt\n",
    )


def windows(image: Path, scratch: Path) -> None:
    """Make the NTFS volume: an alternate data stream and, as root, deleted files and directories."""
    image.touch()
    os.truncate(image, _SIZE["windows"] * MIB)
    run("mkfs.ntfs", "-F", "-q", "-Q", "-L", "Windows", image)
    source = scratch / "windows"
    source.mkdir()
    files(source, seed=8)
    zone = scratch / "zone"
    zone.write_bytes(b"[ZoneTransfer]\r\nZoneId=3\r\nHostUrl=http://example.org/setup.exe\r\n")
    if os.getuid() == 0:
        with tempfile.TemporaryDirectory() as mounted:
            run("ntfs-3g", image, mounted)
            try:
                users = Path(mounted) / "Users" / "Anna"
                users.mkdir(parents=True)
                for path in source.iterdir():
                    (users / path.name).write_bytes(path.read_bytes())
                (Path(mounted) / "gone").mkdir()
                (Path(mounted) / "gone" / "secret plan.txt").write_bytes(b"meet at noon\n" * 500)
                (Path(mounted) / "gone" / "secret plan.txt").unlink()
                (Path(mounted) / "gone").rmdir()
                (users / "todo.txt").unlink()
            finally:
                run("umount", mounted)
        run("ntfscp", "-f", "-q", "-N", "Zone.Identifier", image, zone, "/Users/Anna/notes.txt")
    else:
        for path in sorted(source.iterdir()):
            run("ntfscp", "-f", "-q", image, path, path.name)
        run("ntfscp", "-f", "-q", "-N", "Zone.Identifier", image, zone, "notes.txt")


def disk(target: Path) -> None:
    """Put the volumes on a GPT disk."""
    target.touch()
    os.truncate(target, _DISK * MIB)
    arguments = []
    for number, (name, code) in enumerate((("efi", "ef00"), ("linux", "8300"), ("windows", "0700")), 1):
        sectors = _START[name] * 2048, (_START[name] + _SIZE[name]) * 2048 - 1
        arguments += ["-n", f"{number}:{sectors[0]}:{sectors[1]}", "-t", f"{number}:{code}"]
        arguments += ["-c", f"{number}:{ {'efi': 'EFI', 'linux': 'linux', 'windows': 'Windows'}[name] }"]
    run("sgdisk", "-o", *arguments, target)
    with tempfile.TemporaryDirectory() as folder, target.open("r+b") as out:
        scratch = Path(folder)
        for name, make in (("efi", efi), ("linux", linux), ("windows", windows)):
            volume = scratch / f"{name}.img"
            make(volume, scratch)
            out.seek(_START[name] * MIB)
            out.write(volume.read_bytes())


def acquire(
    source: Path, target: Path, *, segment: str = "15MiB", level: str = "fast", form: str = "encase6"
) -> None:
    """Acquire a disk to E01 segments ``target``.E01 ..."""
    facts = [
        "-C",
        "2026-001",
        "-D",
        "sample laptop",
        "-E",
        "1",
        "-e",
        "A. Analyst",
        "-N",
        "made for the demo",
    ]
    run(
        "ewfacquire",
        "-u",
        "-q",
        "-t",
        target,
        "-f",
        form,
        "-c",
        level,
        "-S",
        segment,
        "-d",
        "sha1",
        *facts,
        source,
    )


def main(folder: Path) -> None:
    """Make everything below ``folder``."""
    folder.mkdir(exist_ok=True)
    disk(folder / "laptop.dd")
    acquire(folder / "laptop.dd", folder / "laptop")
    print(f"made {', '.join(sorted(p.name for p in folder.iterdir()))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
