from __future__ import annotations

import lzma
import os
import random
import re
import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.ext.blocks import rows_of
from imgfs.backends.ext.inode import EXTENTS, Inode, read_inode
from imgfs.backends.ext.superblock import read_superblock
from imgfs.backends.ext.tables import Tables
from imgfs.errors import EvidenceError, NotSupported
from imgfs.model import HOLE, LOST, Entry, Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.extimages import make
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 1024


class CountingReader(MemoryReader):
    """Counts the bytes that were asked for."""

    asked = 0

    def read(self, start: int, length: int) -> bytes:
        self.asked += length
        return super().read(start, length)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an empty ext4 of blocks of 1 KiB; everything from block 1000 on is free."""
    folder = tmp_path_factory.mktemp("ext")
    image = make(
        folder / "ext.img", "-t", "ext4", "-b", "1024", "-O", "^has_journal,^metadata_csum", size=4 << 20
    )
    return image.read_bytes()


@pytest.fixture
def tables(empty: bytes) -> Tables:
    return tables_of(empty)


def tables_of(data: bytes) -> Tables:
    reader = CountingReader(data)
    return Tables(reader, read_superblock(reader))


def inode_with(tables: Tables, data: bytes, flags: int = 0) -> Inode:
    return read_inode(tables, 2)._replace(data=data.ljust(60, b"\0"), flags=flags, mode=0o100644)


def header(entries: int, depth: int) -> bytes:
    return struct.pack("<HHHHI", 0xF30A, entries, 4, depth, 0)


def leaf(first: int, count: int, start: int) -> bytes:
    return struct.pack("<IHHI", first, count, start >> 32, start & 0xFFFFFFFF)


def index(first: int, child: int) -> bytes:
    return struct.pack("<IIHH", first, child & 0xFFFFFFFF, child >> 32, 0)


def with_blocks(data: bytes, blocks: dict[int, bytes]) -> Tables:
    copy = bytearray(data)
    for number, block in blocks.items():
        copy[number * BLOCK : number * BLOCK + len(block)] = block
    return tables_of(bytes(copy))


def test_unwritten_extents_and_gaps_are_holes(tables: Tables) -> None:
    data = header(3, 0) + leaf(1, 2, 2000) + leaf(3, 0x8000 + 2, 2002) + leaf(7, 1, 2010)
    rows = rows_of(inode_with(tables, data, EXTENTS), tables, 8 * BLOCK - 5)
    assert rows == [
        (0, BLOCK, HOLE),
        (BLOCK, 2 * BLOCK, 2000 * BLOCK),
        (3 * BLOCK, 4 * BLOCK, HOLE),
        (7 * BLOCK, BLOCK - 5, 2010 * BLOCK),
    ]


def test_longest_extent_is_initialised(tables: Tables) -> None:
    rows = rows_of(inode_with(tables, header(1, 0) + leaf(0, 0x8000, 2000), EXTENTS), tables, 10 * BLOCK)
    assert rows == [(0, 10 * BLOCK, 2000 * BLOCK)]


def test_extents_beyond_the_end_are_lost(tables: Tables) -> None:
    inode = inode_with(tables, header(2, 0) + leaf(0, 8, 4090) + leaf(8, 1, 1 << 40), EXTENTS)
    assert rows_of(inode, tables, 9 * BLOCK) == [(0, 6 * BLOCK, 4090 * BLOCK), (6 * BLOCK, 3 * BLOCK, LOST)]


def test_superblock_is_no_content(tables: Tables) -> None:
    assert rows_of(inode_with(tables, header(1, 0) + leaf(0, 2, 1), EXTENTS), tables, 100) == [(0, 100, LOST)]


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 60,
        header(5, 0),
        header(1, 6) + index(0, 2000),
        header(2, 0) + leaf(5, 3, 2000) + leaf(6, 1, 2010),
        header(2, 0) + leaf(5, 1, 2000) + leaf(1, 1, 2010),
        header(1, 0) + leaf(0, 0, 2000),
    ],
    ids=["no header", "too many", "too deep", "overlap", "backwards", "empty"],
)
def test_root_that_contradicts_itself_is_malformed(tables: Tables, data: bytes) -> None:
    with pytest.raises(EvidenceError):
        rows_of(inode_with(tables, data, EXTENTS), tables, 100 * BLOCK)


def test_damaged_node_loses_only_its_range(empty: bytes) -> None:
    good = header(1, 0) + leaf(10, 5, 3000)
    tables = with_blocks(empty, {2000: b"nothing", 2001: good})
    root = header(3, 1) + index(0, 2000) + index(10, 2001) + index(20, 1 << 40)
    assert rows_of(inode_with(tables, root, EXTENTS), tables, 30 * BLOCK) == [
        (0, 10 * BLOCK, LOST),
        (10 * BLOCK, 5 * BLOCK, 3000 * BLOCK),
        (15 * BLOCK, 5 * BLOCK, HOLE),
        (20 * BLOCK, 10 * BLOCK, LOST),
    ]


def test_tree_that_contains_itself_ends(empty: bytes) -> None:
    node = header(2, 1) + index(0, 2000) + index(5, 2000)
    tables = with_blocks(empty, {2000: node})
    root = header(2, 2) + index(0, 2000) + index(50, 2000)
    rows = rows_of(inode_with(tables, root, EXTENTS), tables, 100 * BLOCK)
    assert rows == [(0, 100 * BLOCK, LOST)]
    pointers = struct.pack("<256I", *[2000] * 256)
    tables = with_blocks(empty, {2000: pointers})
    mapped = inode_with(tables, struct.pack("<15I", *[0] * 14, 2000))
    rows = rows_of(mapped, tables, 1 << 33)
    assert {target for _, _, target in rows} == {HOLE, LOST}


def test_work_follows_what_is_allocated(empty: bytes) -> None:
    single, double = struct.pack("<I", 3000), struct.pack("<256I", *[0] * 255, 2000)
    tables = with_blocks(empty, {2000: single, 2001: double, 2002: struct.pack("<256I", *[0] * 255, 2001)})
    inode = inode_with(tables, struct.pack("<15I", *[0] * 14, 2002))
    before = tables._reader.asked  # type: ignore[attr-defined]
    rows = rows_of(inode, tables, 1 << 40)
    assert tables._reader.asked - before == 3 * BLOCK  # type: ignore[attr-defined]
    at = (12 + 256 + 256**2 + 255 * 256**2 + 255 * 256) * BLOCK
    assert rows == [(0, at, HOLE), (at, BLOCK, 3000 * BLOCK), (at + BLOCK, (1 << 40) - at - BLOCK, HOLE)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sp70m_ext2_1k", "sp5g_ext3"])
def test_sparse_files_cost_what_they_hold(corpus: Path, name: str) -> None:
    data = lzma.decompress((corpus / "hostile" / f"{name}.img.xz").read_bytes())
    reader = CountingReader(data)
    files = open_files("ext", reader)
    for tree in (0, 1):
        for entry in walk(files, tree).values():
            files.layout(tree, entry.attr.inum, 0)
    assert reader.asked < 8 << 20
    assert max(entry.attr.size for entry in walk(files).values()) > 70_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["names_ext4", "ext4_5", "ext4_790"])
def test_hostile_images_are_walked(corpus: Path, name: str) -> None:
    data = lzma.decompress((corpus / "hostile" / f"{name}.img.xz").read_bytes())
    reader = MemoryReader(data)
    files = open_files("ext", reader)
    for tree in (0, 1):
        entries = walk(files, tree)
        assert len(entries) > (100 if tree == 0 else 3)
        for entry in entries.values():
            try:
                content(files, reader, tree, entry)
                files.xattrs(tree, entry.attr.inum)
            except OSError:
                continue
            except EvidenceError:
                continue


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[object]:
    """Return a function that edits a file system with debugfs and opens it."""
    need("mke2fs", "debugfs")
    opened: list[FileReader] = []

    def edit(*commands: str, options: tuple[str, ...] = ()) -> tuple[FileReader, object, dict[bytes, Entry]]:
        tree = tmp_path / "tree"
        (tree / "dir").mkdir(parents=True)
        (tree / "dir" / "inner").write_bytes(noise(5000))
        (tree / "file").write_bytes(noise(3000))
        (tree / "link").symlink_to("file")
        image, script = tmp_path / "ext.img", tmp_path / "script"
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", *options, "-d", tree, image, "4m")
        script.write_text("\n".join(commands))
        run("debugfs", "-w", "-f", script, image)
        opened.append(FileReader(image))
        files = open_files("ext", opened[-1])
        return opened[-1], files, walk(files)

    yield edit
    for reader in opened:
        reader.close()


@pytest.mark.slow
def test_encrypted_files_are_named_and_not_decoded(edited) -> None:
    _, files, tree = edited("sif file flags 0x80800", "sif dir flags 0x80800", "sif link flags 0x800")
    for name in (b"file", b"dir", b"link"):
        assert "fscrypt" in tree[name].attr.damaged
    assert b"dir/inner" in tree
    with pytest.raises(NotSupported):
        files.layout(0, tree[b"file"].attr.inum, 0)
    with pytest.raises(NotSupported):
        files.link(0, tree[b"link"].attr.inum)


@pytest.mark.slow
def test_entry_of_a_damaged_inode_is_listed(edited) -> None:
    reader, _, tree = edited("sif file mode 0", "sif dir/inner size 0x7fffffffffffffff", "sif link size 5000")
    assert tree[b"file"].attr.damaged
    assert tree[b"file"].attr.kind == Kind.REG
    assert tree[b"dir/inner"].attr.size == (1 << 63) - 1
    files = open_files("ext", reader)
    with pytest.raises(EvidenceError):
        files.link(0, tree[b"link"].attr.inum)


@pytest.mark.slow
def test_unreplayed_journal_is_said(edited) -> None:
    _, files, _ = edited("feature needs_recovery")
    assert any("unreplayed journal" in note for note in files.info.notes)


@pytest.mark.slow
def test_damaged_attributes_are_said_and_the_rest_is_shown(edited) -> None:
    _, files, tree = edited("ea_set file user.good value", "sif dir file_acl 3")
    assert files.xattrs(0, tree[b"file"].attr.inum)[b"user.good"] == b"value"
    assert list(files.xattrs(0, tree[b"dir"].attr.inum)) == [b"user.imgfs.xattrs_damaged"]


@pytest.mark.slow
def test_birth_is_the_one_debugfs_shows(edited) -> None:
    _, _, tree = edited(
        "sif file crtime @0x65000000", "sif file crtime_extra 0x00000018", options=("-I", "256")
    )
    assert tree[b"file"].attr.b_ns == 0x65000000 * 10**9 + 6


@pytest.mark.slow
def test_volume_that_ends_early_loses_bytes_and_says_so(edited, tmp_path: Path) -> None:
    reader, files, tree = edited()
    layout = files.layout(0, tree[b"dir/inner"].attr.inum, 0)[0]
    end = struct.unpack("=q", layout.target[:8])[0] + 1500
    short = MemoryReader(reader.read(0, end))
    again = open_files("ext", short)
    assert any("the volume has" in note for note in again.info.notes)
    with pytest.raises(OSError, match="lost"):
        content(again, short, 0, tree[b"dir/inner"])


@pytest.mark.slow
def test_times_count_to_2446(edited) -> None:
    _, _, tree = edited(
        "sif file mtime_extra 0x00000003", "sif file atime_extra 0x00000005", options=("-I", "256")
    )
    attr = tree[b"file"].attr
    for ns, epoch, rest in ((attr.m_ns, 3, 0), (attr.a_ns, 1, 1)):
        seconds, fraction = divmod(ns or 0, 10**9)
        assert (seconds >> 32, fraction) == (epoch, rest)
    assert not attr.damaged


@pytest.mark.parametrize("block", [1024, 4096])
@pytest.mark.parametrize(
    ("options", "journal"),
    [((), ""), (("-O", "^64bit"), ""), (("-O", "^metadata_csum"), "-c"), (("-O", "fast_commit"), "")],
)
def test_what_the_journal_holds_is_counted_as_debugfs_finds_it(
    tmp_path: Path, block: int, options: tuple[str, ...], journal: str
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-b", block, *options, image)
    data = tmp_path / "data"
    data.write_bytes(os.urandom(2 * block))
    one = tmp_path / "one"
    one.write_bytes(os.urandom(block))
    words = f"jo {journal}\njw -b 5000,5001 {data}\njc\njo\njw -b 5002 {one}\njw -b 5003 -r 5000 {one}\njc\n"
    (tmp_path / "commands").write_text(words)
    run("debugfs", "-w", "-f", tmp_path / "commands", image)
    found = run("debugfs", "-R", "logdump -S", image)
    commits = found.count("(commit block)")
    assert commits >= 2
    blocks, last = 0, 0
    for kind, at in re.findall(r"type \d \(([a-z ]+)\) at block (\d+)", found):
        if last:
            blocks += int(at) - last - 1
        last = int(at) if kind == "descriptor block" else 0
    notes = open_files("ext", FileReader(image)).info.notes
    assert (
        f"journal: it holds {commits} committed transactions (1 to {commits}) with {blocks} blocks" in notes
    )


def test_a_transaction_that_was_not_committed_is_told_apart(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-b", 4096, image)
    data = tmp_path / "data"
    data.write_bytes(os.urandom(3 * 4096))
    (tmp_path / "commands").write_text(f"jo\njw -b 5000,5001,5002 {data}\njc\n")
    run("debugfs", "-w", "-f", tmp_path / "commands", image)
    stored = bytearray(image.read_bytes())
    commit = stored.index(bytes.fromhex("c03b39980000000200000001"))
    stored[commit : commit + 4096] = bytes(4096)
    image.write_bytes(stored)
    notes = open_files("ext", FileReader(image)).info.notes
    assert (
        "journal: it holds 0 committed transactions with 0 blocks, and 3 of one that was not committed"
        in notes
    )


def broken(image: Path, at: int, mask: int = 0x10) -> None:
    """Turn over one bit."""
    with image.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))


def shown(image: Path, *words: str) -> int:
    """Return the number that ends debugfs's answer."""
    return int(re.findall(r"\d+", run("debugfs", "-R", " ".join(words), image))[-1])


