"""Reparse points: links, special files, and content that is elsewhere, as ntfs-3g writes and shows them."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.ntfs.extended import attributes, posix
from imgfs.backends.ntfs.links import elsewhere, path, targets
from imgfs.backends.ntfs.reparse import name_of
from imgfs.errors import ImgfsError, Malformed, NotSupported
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, content, open_files, walk
from imgfs.worker.checks import check_xattrs
from tests.backends.tskimages import mounted, need, noise, run, sparse_file
from tests.peers import by_ntfs3g, watched

if TYPE_CHECKING:
    from pathlib import Path

SYMLINK, MOUNT_POINT, LX_SYMLINK = 0xA000000C, 0xA0000003, 0xA000001D


def link(tag: int, substitute: str, printed: str = "", *, relative: bool = False) -> bytes:
    """Return the reparse point of a link as Windows writes it."""
    first, second = substitute.encode("utf-16-le"), printed.encode("utf-16-le")
    end = 0 if tag == SYMLINK else 2
    places = struct.pack("<4H", 0, len(first), len(first) + end, len(second))
    flags = struct.pack("<I", relative) if tag == SYMLINK else b""
    data = places + flags + first + bytes(end) + second + bytes(end)
    return struct.pack("<IHH", tag, len(data), 0) + data


TARGETS = {
    "C:\\Users": (r"\??\C:\Users\x", b"/Users/x"),
    "root": ("\\??\\C:\\", b"/"),
    "no slash": (r"\??\d:", b"/"),
    "rooted": (r"\Users\x", b"/Users/x"),
    "relative": (r"..\dir\file.txt", b"../dir/file.txt"),
    "plain drive": (r"C:\a\b", b"/a/b"),
    "long": (r"\\?\C:\a", b"/a"),
    "volume": (r"\??\Volume{0d1c4d05-0000-0000-0000-100000000000}" + "\\", None),
    "share": (r"\??\UNC\server\share\x", None),
    "share too": (r"\\server\share\x", None),
}


def test_targets_are_paths_on_this_volume_or_said_to_be_elsewhere() -> None:
    for tag in (SYMLINK, MOUNT_POINT):
        for stored, wanted in TARGETS.values():
            point = link(tag, stored, "shown")
            assert targets(point) == (stored.encode(), b"shown")
            if wanted is None:
                assert path(point).startswith(b"/??/")
                assert elsewhere(point).startswith(
                    ("another volume: Volume{0d1c", "elsewhere: UNC/server/share/x")
                )
            else:
                assert (path(point), elsewhere(point)) == (wanted, "")
    assert path(link(SYMLINK, "", "only printed")) == b"only printed"
    assert path(struct.pack("<IHHI", LX_SYMLINK, 9, 0, 2) + b"/a\\b") == b"/a\\b"
    for bad in (link(SYMLINK, ""), link(SYMLINK, "x")[:-1], link(MOUNT_POINT, "x")[:15], b"", bytes(40)):
        with pytest.raises(Malformed):
            path(bad)


def test_tags_have_the_names_windows_gives_them() -> None:
    names = {0x80000017: "WOF", 0x9000001A: "CLOUD", 0x9000601A: "CLOUD_6", 0x8000001B: "APPEXECLINK"}
    assert {tag: name_of(tag) for tag in names} == names
    assert name_of(0x12345678) == ""


def extended(*entries: tuple[bytes, bytes]) -> bytes:
    """Return extended attributes one behind the other."""
    found = b""
    for name, value in entries:
        body = struct.pack("<BBH", 0, len(name), len(value)) + name + b"\0" + value
        step = len(body) + 4 + 3 & ~3
        found += struct.pack("<I", step) + body.ljust(step - 4, b"\0")
    return found


def test_extended_attributes_are_bounded() -> None:
    whole = extended(
        (b"$LXUID", struct.pack("<I", 1000)), (b"$LXMOD", struct.pack("<I", 0o100640)), (b"X", b"yz")
    )
    assert list(attributes(whole))[2] == (b"X", b"yz")
    assert posix(whole)[:3] == (1000, None, 0o100640)
    with pytest.raises(Malformed):
        posix(extended((b"$LXDEV", struct.pack("<II", 1 << 12, 1))))
    rng = random.Random(1)
    for _ in range(200):
        bad = bytearray(whole)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            assert sum(len(value) for _, value in attributes(bytes(bad))) <= len(bad)
        except Malformed:
            continue


def volume(folder: Path) -> Path:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    return image


def point_at(where: Path, point: bytes) -> None:
    os.setxattr(where, "system.ntfs_reparse_data", point)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a volume with links of Windows and of WSL, special files, and files in a cloud."""
    folder = tmp_path_factory.mktemp("reparse")
    image = volume(folder)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows,special_files=wsl", image]
    with mounted(command, folder / "mnt") as where:
        (where / "Users/x").mkdir(parents=True)
        (where / "Users/x/file.txt").write_bytes(b"found\n")
        (where / "deep/er").mkdir(parents=True)
        for name, target in (("abs", "/Users/x"), ("rel", "../Users/x/file.txt"), ("long", "y" * 1000)):
            (where / "deep" / name).symlink_to(target)
        os.mkfifo(where / "fifo")
        os.mknod(where / "chr", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(where / "blk", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
        there = os.getcwd()
        os.chdir(where)
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind("sock")
        finally:
            os.chdir(there)
        (where / "deep/junction").mkdir()
        point_at(where / "deep/junction", link(MOUNT_POINT, r"\??\C:\Users\x", r"C:\Users\x"))
        (where / "deep/file link").touch()
        point_at(where / "deep/file link", link(SYMLINK, r"..\Users\x\file.txt", "shown", relative=True))
        (where / "other volume").mkdir()
        point_at(where / "other volume", link(MOUNT_POINT, TARGETS["volume"][0]))
        cloud = struct.pack("<IHH", 0x9000601A, 16, 0) + noise(16)
        (where / "here").write_bytes(noise(9000))
        point_at(where / "here", cloud)
        sparse_file(where / "in a cloud", 70_000, b"", 0)
        point_at(where / "in a cloud", cloud)
        (where / "recalled").write_bytes(noise(9000))
        point_at(where / "recalled", cloud)
        attributes = struct.unpack("<I", os.getxattr(where / "recalled", "system.ntfs_attrib"))[0]
        os.setxattr(where / "recalled", "system.ntfs_attrib", struct.pack("<I", attributes | 0x1000))
        (where / "app.exe").touch()
        point_at(where / "app.exe", struct.pack("<IHH", 0x8000001B, 12, 0) + noise(12))
        (where / "owned").write_bytes(b"of WSL\n")
        values = {b"$LXUID": 1000, b"$LXGID": 100, b"$LXMOD": 0o100640}
        packed = extended(*((name, struct.pack("<I", value)) for name, value in values.items()))
        os.setxattr(where / "owned", "system.ntfs_ea", packed)
        (where / "many").touch()
        os.setxattr(where / "many", "system.ntfs_ea", extended(*((b"N%04d" % n, b"v") for n in range(3000))))
        for number in range(250):
            (where / f"{number:03d}{'n' * 240}").hardlink_to(where / "many")
    return image


@pytest.mark.slow
@pytest.mark.root
def test_what_is_said_of_a_file_fits_what_the_kernel_takes(image: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    found = files.xattrs(0, walk(files)[b"many"].attr.inum)
    check_xattrs(found)
    assert found[b"user.imgfs.ntfs.ea.N0007"] == b"v"
    assert b"more than 200" in found[b"user.imgfs.ntfs.ea_damaged"]
    times = found[b"user.imgfs.ntfs.fn_times"]
    assert 60_000 < len(times) <= 65_536
    assert times.endswith(b"n\n")
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_special_files_and_links_of_wsl_are_what_ntfs3g_shows(image: Path, tmp_path: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = check_files("ntfs", image, {b"owned": b"of WSL\n", b"here": noise(9000), b"app.exe": b""})
    with by_ntfs3g(image, tmp_path / "peer", "ro") as peer:
        for name in (b"fifo", b"chr", b"blk", b"sock", b"deep/abs", b"deep/rel", b"deep/long"):
            theirs, ours = (peer / os.fsdecode(name)).lstat(), tree[name].attr
            assert ours.kind << 12 == stat.S_IFMT(theirs.st_mode), name
            assert (ours.rdev, ours.size) == (theirs.st_rdev, theirs.st_size), name
            assert not ours.damaged
            if ours.kind == Kind.LNK:
                assert files.link(0, ours.inum) == os.fsencode((peer / os.fsdecode(name)).readlink())
    attr = tree[b"owned"].attr
    assert (attr.uid, attr.gid, attr.mode, attr.kind) == (1000, 100, 0o640, Kind.REG)
    found = files.xattrs(0, attr.inum)
    assert found[b"user.imgfs.ntfs.ea.$LXUID"] == struct.pack("<I", 1000)
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_content_in_a_cloud_is_not_read_as_zeros(image: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = walk(files)
    for name in (b"in a cloud", b"recalled"):
        assert "CLOUD_6" in tree[name].attr.damaged
        with pytest.raises(NotSupported, match="CLOUD_6"):
            content(files, reader, 0, tree[name])
    found = files.xattrs(0, tree[b"here"].attr.inum)
    assert found[b"user.imgfs.ntfs.reparse_name"] == b"CLOUD_6"
    assert found[b"user.imgfs.ntfs.reparse_data"][8:] == noise(16)
    assert files.xattrs(0, tree[b"app.exe"].attr.inum)[b"user.imgfs.ntfs.reparse_name"] == b"APPEXECLINK"
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_links_lead_through_the_mount_to_where_windows_would_go(image: Path, tmp_path: Path) -> None:
    with watched(image, at=tmp_path / "m") as point:
        root = point / "ntfs.img/00-ntfs/root"
        assert (root / "deep/junction/file.txt").read_bytes() == b"found\n"
        assert (root / "deep/abs/file.txt").read_bytes() == b"found\n"
        assert (root / "deep/rel").read_bytes() == (root / "deep/file link").read_bytes() == b"found\n"
        said = os.getxattr(root / "deep/junction", "system.imgfs.link", follow_symlinks=False)
        assert said == rb"\??\C:\Users\x"
        said = os.getxattr(root / "deep/file link", "system.imgfs.ntfs.print_name", follow_symlinks=False)
        assert said == b"shown"
        assert not (root / "other volume").exists()
        said = os.getxattr(root / "other volume", "system.imgfs.ntfs.elsewhere", follow_symlinks=False)
        assert said.startswith(b"another volume: Volume{0d1c4d05")
        assert (root / "blk").lstat().st_rdev == os.makedev(259, 70_000)


@pytest.mark.slow
@pytest.mark.root
def test_damage_to_reparse_points_stays_inside_the_contract(image: Path) -> None:
    data = image.read_bytes()
    tree = walk(open_files("ntfs", MemoryReader(data)))
    base = int.from_bytes(data[48:56], "little") * data[13] * 512
    names = (
        b"deep/abs",
        b"deep/junction",
        b"deep/file link",
        b"owned",
        b"blk",
        b"fifo",
        b"in a cloud",
        b"here",
    )
    rng, errors = random.Random(5), 0
    for count in range(200):
        name = names[count % len(names)]
        number = tree[name].attr.inum
        bad = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            bad[base + 1024 * number + 56 + rng.randrange(440)] ^= 1 << rng.randrange(8)
        reader = MemoryReader(bytes(bad))
        files = open_files("ntfs", reader)
        try:
            attr = files.stat(0, number, 0)
            check_xattrs(files.xattrs(0, number))
            if attr.kind == Kind.LNK:
                assert len(files.link(0, number)) == attr.size
            elif attr.kind == Kind.REG and attr.size < 1 << 22:
                assert len(content(files, reader, 0, tree[name].__class__(b"", attr))) == attr.size
        except (ImgfsError, OSError):
            errors += 1
    assert errors > 10
