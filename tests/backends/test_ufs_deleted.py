from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import check_hostile, content, open_files, walk
from tests.backends.tskimages import need, run
from tests.backends.ufsimages import BLOCK, FRAGMENT, Disk, data, make, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.model import Entry

FORMS = pytest.mark.parametrize(("version", "order"), [(1, "le"), (1, "be"), (2, "le"), (2, "be")])
KEPT = (3, 4, 5, 11, 20, 60)
_LINE = re.compile(r"./. \* (\d+)(\(realloc\))?:\t(.*)")


def make_deleted(folder: Path, version: int, order: str) -> Path:
    image = make(folder, version, order)
    disk = Disk(image, version, order)
    delete_in(disk)
    disk.save()
    return image


def delete_in(disk: Disk) -> None:
    for number in KEPT:
        disk.remove(f"dir/file{number:02}")
    disk.remove("dir/file07", "cleared")
    disk.remove("dir/file08", "open")
    disk.remove("dir/file09", "linked")
    disk.remove("dir/link")
    disk.remove("dir/long")
    for number in range(20):
        disk.remove(f"gone/x{number:02}")
    disk.remove("gone")


def for_tsk(image: Path) -> Path:
    """TSK looks for UFS2 where FreeBSD puts it, makefs does not."""
    copy = image.with_suffix(".tsk")
    shutil.copy(image, copy)
    with copy.open("r+b") as file:
        file.seek(8192)
        superblock = file.read(8192)
        file.seek(262_144)
        if superblock[1372:1376] in {b"\x19\x01\x54\x19", b"\x19\x54\x01\x19"}:
            assert not any(file.read(8192)), "somebody has this place"
            file.seek(262_144)
            file.write(superblock)
    return copy


def fls(image: Path) -> dict[str, tuple[int, bool]]:
    """Return {path: (inode, reused)} of what TSK finds deleted."""
    found = {}
    for line in run("fls", "-rdp", image).splitlines():
        match = _LINE.match(line)
        assert match, line
        found[match[3]] = int(match[1]), bool(match[2])
    return found


def icat(image: Path, inode: int) -> bytes:
    return subprocess.run(["icat", str(image), str(inode)], capture_output=True, check=True).stdout


def named(deleted: dict[bytes, Entry]) -> dict[str, Entry]:
    return {
        path.decode(): entry
        for path, entry in deleted.items()
        if entry.attr.deleted and not path.startswith(b"$Orphans")
    }


@pytest.mark.slow
@FORMS
def test_deleted_names_and_bytes_are_those_of_tsk(tmp_path: Path, version: int, order: str) -> None:
    need("fls", "icat")
    image = make_deleted(tmp_path, version, order)
    reader, other = FileReader(image), for_tsk(image)
    files = open_files("ufs", reader)
    deleted = walk(files, 1)
    ours, theirs = named(deleted), fls(other)
    assert set(ours) == {path for path in theirs if not path.startswith("$OrphanFiles")}
    for path, (inode, _) in theirs.items():
        entry = ours[path]
        told = files.xattrs(1, entry.attr.inum).get(b"user.imgfs.ufs.inode", b"0")
        assert told == b"%d" % inode, path
        if entry.attr.kind == Kind.REG and not entry.attr.damaged:
            assert content(files, reader, 1, entry) == icat(other, inode), path
    found = {
        path: content(files, reader, 1, entry)
        for path, entry in deleted.items()
        if entry.attr.deleted and entry.attr.kind == Kind.REG
    }
    orphans = [text for path, text in found.items() if path.startswith(b"$Orphans/")]
    for number in (*KEPT, 8):  # 8 was open when it was removed: its blocks are still its own
        path = b"dir/file%02d" % number
        if deleted[path].attr.damaged:  # the first entry of a block loses the number of its inode
            assert "no longer says" in deleted[path].attr.damaged
            assert data(number) in orphans
        else:
            assert found[path] == data(number)
    for name, target in (("dir/link", b"a/short/target"), ("dir/long", b"target/" * 40)):
        if ours[name].attr.kind == Kind.LNK:
            assert files.link(1, ours[name].attr.inum) == target
        else:
            assert "no longer says" in ours[name].attr.damaged
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    again = open_files("ufs", reader)  # a worker that has just been started knows the numbers too
    for path, entry in deleted.items():
        assert again.stat(1, entry.attr.inum, 0) == entry.attr, path
    reader.close()


@pytest.mark.slow
@FORMS
def test_what_is_gone_is_said_and_not_made_up(tmp_path: Path, version: int, order: str) -> None:
    reader = FileReader(make_deleted(tmp_path, version, order))
    files = open_files("ufs", reader)
    deleted = walk(files, 1)
    for name, why in ((b"dir/file07", "nothing any more"), (b"dir/file09", "another file")):
        assert re.search(f"{why}|no longer says", deleted[name].attr.damaged)
        assert content(files, reader, 1, deleted[name]) == b""
    assert data(9) not in [
        content(files, reader, 1, entry)
        for path, entry in deleted.items()
        if path.startswith(b"$Orphans/") and entry.attr.kind == Kind.REG
    ]
    reader.close()