@pytest.mark.parametrize(
    "options", [(), ("-I", "128"), ("-O", "metadata_csum_seed"), ("-O", "^metadata_csum")]
)
def test_metadata_with_a_wrong_checksum_is_said_and_costs_what_depends_on_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """debugfs, which compares them too, says where everything lies."""
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "other").mkdir()
    for name in ("one", "two", "three"):
        (source / "folder" / name).write_bytes(name.encode() * 1000)
    (source / "other" / "file").write_text("here")
    image = tmp_path / "image"
    make(image, "-t", "ext4", "-b", "1024", *options, "-d", str(source), size=16 << 20)
    if "seed" in "".join(options):
        run("tune2fs", "-U", "random", image)  # the seed stays what it was
    summed = options != ("-O", "^metadata_csum")
    data = b"".join(bytes([i % 251]) * 1024 if i % 2 else bytes(1024) for i in range(40))
    (tmp_path / "sparse").write_bytes(data)
    with (tmp_path / "sparse").open("r+b") as file:  # an extent for every other block: a tree of two levels
        for i in range(0, 40, 2):
            file.seek(i * 1024)
            file.write(bytes(1024))
    run("debugfs", "-w", "-R", f"write {tmp_path / 'sparse'} sparse", image)
    good = open_files("ext", FileReader(image))
    before = walk(good)
    assert not any(entry.attr.damaged for entry in before.values())
    assert content(good, FileReader(image), 0, before[b"folder/one"]) == b"one" * 1000
    two, folder = before[b"folder/two"].attr.inum, before[b"folder"].attr.inum
    place = run("debugfs", "-R", f"imap <{two}>", image)
    block, offset = re.search(r"located at block (\d+), offset (0x[0-9a-f]+)", place).groups()
    broken(image, int(block) * 1024 + int(offset, 16) + 16)  # a time
    broken(image, shown(image, "blocks", f"<{folder}>") * 1024 + 900)  # behind its entries
    files = open_files("ext", FileReader(image))
    page = files.list(0, folder, 0, 100)
    found = {entry.name: entry for entry in page.entries}
    assert set(found) == {b"one", b"two", b"three"}
    assert ("checksum" in found[b"two"].attr.damaged) == summed
    assert not found[b"one"].attr.damaged
    assert not page.damaged
    said = files.xattrs(0, folder).get(b"user.imgfs.checksum", b"")
    assert said == (b"differs in the blocks at 0" if summed else b"")
    assert b"user.imgfs.checksum" not in files.xattrs(0, before[b"other"].attr.inum)


