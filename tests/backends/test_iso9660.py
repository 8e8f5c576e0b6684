from __future__ import annotations

import hashlib
import os
import re
import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.iso9660.attributes import attributes_of
from imgfs.backends.iso9660.records import Record, long_time, rock_ridge, short_time
from imgfs.errors import Malformed, NotFound, NotMine
from imgfs.model import Kind, Linear, Packed
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends import isoimages
from tests.backends.generated import ACL, CAPABILITY
from tests.backends.tskimages import many, need, noise, plant, run
from tests.guest import trees

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path, *options: str) -> tuple[Path, dict[bytes, bytes | None]]:
    need("xorriso")
    tree, image = folder / "tree", folder / "disc.iso"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    (tree / "link").symlink_to("dir/sub/../inner.txt")
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "EVIDENCE", *options, "-o", image, tree)
    return image, truth


@pytest.mark.slow
def test_rock_ridge_shows_names_modes_and_links(tmp_path: Path) -> None:
    image, truth = make(tmp_path, "-R", "-J")
    tree = check_files("iso9660", image, truth)
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    assert (files.info.type, files.info.label, files.info.version) == ("iso9660", "EVIDENCE", "rock ridge")
    assert tree[b"link"].attr.kind == Kind.LNK
    assert files.link(0, tree[b"link"].attr.inum) == b"dir/sub/../inner.txt"
    there = tmp_path / "tree" / "small.txt"
    assert (tree[b"small.txt"].attr.m_ns or 0) // 10**9 == int(there.stat().st_mtime)
    assert tree[b"small.txt"].attr.mode == there.stat().st_mode & 0o7777
    reader.close()


@pytest.mark.slow
def test_joliet_shows_long_names(tmp_path: Path) -> None:
    image, truth = make(tmp_path, "-J", "--norock")
    check_files("iso9660", image, truth)


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("iso9660", make(tmp_path, "-R")[0], tmp_path, seeds=200)


def test_other_bytes_are_not_iso() -> None:
    with pytest.raises(NotMine):
        open_files("iso9660", MemoryReader(bytes(1 << 16)))


def linked(tree: Path) -> None:
    """Write files of several names, and some that only look alike."""
    (tree / "inner").mkdir(parents=True)
    for name, data in (("a", b"hello\n"), ("empty", b""), ("copy", b"hello\n"), ("lonely", b"")):
        (tree / name).write_bytes(data)
        os.utime(tree / name, (10**9, 10**9))
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    for name, other in (
        ("b", "a"),
        ("inner/c", "a"),
        ("void", "empty"),
        ("inner/soft", "link"),
        ("tube", "pipe"),
    ):
        os.link(tree / other, tree / name, follow_symlinks=False)


def families(numbers: dict[bytes, int]) -> set[frozenset[bytes]]:
    """Return which names share a number."""
    found: dict[int, set[bytes]] = {}
    for path, number in numbers.items():
        found.setdefault(number, set()).add(path)
    return {frozenset(paths) for paths in found.values()}


