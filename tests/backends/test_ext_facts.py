"""Flags and projects of ext, as debugfs and the kernel tell them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from imgfs.testing.fakes import FileReader
from imgfs.testing.files import open_files, walk
from tests.backends.kernel import attached
from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
LETTERS = {  # of lsattr(1), whose manual page has the words
    "s": "secure-deletion", "u": "undelete", "c": "compress", "S": "sync", "i": "immutable", "a": "append",
    "d": "nodump", "A": "noatime", "E": "encrypted", "j": "journal-data", "t": "notail", "D": "dirsync",
    "T": "topdir", "V": "verity", "C": "nocow", "x": "dax", "P": "project-inherit", "F": "casefold",
}  # fmt: skip
BITS = {
    1: "s", 2: "u", 4: "c", 8: "S", 0x10: "i", 0x20: "a", 0x40: "d", 0x80: "A", 0x800: "E", 0x4000: "j",
    0x8000: "t", 0x10000: "D", 0x20000: "T", 0x100000: "V", 0x800000: "C", 0x2000000: "x", 0x20000000: "P",
    0x40000000: "F",
}  # fmt: skip


def make(folder: Path) -> Path:
    need("mke2fs", "debugfs")
    tree, image = folder / "tree", folder / "image"
    tree.mkdir()
    (tree / "dir").mkdir()
    for name in ["plain", "odd", *(f"bit {bit:x}" for bit in BITS)]:
        (tree / name).write_bytes(b"content\n")
    options = "project,quota,encrypt,verity,casefold"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-I", "256", "-O", options, "-d", tree, image, "8m")
    for bit in BITS:
        debug(image, f'set_inode_field "/bit {bit:x}" flags {0x80000 | bit:#x}')
        debug(image, f'set_inode_field "/bit {bit:x}" projid {bit}')
    debug(image, "set_inode_field /dir flags 0x20080800")
    debug(image, "set_inode_field /odd flags 0x80080000")
    return image


def debug(image: Path, command: str) -> str:
    return run("debugfs", "-w", "-R", command, image)


def test_flags_and_projects_are_those_of_debugfs(tmp_path: Path) -> None:
    image = make(tmp_path)
    reader = FileReader(image)
    files = open_files("ext", reader)
    told = {path: files.xattrs(0, entry.attr.inum) for path, entry in walk(files).items()}
    for path, found in told.items():
        stat = debug(image, f'stat "/{path.decode()}"')
        flags = int(re.search(r"Flags: (0x[0-9a-f]+)", stat)[1], 16)  # type: ignore[index]
        project = int((re.search(r"Project: +(\d+)", stat) or [0, 0])[1])
        words = {LETTERS[letter] for bit, letter in BITS.items() if flags & bit}
        words |= {"0x80000000"} if flags & 1 << 31 else set()
        assert set(found.get(b"user.imgfs.ext.flags", b"").decode().split()) == words, path
        assert int(found.get(b"user.imgfs.ext.project", b"0")) == project, path
    assert set(told[b"plain"]) == set()
    assert told[b"dir"] == {b"user.imgfs.ext.flags": b"encrypted project-inherit"}
    assert told[b"bit 100000"][b"user.imgfs.ext.flags"] == b"verity"
    reader.close()


@pytest.mark.root
def test_what_chattr_wrote_is_shown(tmp_path: Path) -> None:
    need("mke2fs", "chattr", "lsattr")
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", image, "16m")
    letters = "sucSiadADT"  # j needs a right that containers lack, projects a kernel with quotas
    truth: dict[bytes, set[str]] = {}
    with attached("ext4", image, tmp_path / "mnt") as where:
        for letter in letters:
            path = where / letter
            path.mkdir() if letter in "DT" else path.touch()
            run("chattr", f"+{letter}", path)
        for line in run("lsattr", where).splitlines():
            flags, name = line.split(None, 1)
            words = {LETTERS[letter] for letter in flags if letter in LETTERS}
            truth[os.fsencode(name.rpartition("/")[2])] = words
    assert len(truth) == len(letters) + 1
    reader = FileReader(image)
    files = open_files("ext", reader)
    for path, entry in walk(files).items():
        found = files.xattrs(0, entry.attr.inum)
        assert set(found.get(b"user.imgfs.ext.flags", b"").decode().split()) == truth[path], path
    reader.close()
