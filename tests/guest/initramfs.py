"""The guest's only file system: an archive in memory, written here (kernel: initramfs-buffer-format)."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import subprocess
from pathlib import Path

from tests.guest import packages

# loaded at the start, or by their names when needed
MODULES = (
    "drivers/md/*", "drivers/block/loop.ko", "drivers/block/brd.ko", "drivers/block/virtio_blk.ko",
    "drivers/block/zram/*", "drivers/block/null_blk/*", "drivers/virtio/*", "crypto/*", "arch/x86/crypto/*",
    "lib/*", "fs/ext4/*", "fs/xfs/*", "fs/btrfs/*", "fs/hfs/*", "fs/hfsplus/*", "fs/udf/*", "fs/isofs/*",
    "fs/fat/*", "fs/f2fs/*", "fs/exfat/*", "fs/squashfs/*", "fs/jfs/*", "fs/ntfs3/*", "fs/minix/*",
    "fs/ufs/*", "fs/nls/*", "fs/erofs/*",
)  # fmt: skip
_INIT = Path(__file__).with_name("init.sh")
_KEPT = 4  # images, of several versions of the project
_PATTERN = Path(__file__).with_name("pattern.py")


def built() -> tuple[Path, Path]:
    """Return the kernel and the initramfs, built once for what they are made of."""
    root = packages.unpacked()
    kernel = next(iter(sorted((root / "boot").glob("vmlinuz-*"))))
    stamp = hashlib.sha256(b"".join(p.read_bytes() for p in (_INIT, _PATTERN, Path(__file__))))
    stamp.update(" ".join([kernel.name, *packages.WANTED]).encode())
    image = packages.cache() / f"initramfs-{stamp.hexdigest()[:16]}"
    if not image.exists():
        made = image.with_name(f"making-{os.getpid()}")
        with made.open("wb") as file:
            for part in _archive(root, kernel.name.removeprefix("vmlinuz-")):
                file.write(part)
        made.rename(image)
        known = sorted(packages.cache().glob("initramfs-*"), key=lambda path: path.stat().st_mtime)
        for old in known[:-_KEPT]:
            old.unlink()
    return kernel, image


def _archive(root: Path, version: str) -> list[bytes]:
    kept = _modules(root, version)
    library = f"lib/modules/{version}/"
    parts = [
        _record(name, stat.S_IFDIR | 0o755)
        for name in ("proc", "sys", "dev", "out", "recipe", "tmp", "run", "mnt")
    ]
    seen = {"proc", "sys", "dev", "out", "recipe", "tmp", "run", "mnt"}
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(names + files):
            path = Path(folder, name)
            inside = str(path.relative_to(root))
            if inside in seen or inside.startswith(("boot/", "lib/udev", "usr/lib/x86_64-linux-gnu/gconv")):
                continue
            if inside.startswith(library) and inside.endswith(".ko") and inside not in kept:
                continue
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                parts.append(_record(inside, stat.S_IFLNK | 0o777, os.fsencode(os.readlink(path))))
            elif stat.S_ISDIR(mode):
                parts.append(_record(inside, stat.S_IFDIR | 0o755))
            else:
                parts.append(_record(inside, stat.S_IFREG | 0o644 | (mode & 0o111), path.read_bytes()))
    parts.append(_record("init", stat.S_IFREG | 0o755, _INIT.read_bytes()))
    pattern = b"#!/usr/bin/python3.11 -S\n" + _PATTERN.read_bytes()
    parts.append(_record("usr/bin/pattern", stat.S_IFREG | 0o755, pattern))
    parts.append(_record("TRAILER!!!", 0))
    return parts


def _modules(root: Path, version: str) -> set[str]:
    """Return the modules that are wanted and those they need, with their index brought up to date."""
    folder = root / "lib/modules" / version
    loader, library = root / "lib64/ld-linux-x86-64.so.2", root / "lib/x86_64-linux-gnu"
    libraries = f"{library}:{root}/usr/lib/x86_64-linux-gnu"
    tool = root / "bin/kmod"
    if not (folder / "modules.dep").exists():
        called = [loader, "--argv0", "depmod", "--library-path", libraries, tool]
        subprocess.run([*called, "-b", root, version], check=True)
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[name] = others.split()
    wanted = {name for name in needs if any(fnmatch.fnmatch(name, f"kernel/{mask}") for mask in MODULES)}
    wanted |= {other for name in wanted for other in needs[name]}
    return {f"lib/modules/{version}/{name}" for name in wanted}


def _record(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return a file of the archive in the newc form."""
    encoded = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