def number_of(top: Path) -> dict[bytes, int]:
    paths = {path: os.lstat(path) for path in top.rglob("*")}
    return {os.fsencode(path.relative_to(top)): told.st_ino for path, told in paths.items()}


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["xorriso", "genisoimage", "genisoimage -no-cache-inodes"])
def test_names_of_one_file_share_a_number(tmp_path: Path, tool: str) -> None:
    need("xorriso", "genisoimage")
    tree, image, out = tmp_path / "tree", tmp_path / "disc.iso", tmp_path / "out"
    linked(tree)
    if tool == "xorriso":
        run("xorriso", "-as", "mkisofs", "-quiet", "--hardlinks", "-R", "-J", "-o", image, tree)
        run("xorriso", "-osirrox", "on", "-hardlinks", "on", "-indev", image, "-extract", "/", out)
        truth = families(number_of(out))
        assert truth == families(number_of(tree))
    else:  # it writes no serial numbers: only extents say it, or nothing does
        run(*tool.split(), "-quiet", "-R", "-J", "-o", image, tree)
        names = families(number_of(tree))
        kept = {frozenset({b"a", b"b", b"inner/c"})} if tool == "genisoimage" else set()
        truth = {frozenset({path}) for family in names - kept for path in family} | kept
    reader = FileReader(image)
    files, again = open_files("iso9660", reader), open_files("iso9660", reader)
    found = walk(files)
    assert families({path: entry.attr.inum for path, entry in found.items()}) == truth
    assert found[b"a"].attr.nlink == 3
    for path, entry in found.items():  # of a worker that has listed nothing
        assert again.stat(0, entry.attr.inum, 0) == entry.attr, path
        assert again.layout(0, entry.attr.inum, 0) == files.layout(0, entry.attr.inum, 0)
        serial = again.xattrs(0, entry.attr.inum)
        assert serial.pop(b"isofs.di", b"") or entry.attr.nlink < 2 or tool != "xorriso"  # where it was
        assert list(serial) == ([b"user.imgfs.inode"] if tool == "xorriso" else [])
    joliet = {path: entry.attr.inum for path, entry in walk(files, 1).items()}
    assert len(families(joliet)) == len(joliet)  # it knows no links
    with pytest.raises(NotFound):
        again.stat(
            0, found[b"inner/c"].attr.inum ^ 1 if tool != "genisoimage -no-cache-inodes" else 1 << 62, 0
        )
    reader.close()


@pytest.mark.slow
def test_records_of_one_serial_number_that_contradict_each_other_are_two_files(tmp_path: Path) -> None:
    need("xorriso")
    tree, image = tmp_path / "tree", tmp_path / "disc.iso"
    linked(tree)
    run("xorriso", "-as", "mkisofs", "-quiet", "--hardlinks", "-R", "-o", image, tree)
    reader = FileReader(image)
    data = bytearray(reader.read(0, reader.size))
    entry = walk(open_files("iso9660", reader))[b"b"]
    reader.close()
    place = data.index(b"NM\x06\x01\x00b")  # what stands before it in the record
    start = data.rindex(b"PX\x2c\x01", 0, place)
    data[start + 4] ^= 0o20  # the permissions
    changed = MemoryReader(bytes(data))
    files = open_files("iso9660", changed)
    found = walk(files)
    assert found[b"a"].attr.inum == found[b"inner/c"].attr.inum == entry.attr.inum
    assert found[b"b"].attr.inum != entry.attr.inum
    for path in (b"a", b"b"):
        assert open_files("iso9660", changed).stat(0, found[path].attr.inum, 0) == found[path].attr


