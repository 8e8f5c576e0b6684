"""APFS as a module for the kernel wrote it: everything it showed, in volumes and snapshots, recorded.

What is the module's own and not the format's: attributes carry "osx." before their names, device numbers are
stored as the kernel packs them, links and folders have no size and folders one link, holes count as blocks.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.guest import recording

if TYPE_CHECKING:
    from imgfs.backends import Files, Reader
    from imgfs.model import Entry

RECORDED = Path(__file__).parents[1] / "recorded"
OURS = b"user.imgfs."
PRIVATE = b"$private-dir"
TREES = [
    ("small", "small", "small"),
    ("cased", "cased", "cased"),
    ("exact", "exact", "exact"),
    ("snaps", "snaps", "snaps"),
    ("snaps", "snaps@first", "snaps.first"),
    ("snaps", "snaps@second é", "snaps.second"),
]
Seen = dict[bytes, dict[str, Any]]


@cache
def recorded(name: str) -> tuple[bytes, dict[str, Any]]:
    with TemporaryDirectory() as folder:
        disks, truth = recording.load(RECORDED / f"apfs-{name}.xz", Path(folder))
        return disks[name].read_bytes(), truth


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compare(files: Files, reader: Reader, tree: int, seen: Seen) -> None:
    """Assert that a tree is what the kernel saw."""
    shown = {path: entry for path, entry in walk(files, tree).items() if not path.startswith(PRIVATE)}
    assert {path for path, entry in shown.items() if not entry.stream} == seen.keys() - {b""}
    for path, told in seen.items():
        if path:
            _compare_one(files, reader, tree, shown[path], told)
            for name, value in told["xattrs"].items():
                if name != "osx.com.apple.fs.symlink":
                    stream = shown[path + b":" + name.removeprefix("osx.").encode()]
                    assert content(files, reader, tree, stream) == bytes.fromhex(value), path


def _compare_one(files: Files, reader: Reader, tree: int, entry: Entry, told: dict[str, Any]) -> None:
    attr = entry.attr
    ours = [attr.kind, attr.mode, attr.uid, attr.gid, attr.inum, attr.m_ns, attr.a_ns, attr.c_ns, attr.b_ns]
    wanted = [told[key] for key in ("kind", "mode", "uid", "gid", "ino", "m_ns", "a_ns", "c_ns", "b_ns")]
    assert (ours, attr.damaged) == (wanted, ""), entry.name
    assert attr.nlink == told["nlink"] if attr.kind != Kind.DIR else attr.nlink >= 2
    found = files.xattrs(tree, attr.inum)
    theirs = {name.removeprefix("osx.").encode(): bytes.fromhex(v) for name, v in told["xattrs"].items()}
    assert {name: value for name, value in found.items() if not name.startswith(OURS)} == theirs
    if attr.kind == Kind.REG:
        assert attr.size == told["size"]
        data = content(files, reader, tree, entry)
        assert digest(data) == told["body"], entry.name
        if entry.layout is not None:
            assert content(files, reader, tree, entry, entry.layout) == data
        if b"user.imgfs.sparse-bytes" in found:
            assert attr.allocated + int(found[b"user.imgfs.sparse-bytes"]) == told["blocks"] * 512
        else:
            assert attr.allocated == told["blocks"] * 512
    elif attr.kind == Kind.LNK:
        target = told["body"].encode("latin-1")
        assert files.link(tree, attr.inum) == target
        assert attr.size == len(target)
    elif attr.kind in (Kind.CHR, Kind.BLK):
        minor = told["rdev"] & 0xFF | told["rdev"] >> 12 & ~0xFF
        stored = (told["rdev"] >> 8 & 0xFFF) << 20 | minor
        assert int(found[b"user.imgfs.device"], 16) == stored


@pytest.mark.parametrize(("name", "tree", "truth"), TREES)
def test_what_the_kernel_saw_is_shown(name: str, tree: str, truth: str) -> None:
    image, told = recorded(name)
    reader = MemoryReader(image)
    files = open_files("apfs", reader)
    trees = [one.name for one in files.info.trees]
    assert trees == [row[1] for row in TREES if row[0] == name]
    seen = {path.encode("latin-1"): row for path, row in told[truth].items()}
    compare(files, reader, trees.index(tree), seen)


def test_snapshots_say_when_they_were_taken() -> None:
    files = open_files("apfs", MemoryReader(recorded("snaps")[0]))
    said = [files.xattrs(tree, 2) for tree in range(3)]
    assert b"user.imgfs.snapshot.name" not in said[0]
    assert [one[b"user.imgfs.snapshot.name"].decode() for one in said[1:]] == ["first", "second é"]
    taken = [one[b"user.imgfs.snapshot.created"] for one in said[1:]]
    assert taken[0] <= taken[1]
    assert said[0][b"user.imgfs.volume.snapshots"] == b"2"
    assert said[1][b"user.imgfs.volume.uuid"] == said[0][b"user.imgfs.volume.uuid"]


@pytest.mark.parametrize("name", ["small", "snaps"])
def test_however_it_is_asked(tmp_path: Path, name: str) -> None:
    image, told = recorded(name)
    (tmp_path / "image").write_bytes(image)
    truth = {
        path.encode("latin-1"): None for path, row in told[name].items() if path and row["kind"] == Kind.DIR
    }
    check_files("apfs", tmp_path / "image", truth)


def test_holes_are_holes(tmp_path: Path) -> None:
    image, _ = recorded("small")
    (tmp_path / "image").write_bytes(image)
    reader = FileReader(tmp_path / "image")
    files = open_files("apfs", reader)
    attr = walk(files)[b"hole"].attr
    assert attr.allocated == 0
    (layout,) = files.layout(0, attr.inum, 0)
    assert set(memoryview(layout.target).cast("q")) == {-1}  # type: ignore[union-attr]
    reader.close()


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(recorded("snaps")[0][: 4 << 20])
    check_hostile("apfs", tmp_path / "image", tmp_path, seeds=60, seconds=400)