@pytest.mark.slow
@FORMS
def test_files_in_use_that_nobody_names_are_orphans(tmp_path: Path, version: int, order: str) -> None:
    """The power went between the writing of the directory and that of the inode."""
    image = make(tmp_path, version, order)
    disk = Disk(image, version, order)
    inside = {number: disk.lookup(f"gone/x{number:02}") for number in range(20)}
    file, folder, twin = (disk.remove(path, "linked") for path in ("dir/file10", "gone", "dir/file09"))
    disk.save()
    reader = FileReader(image)
    files = open_files("ufs", reader)
    deleted = walk(files, 1)
    orphans = {path for path in deleted if path.count(b"/") == 1 and path.startswith(b"$Orphans/")}
    assert orphans == {b"$Orphans/%d" % number for number in (file, folder, *inside.values())}
    assert b"$Orphans/%d" % twin not in orphans  # it has another name
    assert content(files, reader, 1, deleted[b"$Orphans/%d" % file]) == data(10)
    assert "no directory names it" in deleted[b"$Orphans/%d" % file].attr.damaged
    entry = deleted[b"gone"]
    assert (entry.attr.kind, files.list(1, entry.attr.inum, 0, 10).entries) == (Kind.DIR, [])
    assert "unless it is an orphan" in entry.attr.damaged
    for number, inode in inside.items():
        assert content(files, reader, 1, deleted[b"$Orphans/%d" % inode]) == b"%d\n" % number
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    reader.close()


@pytest.mark.slow
@FORMS
def test_blocks_somebody_else_has_are_lost(tmp_path: Path, version: int, order: str) -> None:
    image = make_deleted(tmp_path, version, order)
    disk = Disk(image, version, order)
    numbers = {number: disk.remove(f"dir/file{number:02}") for number in (24, 61)}
    for number in numbers:
        disk.wipe(b"file%02d" % number)  # whatever their places in the directory are
    disk.take(disk.fragments(numbers[24])[3], b"of another file")
    disk.take(disk.fragments(numbers[61])[-1], b"")  # of its indirect block
    disk.save()
    reader = FileReader(image)
    files = open_files("ufs", reader)
    deleted = walk(files, 1)
    for number in (24, 61):
        with pytest.raises(OSError, match="lost"):
            content(files, reader, 1, deleted[b"$Orphans/%d" % numbers[number]])
    layout = files.layout(1, deleted[b"$Orphans/%d" % numbers[24]].attr.inum, 0)[-1]
    rows = rows_of(layout)
    assert [(at, length) for at, length, target in rows if target < 0] == [(3 * FRAGMENT, FRAGMENT)]
    for at, length, target in rows:
        if target >= 0:
            assert reader.read(target, length) == data(24)[at : at + length]
    rows = rows_of(files.layout(1, deleted[b"$Orphans/%d" % numbers[61]].attr.inum, 0)[-1])
    assert [(at, target < 0) for at, _, target in rows][-1] == (12 * BLOCK, True)
    reader.close()


@pytest.mark.slow
@FORMS
def test_freed_inodes_without_names_are_orphans(tmp_path: Path, version: int, order: str) -> None:
    need("ils")
    image = make(tmp_path, version, order)
    disk = Disk(image, version, order)
    freed = {number: disk.remove(f"dir/file{number:02}") for number in (4, 10, 60)}
    still = {number: disk.remove(f"dir/file{number:02}", "open") for number in (12,)}
    disk.remove("dir/file13", "cleared")
    for number in (4, 10, 12, 13, 60):
        disk.wipe(b"file%02d" % number)
    disk.save()
    reader = FileReader(image)
    files = open_files("ufs", reader)
    deleted = walk(files, 1)
    orphans = {path for path in deleted if path.startswith(b"$Orphans/")}
    assert orphans == {b"$Orphans/%d" % inode for inode in (freed | still).values()}
    for number, inode in (freed | still).items():
        assert content(files, reader, 1, deleted[b"$Orphans/%d" % inode]) == data(number)
    theirs = {line.split("|")[0] for line in run("ils", "-aL", for_tsk(image)).splitlines()[3:]}
    assert theirs == {str(inode) for inode in still.values()}
    theirs = {line.split("|")[0] for line in run("ils", "-p", for_tsk(image)).splitlines()[3:]}
    assert {str(inode) for inode in freed.values()} <= theirs
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    again = open_files("ufs", reader)
    for path in orphans:
        assert again.stat(1, deleted[path].attr.inum, 0) == deleted[path].attr
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_damage_stays_inside_the_contract(tmp_path: Path, version: int) -> None:
    check_hostile("ufs", make_deleted(tmp_path, version, "le"), tmp_path, seeds=200)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["le", "be"])
def test_entries_without_types_have_the_same_names(tmp_path: Path, order: str) -> None:
    """Solaris and 4.3BSD: the length of a name has sixteen bits."""
    image, found = make(tmp_path, 1, order), []
    untouched = image.read_bytes()
    for typed in (True, False):
        image.write_bytes(untouched)
        disk = Disk(image, 1, order)
        if not typed:
            disk.untype()
        delete_in(disk)
        disk.save()
        reader = FileReader(image)
        files = open_files("ufs", reader)
        found.append([set(walk(files, tree)) for tree in (0, 1)])
        reader.close()
    assert found[0] == found[1]
    assert b"dir/file03" in found[0][1]