def xattrs(path: Path) -> dict[bytes, bytes]:
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", ["on", "any"])  # ACLs in a form of their own, or as any attribute
def test_attributes_and_acls_are_shown(tmp_path: Path, what: str) -> None:
    need("xorriso", "bsdtar")
    tree, image, out = tmp_path / "tree", tmp_path / "disc.iso", tmp_path / "out"
    (tree / "folder").mkdir(parents=True)
    for count in (0, 1, 30):
        (tree / f"file{count}").write_bytes(b"content")
        for number in range(count):
            os.setxattr(tree / f"file{count}", f"user.number {number}", b"%d" % number * (number % 4))
    for size in (0, 254, 255, 256, 3000):
        (tree / f"long{size}").write_bytes(b"")
        os.setxattr(tree / f"long{size}", "user.long", noise(size))
    os.setxattr(tree / "file0", "system.posix_acl_access", ACL)
    os.setxattr(tree / "folder", "system.posix_acl_access", ACL)
    os.setxattr(tree / "folder", "system.posix_acl_default", ACL)
    if not os.geteuid():
        os.setxattr(tree / "file1", "security.capability", CAPABILITY)
        os.setxattr(tree / "file1", "trusted.own", b"own")
    tree.chmod(0o710)
    keep = ("-acl", "on", "-xattr", what)
    run("xorriso", *keep, "-outdev", image, "-map", tree, "/")
    run("xorriso", *keep, "-osirrox", "on", "-indev", image, "-extract", "/", out)
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    found = walk(files)
    assert len(found) == 9
    for path, entry in found.items():
        shown = files.xattrs(0, entry.attr.inum)
        shown.pop(b"user.imgfs.inode", None)
        extracted = xattrs(out / os.fsdecode(path))
        for key in shown.keys() | extracted.keys():
            if path == b"folder" and key.endswith(b"_access"):  # its mask is lost when it sets the mode
                assert shown[key] == os.getxattr(tree / "folder", key)
                continue
            assert shown.get(key, b"") == extracted.get(key, b""), (path, key)  # it may drop empty ones
        if what == "any" or os.geteuid():
            assert shown == xattrs(tree / os.fsdecode(path)), path
    root = files.info.trees[0].root
    listed = run("bsdtar", "-tvf", image).splitlines()
    assert next(line for line in listed if line.endswith(" .")).startswith("drwx--x---")
    attr = files.stat(0, root, 0)
    assert (attr.mode, attr.uid, attr.gid) == (0o710, os.geteuid(), os.getegid())
    assert (attr.m_ns or 0) // 10**9 == int(tree.stat().st_mtime)
    reader.close()


def test_damaged_attributes_are_said() -> None:
    good = b"\0\4\3key\0\5value"
    assert attributes_of(good) == {b"user.key": b"value"}
    assert attributes_of(b"\0\6\1\3name\0\0\0\7foreign\0\1x") == {b"\3name": b"", b"foreign": b"x"}
    assert attributes_of(b"\1\2\3k\0\2ey\1\1v\0\4alue") == {b"user.key": b"value"}
    assert attributes_of(b"\0\6\3imgfs\0\0") == {b"user.imgfs": b""}
    assert attributes_of(b"\0\x0b\3imgfs.inum\0\0") == {b"iso9660.user.imgfs.inum": b""}
    for bad in (good[:-1], good[:-7], good + b"\1\1x", b"\0\0\0\2\x18\5", b"\0\x03\3a\0\0\0"):
        found = attributes_of(bad)
        assert b"user.imgfs.xattrs_damaged" in found, bad
    # of libburnia's examples: access and default, a number of two bytes
    access, default = attributes_of(b"\0\0\0\x0b\x17\x35\x65\x81\x17\x35\x57\x65\xaf\1\x7b").values()
    assert [struct.unpack_from("<HHI", access, at) for at in range(4, len(access), 8)] == [
        (tag, 7 if tag == 1 else 5, 0xFFFFFFFF) for tag in (1, 4, 32)
    ]
    assert struct.unpack_from("<HHI", default, 12) == (2, 7, 123)
    mixed = attributes_of(b"\0\0\0\x0b\x16\xae\1\x7b\x34\xce\2\xff\xfe\x54\x64")[b"system.posix_acl_access"]
    assert struct.unpack_from("<HHI", mixed, 4 + 3 * 8) == (8, 6, 65534)


Recorded = tuple[dict[str, "Path"], dict[str, dict[bytes, trees.Told]]]
_VERSION = re.compile(rb"\.?;1$")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return trees.load("iso", tmp_path_factory.mktemp("iso"))


