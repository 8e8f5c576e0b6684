"""Discs of ISO 9660 with everything their trees can hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.backends.tskimages import noise, run

if TYPE_CHECKING:
    from pathlib import Path

DEEP = "one/two/three/four/five/six/seven/eight/nine/ten"
LINES = b"".join(b"line %d of many\n" % (n % 97) for n in range(20_000))
CODED = {
    "lines.txt": LINES,
    "gap.bin": LINES[:70_000] + bytes(300_000) + LINES[:5],
    "block.bin": LINES[:131_072],
    "tiny.txt": b"tiny\n" * 400,
}


def plant(top: Path) -> None:
    """Write a tree with links, nodes, long names and deep directories. Nodes need root."""
    top.mkdir()
    (top / DEEP).mkdir(parents=True)
    (top / DEEP / "deep.txt").write_bytes(b"deep\n")
    (top / "one/two/three/four/five/six/seven/side.txt").write_bytes(b"side\n")
    for size in (0, 1, 2047, 2048, 2049, 70_001):
        (top / f"size{size}").write_bytes((noise(2048, size) * 40)[:size])
    (top / ("long" + "x" * 56)).write_bytes(b"long\n")
    (top / "Größe жэ.text").write_bytes(b"unicode\n")
    (top / "two.dots.txt").write_bytes(b"dots\n")
    os.link(top / "size2049", top / "again")
    for number, target in enumerate(("size1", "../up/./x", "/etc/passwd", "one/two", "t" * 150 + "/u")):
        (top / f"link{number}").symlink_to(target)
    os.mkfifo(top / "fifo", 0o640)
    for mode in (0o400, 0o753, 0o4755, 0o2711):
        path = top / f"mode{mode:o}"
        path.write_bytes(b"mode\n")
        path.chmod(mode)
    for moment in (1, 2**31 - 2, 1_500_000_000):
        path = top / f"time{moment}"
        path.write_bytes(b"time\n")
        os.utime(path, (moment, moment))
    if not os.geteuid():
        os.mknod(top / "char", 0o20600, os.makedev(5, 1))
        os.mknod(top / "block", 0o60600, os.makedev(8, 17))
        os.chown(top / "size1", 1000, 70_000)


def disc(folder: Path, *, relocated: bool = True) -> Path:
    """Return a disc with all three trees; ``relocated``: deep directories lie elsewhere."""
    tree, image = folder / "tree", folder / "disc.iso"
    plant(tree)
    options = ["-R", "-J", "-joliet-long", "-o", image, tree]
    if relocated:
        run("genisoimage", "-quiet", "-V", "EVIDENCE", *options)
    else:
        run("xorriso", "-as", "mkisofs", "-quiet", "-V", "EVIDENCE", *options)
    return image


def zisofs(folder: Path, *, block: str = "32k", version: str = "off") -> Path:
    """Return a disc of compressed files. ``version``: of zisofs2, as xorriso calls it."""
    tree, image = folder / "coded", folder / "coded.iso"
    tree.mkdir()
    for name, data in CODED.items():
        (tree / name).write_bytes(data)
    sizes = "block_size_v2" if version == "on" else "block_size"
    run(
        "xorriso", "-outdev", image, "-padding", "0", "-map", tree, "/",
        "-zisofs", f"level=9:{sizes}={block}:version_2={version}", "-set_filter_r", "--zisofs", "/", "--",
    )  # fmt: skip
    return image
