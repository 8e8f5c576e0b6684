from __future__ import annotations

import random
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.extimages import make
from tests.backends.kernel import attached
from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"./. \* (\d+)(\(realloc\))?:\t(.*)")


def data(number: int) -> bytes:
    return random.Random(number).randbytes(number * 700)


def make_deleted(folder: Path, kind: str) -> Path:
    """Delete without a kernel, as older kernels did: names and maps stay where they were."""
    need("mke2fs", "debugfs")
    tree, image = folder / "tree", folder / "ext.img"
    (tree / "dir" / "sub").mkdir(parents=True)
    (tree / "gone").mkdir()
    for number in range(40):
        (tree / "dir" / f"file{number:02}").write_bytes(data(number))
        (tree / "gone" / f"x{number:02}").write_bytes(b"%d\n" % number)
    run("mke2fs", "-q", "-F", "-t", kind, "-b", "1024", "-d", tree, image, "8m")
    commands = [f"rm dir/file{n:02}" for n in (3, 4, 5, 11, 20, 39)]
    commands += [f"rm gone/x{n:02}" for n in range(40)]
    commands += ["rmdir gone", "kill_file dir/file25", "unlink dir/file25", "unlink dir/file30"]
    script = folder / "commands"
    script.write_text("\n".join(commands))
    run("debugfs", "-w", "-f", script, image)
    return image


def fls(image: Path, *options: str) -> dict[str, tuple[int, bool]]:
    """Return {path: (inode, reused)} of what TSK finds deleted."""
    found = {}
    for line in run("fls", "-rdp", *options, image).splitlines():
        match = _LINE.match(line)
        assert match, line
        found[match[3]] = int(match[1]), bool(match[2])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_deleted_names_and_bytes_are_those_of_tsk(tmp_path: Path, kind: str) -> None:
    need("fls", "icat")
    image = make_deleted(tmp_path, kind)
    reader = FileReader(image)
    files = open_files("ext", reader)
    deleted = walk(files, 1)
    ours = {
        path: entry
        for path, entry in deleted.items()
        if entry.attr.deleted and not path.startswith(b"$Orphans")
    }
    theirs = fls(image)
    assert {path.decode() for path in ours} == {
        path for path in theirs if not path.startswith("$OrphanFiles")
    }
    for path, (inode, _) in theirs.items():
        entry = ours[path.encode()]
        assert files.xattrs(1, entry.attr.inum)[b"user.imgfs.ext.inode"] == b"%d" % inode, path
        if entry.attr.kind != Kind.REG or entry.attr.damaged:
            continue
        wanted = subprocess.run(["icat", str(image), str(inode)], capture_output=True, check=True).stdout
        assert content(files, reader, 1, entry) == wanted, path
    for number in (3, 4, 5, 11, 20, 39, 25):
        entry = ours[b"dir/file%02d" % number]
        assert (entry.attr.damaged, content(files, reader, 1, entry)) == ("", data(number))
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    again = open_files("ext", reader)  # a worker that has just been started knows the numbers too
    for path, entry in deleted.items():
        assert again.stat(1, entry.attr.inum, 0) == entry.attr, path
    reader.close()


@pytest.mark.slow
def test_name_of_a_reused_inode_gives_no_bytes(tmp_path: Path) -> None:
    image = make_deleted(tmp_path, "ext2")
    reader = FileReader(image)
    entry = walk(open_files("ext", reader), 1)[b"dir/file30"]  # unlinked, never freed: still somebody's
    assert "another file" in entry.attr.damaged
    assert content(open_files("ext", reader), reader, 1, entry) == b""
    reader.close()


@pytest.mark.slow
def test_freed_inodes_without_names_are_orphans(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    (tree / "dir").mkdir(parents=True)
    for number in range(30):
        (tree / "dir" / f"file{number:02}").write_bytes(data(number))
    run("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", tree, image, "4m")
    reader = FileReader(image)
    inums = {n: walk(open_files("ext", reader))[b"dir/file%02d" % n].attr.inum for n in (4, 9)}
    reader.close()
    run("debugfs", "-w", "-R", "rm dir/file04", image)
    run("debugfs", "-w", "-R", "rm dir/file09", image)
    whole = bytearray(image.read_bytes())
    for name in (b"file04", b"file09"):  # what newer kernels do: wipe the name
        whole[whole.index(name) - 8 : whole.index(name) + 6] = bytes(14)
    image.write_bytes(whole)
    reader = FileReader(image)
    files = open_files("ext", reader)
    deleted = walk(files, 1)
    for number, inum in inums.items():
        entry = deleted[b"$Orphans/%d" % inum]
        assert content(files, reader, 1, entry) == data(number)
    assert len([path for path in deleted if path.startswith(b"$Orphans/")]) == 2
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    reader.close()


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_what_a_kernel_deleted_is_found_by_inode(tmp_path: Path, kind: str) -> None:
    image = make(tmp_path / "ext.img", "-t", kind, "-b", "1024", size=8 << 20)
    with attached("ext4", image, tmp_path / "mnt") as where:
        (where / "dir").mkdir()
        for number in range(1, 20):
            (where / "dir" / f"file{number:02}").write_bytes(data(number))
        inums = {number: (where / "dir" / f"file{number:02}").stat().st_ino for number in (2, 7, 19)}
    with attached("ext4", image, tmp_path / "mnt") as where:
        for number in (2, 7, 19):
            (where / "dir" / f"file{number:02}").unlink()
    reader = FileReader(image)
    files = open_files("ext", reader)
    deleted = walk(files, 1)
    for number, inum in inums.items():  # the name may have been wiped: then it is an orphan
        assert b"dir/file%02d" % number in deleted or b"$Orphans/%d" % inum in deleted
    assert not {entry.attr.inum for entry in walk(files).values()} & set(inums.values())
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_growing_hash_tree_leaves_no_false_deleted_names(tmp_path: Path) -> None:
    image = make(tmp_path / "ext.img", "-t", "ext4", "-b", "1024", "-N", "4000")
    with attached("ext4", image, tmp_path / "mnt") as where:
        for number in range(3000):
            (where / f"a file with a name of some length {number}").touch()
    reader = FileReader(image)
    files = open_files("ext", reader)
    assert len(walk(files)) == 3001
    assert {path for path, entry in walk(files, 1).items() if entry.attr.deleted} == {b"$Orphans"}
    reader.close()