@pytest.mark.parametrize("disk", ["moved", "deep", "zisofs", "zisofs128"])
def test_every_tree_is_what_the_kernel_reads(recorded: Recorded, disk: str) -> None:
    disks, told = recorded
    reader = FileReader(disks[disk])
    files = open_files("iso9660", reader)
    shown = {tree.name: index for index, tree in enumerate(files.info.trees)}
    coded = disk.startswith("zisofs")
    assert list(shown) == (["root", "iso9660"] if coded else ["root", "joliet", "iso9660"])
    for name, index in shown.items():
        if f"{disk}-{name}" not in told:
            continue
        truth = told[f"{disk}-{name}"]
        if name == "iso9660":  # the kernel was asked for names as they are stored
            truth = {_VERSION.sub(b"", path): row for path, row in truth.items()}
        tree = walk(files, index)
        assert set(tree) == set(truth)
        for path, row in truth.items():
            entry = tree[path]
            attr = entry.attr
            assert (attr.kind, attr.m_ns, attr.damaged) == (row.kind, row.m_ns, ""), path
            assert files.stat(index, attr.inum, 0) == attr
            if name == "root":
                assert (attr.mode, attr.uid, attr.gid) == (row.mode, row.uid, row.gid), path
                assert (attr.nlink, attr.rdev) == (row.nlink, row.rdev), path
                assert (attr.a_ns, attr.c_ns) == (row.a_ns, row.c_ns), path
            if attr.kind == Kind.REG:
                assert attr.size == row.size
                for layouts in {None, entry.layout}:
                    data = content(files, reader, index, entry, layouts)
                    assert hashlib.sha256(data).hexdigest() == row.body, path
            elif attr.kind == Kind.LNK:
                assert files.link(index, attr.inum) == (row.body or "").encode("latin-1")
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize(("block", "version"), [("32k", "off"), ("64k", "off"), ("32k", "on"), ("1m", "on")])
def test_compressed_files_are_decoded(tmp_path: Path, block: str, version: str) -> None:
    need("xorriso")
    image = isoimages.zisofs(tmp_path, block=block, version=version)
    check_files("iso9660", image, {name.encode(): data for name, data in isoimages.CODED.items()})
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    entry = walk(files)[b"gap.bin"]
    packed = files.layout(0, entry.attr.inum, 0)[-1]
    assert isinstance(packed, Packed)
    assert packed.size == entry.attr.size == len(isoimages.CODED["gap.bin"])
    stored = walk(files, 1)[b"GAP.BIN"].attr
    assert stored.size < entry.attr.size
    assert stored.allocated == entry.attr.allocated
    reader.close()


@pytest.mark.slow
def test_damage_to_compressed_files_is_no_content(tmp_path: Path) -> None:
    need("xorriso")
    image = isoimages.zisofs(tmp_path)
    check_hostile("iso9660", image, tmp_path, seeds=100)
    data = bytearray(image.read_bytes())
    reader = MemoryReader(bytes(data))
    files = open_files("iso9660", reader)
    entry = walk(files)[b"lines.txt"]
    packed = files.layout(0, entry.attr.inum, 0)[-1]
    assert isinstance(packed, Packed)
    (first,) = struct.unpack_from("<Q", packed.table)
    data[first + 100] ^= 4
    reader = MemoryReader(bytes(data))
    with pytest.raises(OSError, match="unit"):
        content(open_files("iso9660", reader), reader, 0, entry)
    head = first - first % 2048
    data[head + 8] ^= 1  # the size in the header
    reader = MemoryReader(bytes(data))
    with pytest.raises(Malformed, match="contradicts"):
        open_files("iso9660", reader).layout(0, entry.attr.inum, 0)


@pytest.mark.slow
def test_other_programs_read_the_same(tmp_path: Path) -> None:
    need("xorriso", "genisoimage", "isoinfo", "bsdtar", "7z")
    image = isoimages.disc(tmp_path)
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    by_tree = [walk(files, index) for index in range(3)]
    rock, joliet, plain = map(set, by_tree)
    listed = run("env", "LC_ALL=C.UTF-8", "bsdtar", "-tf", image).splitlines()
    assert {name.rstrip("/").encode() for name in listed} - {b"."} == rock - {b"rr_moved"}
    found = run("isoinfo", "-f", "-R", "-i", image).encode().splitlines()
    moved = {name for name in (line.lstrip(b"/") for line in found) if not name.startswith(b"rr_moved")}
    assert {name for name in rock if name.count(b"/") < 7} - {b"rr_moved"} <= moved
    found = run("isoinfo", "-f", "-i", image).encode().splitlines()
    assert {_VERSION.sub(b"", line.lstrip(b"/")) for line in found} - {b""} == plain
    listed = [
        line for line in run("7z", "l", "-slt", "-tiso", image).splitlines() if line.startswith("Path = ")
    ]
    assert {line[7:].encode() for line in listed[1:]} == joliet
    reader.close()


