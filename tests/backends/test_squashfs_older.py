"""SquashFS 2 and 3 in both byte orders, composed, with 7z as the judge of what they hold."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.squashcompose import Composer, Node
from tests.backends.tskimages import need, noise

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"".join(b"line %d of a text\n" % number for number in range(2000))
USERS, GROUPS = [0, 1000], [100, 70_000]


def tree(*, many: int = 300) -> dict[str, Node]:
    return {
        "empty": Node(b""),
        "small": Node(b"hello world\n", uid=1, gid=1, mode=0o4755),
        "text": Node(TEXT),
        "noise": Node(noise(20_000, 3), fragment=False, uid=1, gid=255),
        "blocks": Node(TEXT[:8192]),
        "dir": Node(
            {"inner": Node(b"inner\n"), "empty": Node({}, mode=0o700)}, mode=0o755, made=1_700_000_000
        ),
        "many": Node({f"file number {n:04}": Node(b"%d\n" % n) for n in range(many)}, mode=0o755),
        "link": Node("dir/inner", mode=0o777),
        "null": Node(0x0103, kind=5, mode=0o666),
        "disk": Node(0x0811, kind=4),
        "pipe": Node(0, kind=6),
    }


def contents(nodes: dict[str, Node], above: str = "") -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    for name, node in nodes.items():
        if isinstance(node.data, dict):
            found[os.fsencode(above + name)] = None
            found |= contents(node.data, f"{above}{name}/")
        elif isinstance(node.data, bytes):
            found[os.fsencode(above + name)] = node.data
    return found


WAYS = {
    "2-little": (2, "<", b"hsqs", {}),
    "2-big": (2, ">", b"sqsh", {}),
    "3-little": (3, "<", b"hsqs", {}),
    "3-big": (3, ">", b"sqsh", {}),
    "3-checked": (3, "<", b"hsqs", {"checked": True}),
    "2-lzma": (2, "<", b"shsq", {"lzma1": True}),
    "3-lzma-big": (3, ">", b"qshs", {"lzma1": True}),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_was_composed_is_read(tmp_path: Path, name: str) -> None:
    major, order, magic, options = WAYS[name]
    nodes = tree()
    image = tmp_path / "image"
    image.write_bytes(Composer(major, order, **options).image(nodes, magic, USERS, GROUPS))
    found = check_files("squashfs", image, contents(nodes))
    reader = FileReader(image)
    files = open_files("squashfs", reader)
    assert files.info.version.startswith(f"{major}.")
    shown = {
        path: (e.attr.kind, e.attr.mode, e.attr.uid, e.attr.gid, e.attr.rdev) for path, e in found.items()
    }
    assert shown[b"small"] == (Kind.REG, 0o4755, 1000, 70_000, 0)
    assert shown[b"noise"] == (Kind.REG, 0o644, 1000, 1000, 0)
    assert shown[b"null"] == (Kind.CHR, 0o666, 0, 0, os.makedev(1, 3))
    assert shown[b"disk"] == (Kind.BLK, 0o644, 0, 0, os.makedev(8, 17))
    assert shown[b"pipe"][0] is Kind.FIFO
    assert found[b"dir"].attr.m_ns == 1_700_000_000 * 10**9
    assert files.link(0, found[b"link"].attr.inum) == b"dir/inner"
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_what_was_composed_is_what_7z_reads(tmp_path: Path, name: str) -> None:
    need("7z")
    major, order, _, options = WAYS[name]
    nodes = tree(many=10 if options.get("lzma1") else 300)  # 7z tells LZMA by the first inodes alone
    image = tmp_path / "image"
    magic = b"hsqs" if order == "<" else b"sqsh"  # it does not know those of vendors
    image.write_bytes(Composer(major, order, **options).image(nodes, magic, USERS, GROUPS))
    done = subprocess.run(
        ["7z", "x", "-y", f"-o{tmp_path / 'out'}", image], capture_output=True, text=True, check=False
    )
    for path, data in contents(nodes).items():
        where = tmp_path / "out" / os.fsdecode(path)
        assert where.is_dir() if data is None else where.read_bytes() == data, (path, done.stdout[-1000:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2-little", "3-big", "3-checked", "2-lzma"])
def test_damage_stays_inside_the_contract(tmp_path: Path, name: str) -> None:
    major, order, magic, options = WAYS[name]
    image = tmp_path / "image"
    image.write_bytes(Composer(major, order, **options).image(tree(many=20), magic, USERS, GROUPS))
    assert "walked" in check_hostile("squashfs", image, tmp_path, seeds=200)