def test_the_nodes_of_a_hash_tree_have_checksums_of_their_own(tmp_path: Path) -> None:
    """e2fsck -D builds the tree, and says which node is wrong."""
    folder = tmp_path / "source" / "folder"
    folder.mkdir(parents=True)
    for number in range(6000):  # a tree of two levels with blocks of 1 KiB
        (folder / f"a rather long name, so that the tree grows {number:05}").touch()
    image = tmp_path / "image"
    options = ("-t", "ext4", "-b", "1024", "-N", "7000", "-d", str(tmp_path / "source"))
    make(image, *options, size=32 << 20)
    run("sh", "-c", 'e2fsck -fyD "$0"; test $? -le 1', image)  # 1: it changed something
    inum = int(run("debugfs", "-R", "ls -p /", image).split("/folder/")[0].splitlines()[-1].split("/")[1])
    files = open_files("ext", FileReader(image))
    assert b"user.imgfs.checksum" not in files.xattrs(0, inum)
    levels = run("debugfs", "-R", f"htree <{inum}>", image)
    node = int(re.search(r"Entry #0: Hash 0x0+, block (\d+)", levels).group(1))
    for logical in (0, node):
        broken(image, shown(image, "bmap", f"<{inum}>", str(logical)) * 1024 + 36)
    files = open_files("ext", FileReader(image))
    assert files.xattrs(0, inum)[b"user.imgfs.checksum"] == (
        f"differs in the blocks at 0, {node * 1024}".encode()
    )
    assert sum(path.startswith(b"folder/") for path in walk(files)) == 6000


