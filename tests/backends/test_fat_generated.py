"""FAT and exFAT against others: a guest's kernel on recorded disks, 7-Zip on a tree of 10,000 files."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.compared import Rules, compare
from tests.backends.fatcompose import Leaf, compose, odd
from tests.backends.kernel import attached, grown, shown
from tests.backends.romimages import packed
from tests.backends.tskimages import need, run
from tests.guest import shown as guest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgfs.model import Entry
    from tests.backends.seen import Seen

pytestmark = pytest.mark.slow
WORDS = {1: b"read-only", 2: b"hidden", 4: b"system", 32: b"archive"}
# the kernel counts folders in folders, and shows the time of the last change once more
KERNEL = Rules(numbers=False, links=False, modes=False, owners=False, times="mab", more=True)
OPTIONS = ("utf8", "tz=UTC", "shortname=mixed")
LETTERS = {1: "R", 2: "H", 4: "S", 16: "D", 32: "A"}  # as 7-Zip has them
_HALF = re.compile(r"[\ud800-\udfff]")


def words(number: int) -> bytes:
    return b" ".join(word for bit, word in WORDS.items() if number & bit)


def without_root(truth: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """The root has no entry, hence no times."""
    return {path: row for path, row in truth.items() if path}


def as_the_kernel_shows_it(image: Path, truth: Mapping[bytes, Seen], backend: str = "fat") -> None:
    """Compare every attribute; those of FAT come from the recipe, which asks for them where it can."""
    reader = FileReader(image)
    files = open_files(backend, reader)
    assert files.info.notes == ()
    compare(files, reader, truth, rules=replace(KERNEL, hidden=(b"attributes",)))
    for path, entry in walk(files).items():
        if path in truth and b"attributes" in truth[path].xattrs:
            kept = files.xattrs(0, entry.attr.inum).get(b"user.imgfs.fat.attributes", b"")
            assert kept == words(int(truth[path].xattrs[b"attributes"])), path
    reader.close()


@pytest.mark.parametrize("bits", [12, 16])
def test_what_the_kernel_wrote_is_shown_as_it_shows_it(tmp_path: Path, bits: int) -> None:
    image, told = guest.load("fat", f"fat{bits}", tmp_path)
    truth = without_root(told[f"fat{bits}"])
    assert len(truth) > 80
    reader = FileReader(image)
    files = open_files("fat", reader)
    info = files.info
    assert (info.type, info.label, info.uuid) == (f"fat{bits}", f"LARGE {bits}", "1234-ABCD")
    assert info.notes == ()
    reader.close()
    as_the_kernel_shows_it(image, truth)


def test_what_the_kernel_wrote_on_exfat_is_shown_as_it_shows_it(tmp_path: Path) -> None:
    image, told = guest.load("fat", "exfat", tmp_path)
    truth = without_root(told["exfat"])
    assert len(truth) > 80
    reader = FileReader(image)
    info = open_files("exfat", reader).info
    reader.close()
    assert (info.type, info.label) == ("exfat", "SMALL")
    as_the_kernel_shows_it(image, truth, "exfat")


@pytest.mark.root
@pytest.mark.parametrize("bits", [16, 32])
def test_what_this_kernel_wrote_is_shown_as_it_shows_it(tmp_path: Path, bits: int) -> None:
    need("mkfs.vfat")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    run("mkfs.vfat", "-F", bits, image)
    with attached("vfat", image, tmp_path / "mnt", *OPTIONS) as where:
        grown(where, "fat")
    truth = without_root(shown("vfat", image, tmp_path / "again", *OPTIONS))
    as_the_kernel_shows_it(image, truth)


@pytest.mark.parametrize(("bits", "sectors"), [(32, 1), (16, 8)])
def test_a_composed_tree_of_10_000_files_is_shown_as_7z_shows_it(
    tmp_path: Path, bits: int, sectors: int
) -> None:
    need("mkfs.vfat", "fsck.vfat", "7z")
    folder, image, out = tmp_path / "tree", tmp_path / "image", tmp_path / "out"
    tree = dict(leaves(folder, packed(folder, "fat-packed", 10_000))) | dict(odd())
    compose(image, bits, tree, mebibytes=160, sectors=sectors)
    run("fsck.vfat", "-n", image)
    reader = FileReader(image)
    files = open_files("fat", reader)
    assert (files.info.label, files.info.uuid, files.info.notes) == ("COMPOSED", "600D-F00D", ())
    found = {path: entry for path, entry in walk(files).items() if not path.startswith(b"$")}
    assert set(found) == set(tree)
    assert len(found) > 10_000
    for path, leaf in tree.items():
        attr = found[path].attr
        assert attr.kind == (Kind.DIR if leaf.data is None else Kind.REG), path
        assert attr.damaged == "", path
        assert (attr.m_ns, attr.b_ns) == (leaf.m_ns, leaf.b_ns), path
        day = None if leaf.a_ns is None else leaf.a_ns // (86_400 * 10**9) * 86_400 * 10**9
        assert attr.a_ns == day, path
        kept = files.xattrs(0, attr.inum).get(b"user.imgfs.fat.attributes", b"")
        assert kept == words(leaf.attributes), path
        if leaf.data is not None:
            assert attr.size == len(leaf.data), path
            assert content(files, reader, 0, found[path]) == leaf.data, path
    as_7z_shows_it(image, out, found, tree)
    reader.close()


def leaves(folder: Path, truth: Mapping[bytes, Seen]) -> list[tuple[bytes, Leaf]]:
    """Return what is in a folder, with times on every even second of its own."""
    top = os.fsencode(folder)
    rows = []
    for number, (path, row) in enumerate(sorted(without_root(truth).items())):
        data = None
        if row.kind == Kind.REG:
            with open(os.path.join(top, path), "rb") as file:
                data = file.read()
        moment = max(row.m_ns, 315_532_800 * 10**9)
        moment -= moment % (2 * 10**9)
        born = moment + number % 200 * 10**7
        rows.append(
            (path, Leaf(data, (0, 32, 33, 7)[number % 4], moment, row.a_ns if number % 3 else None, born))
        )
    return rows


def as_7z_shows_it(image: Path, out: Path, found: Mapping[bytes, Entry], tree: Mapping[bytes, Leaf]) -> None:
    """Compare names, sizes, times and attributes with its listing, and contents with what it extracts."""
    plain = {path for path in found if not _HALF.search(path.decode("utf-8", "surrogatepass"))}
    assert len(found) - len(plain) == 5  # what is no text, it lists otherwise
    listed = run("env", "TZ=UTC", "LC_ALL=C.UTF-8", "7z", "l", "-slt", "-tfat", image)
    rows = {}
    for block in listed.split("\n\n"):
        fields = dict(line.partition(" = ")[::2] for line in block.splitlines())
        if "Folder" in fields:
            rows[fields["Path"].encode()] = fields
    assert plain <= set(rows), sorted(plain - set(rows))[:5]
    assert len(rows) == len(found)
    run("env", "LC_ALL=C.UTF-8", "7z", "x", "-tfat", f"-o{out}", image, "deep", "sizes", "mixed", "wide")
    extracted = 0
    for path in plain:
        attr, row = found[path].attr, rows[path]
        folder = attr.kind == Kind.DIR
        assert (row["Folder"] == "+") == folder, path
        assert row["Size"] == ("" if folder else str(attr.size)), path
        assert (row["Modified"], row["Accessed"]) == (seconds(attr.m_ns), seconds(attr.a_ns)), path
        assert row["Created"] in {hundredths(attr.b_ns), seconds(attr.b_ns)}, path  # as its version has it
        kept = tree[path].attributes | 16 * folder
        assert set(row["Attributes"]) == {letter for bit, letter in LETTERS.items() if kept & bit}, path
        there = os.path.join(os.fsencode(out), path)
        if os.path.isfile(there):
            extracted += 1
            with open(there, "rb") as file:
                assert file.read() == tree[path].data, path
    assert extracted > 8000


def seconds(moment: int | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment // 10**9, UTC):%Y-%m-%d %H:%M:%S}"


def hundredths(moment: int | None) -> str:
    return "" if moment is None else f"{seconds(moment)}.{moment % 10**9 // 10**7:02}"