@pytest.mark.slow
def test_boot_images_are_said(tmp_path: Path) -> None:
    need("genisoimage")
    tree, image = tmp_path / "tree", tmp_path / "disc.iso"
    tree.mkdir()
    (tree / "boot.bin").write_bytes(noise(4096))
    (tree / "efi.img").write_bytes(noise(8192))
    run(
        "genisoimage", "-quiet", "-R", "-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4",
        "-c", "boot.cat", "-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot", "-o", image, tree,
    )  # fmt: skip
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    wanted = []
    for name, platform, sectors in ((b"boot.bin", "x86", 4), (b"efi.img", "EFI", 16)):
        layout = files.layout(0, walk(files)[name].attr.inum, 0)[-1]
        assert isinstance(layout, Linear)
        (at,) = struct.unpack("=q", layout.target)
        place = f"at byte {at}, no emulation, loads {sectors} sectors"
        wanted.append(f"El Torito: {platform} boot image {place}")
    assert files.info.notes == tuple(wanted)
    reader.close()


def chained(areas: int) -> bytes:
    """Return continuation areas full of pieces of a name, each leading to the next."""
    image = bytearray()
    for number in range(1, areas + 1):
        piece = b"NM" + bytes([250, 1, 1]) + bytes([64 + number % 26]) * 245
        area = piece * 261 + continued(number)
        image += area.ljust(1 << 16, b"\0")
    return bytes(image)


def continued(number: int) -> bytes:
    return b"CE\x1c\x01" + struct.pack("<I4xI4xI4x", number << 5, 0, 1 << 16)


def test_a_name_in_many_pieces_is_cut_where_no_system_has_it() -> None:
    record = Record(0, 0, 0, 0, 0, 0, None, b"X", b"NM\x06\x01\x01x" + continued(0))
    found = rock_ridge(MemoryReader(chained(300)), record, 0, 2048)
    assert found.name == (b"x" + b"A" * 245 * 261)[:4096]
    assert "continuations" in found.damaged
    short = rock_ridge(MemoryReader(chained(1)[: 1 << 15]), record, 0, 2048)
    assert short.name is not None
    assert len(short.name) <= 4096
    assert short.damaged


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (bytes([70, 1, 1, 0, 0, 0, 0]), 0),
        (bytes([70, 1, 1, 0, 0, 0, 4]), -3600),
        (bytes([196, 2, 29, 23, 59, 59, 252]), 3981401999),
        (bytes([124, 2, 30, 0, 0, 0, 0]), None),
        (bytes([200, 2, 29, 0, 0, 0, 0]), None),
        (bytes([124, 2, 28, 24, 0, 0, 0]), None),
        (bytes([124, 2, 28, 0, 60, 0, 0]), None),
        (bytes([124, 2, 28, 0, 0, 60, 0]), None),
        (bytes([255, 12, 31, 23, 59, 59, 0]), 5869583999),
        (b"1969123123595950\0", -0.5),
        (b"2500010100000000\0", 16725225600),
        (b"9999123123595999\0", None),
        (b"0000010100000000\0", None),
    ],
)
def test_moments_are_those_of_the_calendar(stamp: bytes, seconds: float | None) -> None:
    found = (short_time if len(stamp) == 7 else long_time)(stamp)
    assert found == (None if seconds is None else int(seconds * 10) * 10**8)