def test_an_extent_block_with_a_wrong_checksum_costs_what_it_says(tmp_path: Path) -> None:
    image = tmp_path / "image"
    make(image, "-t", "ext4", "-b", "1024", size=16 << 20)
    (tmp_path / "pieces").write_bytes(random.Random(1).randbytes(64 * 1024))
    with (tmp_path / "pieces").open("r+b") as file:
        for at in range(0, 64, 2):
            os.posix_fallocate(file.fileno(), at * 1024, 1024)
    words = [f"write {tmp_path / 'pieces'} pieces", *(f"punch pieces {i} {i}" for i in range(0, 60, 2))]
    (tmp_path / "commands").write_text("\n".join(words) + "\n")
    run("debugfs", "-w", "-f", tmp_path / "commands", image)
    files = open_files("ext", FileReader(image))
    entry = walk(files)[b"pieces"]
    expected = bytearray((tmp_path / "pieces").read_bytes())
    for at in range(0, 60, 2):
        expected[at * 1024 : at * 1024 + 1024] = bytes(1024)
    assert content(files, FileReader(image), 0, entry) == expected
    tree = run("debugfs", "-R", "ex pieces", image)
    node = int(re.search(r"\d/ *1 +1/ +\d+ +\d+ - +\d+ +(\d+)", tree)[1])
    broken(image, node * 1024 + 12 + 6, 1)
    files = open_files("ext", FileReader(image))
    with pytest.raises(OSError, match="lost"):
        content(files, FileReader(image), 0, walk(files)[b"pieces"])
