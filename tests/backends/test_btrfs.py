"""btrfs through the kernel and through mkfs: what they wrote is shown, whatever is missing or damaged."""

from __future__ import annotations

import os
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import EvidenceError, Malformed, NeedMembers, NotMine
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.btrfsimages import (
    attached,
    changed,
    compare,
    fill_special,
    make,
    opened,
    resummed,
    rooted,
    unlock,
    walked,
)
from tests.backends.kernel import grown
from tests.backends.seen import digest, look
from tests.backends.tskimages import noise, plant, run
from tests.images import as_sfdisk_sees, disk, sfdisk
from tests.mounts import mounted
from tests.peers import layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.backends.seen import Seen

FEATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # of mkfs and of mount
    "plain": ((), ()),
    "zlib-64k-xxhash": (("-n", "65536", "--csum", "xxhash"), ("compress=zlib",)),
    "mixed-sha256-zstd": (("-M", "--csum", "sha256"), ("compress-force=zstd",)),
    "holes-blake2-lzo": (("-O", "^no-holes", "--csum", "blake2"), ("compress=lzo",)),
    "lzo-forced": (("-n", "4096"), ("compress-force=lzo",)),
    "fat-free": (("-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"), ("nodatasum",)),
    "no-inline": ((), ("max_inline=0", "compress=zstd")),
}
SEVERAL: dict[str, tuple[int, int, tuple[str, ...]]] = {  # devices, how many may be missing, profiles
    "raid0": (3, 0, ("-d", "raid0", "-m", "raid1")),
    "raid1": (2, 1, ("-d", "raid1", "-m", "raid1")),
    "raid1c3": (3, 2, ("-d", "raid1c3", "-m", "raid1c3")),
    "raid1c4": (4, 3, ("-d", "raid1c4", "-m", "raid1c4")),
    "raid10": (4, 1, ("-d", "raid10", "-m", "raid10")),
    "raid5": (3, 1, ("-d", "raid5", "-m", "raid5")),
    "raid5-two": (2, 1, ("-d", "raid5", "-m", "raid5")),
    "raid6": (5, 2, ("-d", "raid6", "-m", "raid6")),
    "raid6-three": (3, 2, ("-d", "raid6", "-m", "raid6")),
}


def planted(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def filled(
    tmp_path: Path, images: Sequence[Path], *options: str, files: int = 2000
) -> dict[str, dict[bytes, Seen]]:
    """Write one of everything, with two subvolumes; return what the kernel shows of each tree."""
    with attached(images, tmp_path / "mnt", *options) as where:
        grown(where, "btrfs", files)
        fill_special(where)
        (where / "dir").mkdir()
        run("btrfs", "subvolume", "create", where / "sub")
        plant(where / "sub")
        run("btrfs", "subvolume", "create", where / "sub" / "dir" / "inner")
        (where / "sub" / "dir" / "inner" / "deep").write_bytes(b"in it")
        run("btrfs", "subvolume", "snapshot", "-r", where / "sub", where / "dir" / "snap")
        (where / "sub" / "small.txt").write_bytes(b"newer than the snapshot")
        run("btrfs", "subvolume", "set-default", where / "sub")
    shown: dict[str, dict[bytes, Seen]] = {}
    with attached(images, tmp_path / "mnt", "ro", "subvolid=5") as where:
        for name in ("", "sub", "sub/dir/inner", "dir/snap"):
            shown[name or "root"] = look(where / name)
    for name, seen in shown.items():
        for other in shown:
            inner = other if name == "root" else other.removeprefix(name + "/")
            if other not in (name, "root") and (name == "root" or other.startswith(name + "/")):
                for path in [path for path in seen if path.startswith(inner.encode() + b"/")]:
                    del seen[path]
    return shown


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", FEATURES)
def test_what_the_kernel_shows_is_shown(tmp_path: Path, name: str) -> None:
    made, options = FEATURES[name]
    images = make([tmp_path / "one"], *made, size=512 << 20)
    files = 2000 if "64k" in name else 10_000  # the kernel takes 5 ms for each in such nodes
    shown = filled(tmp_path, images, *options, files=files)
    files, _ = opened(images)
    names = [tree.name for tree in files.info.trees]
    assert sorted(names) == sorted(shown)
    for tree, path in enumerate(names):
        compare(images, shown[path], tree)
    told = dict(
        line.split("=", 1)
        for line in run("blkid", "-p", "-o", "export", images[0]).splitlines()
        if "=" in line
    )
    info = files.info
    assert (info.type, info.label, info.uuid) == (told["TYPE"], told["LABEL"], told["UUID"])
    assert "default subvolume: sub" in info.notes
    said = files.xattrs(names.index("dir/snap"), 256)
    lines = run("btrfs", "inspect-internal", "dump-tree", "-t", "root", images[0])
    assert said[b"user.imgfs.subvolume.uuid"].decode() in lines
    assert (
        said[b"user.imgfs.subvolume.parent-uuid"]
        == files.xattrs(names.index("sub"), 256)[b"user.imgfs.subvolume.uuid"]
    )
    assert said[b"user.imgfs.subvolume.read-only"] == b"1"
    assert files.xattrs(names.index("sub"), 256)[b"user.imgfs.subvolume.default"] == b"1"
    flags = walk(files)
    assert b"immutable" in files.xattrs(0, flags[b"inline"].attr.inum)[b"user.imgfs.flags"]
    assert b"nodatacow" in files.xattrs(0, flags[b"nocow/file"].attr.inum)[b"user.imgfs.flags"]
    with attached(images, tmp_path / "mnt", "subvolid=5") as where:
        unlock(where)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", SEVERAL)
def test_devices_may_be_missing_as_far_as_profiles_allow(tmp_path: Path, name: str) -> None:
    count, spare, profiles = SEVERAL[name]
    images = make([tmp_path / f"device{number}" for number in range(count)], *profiles, size=256 << 20)
    shown = filled(tmp_path, images)["root"]
    compare(images, shown)
    with pytest.raises(NeedMembers):
        opened(images[1:], final=False)
    for missing in range(1, spare + 1):
        for gone in list(combinations(images, missing))[:6]:
            compare([image for image in images if image not in gone], shown)
    if spare + 1 < count:
        try:
            files, reader = opened(images[spare + 1 :])
        except Malformed:  # its trees lay there, too
            return
        for path, data in walked(files, reader).items():
            assert data is None or digest(data) == shown[path].body, path


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", ["raid1", "raid10", "raid5", "raid6"])
def test_a_bad_copy_gives_way_to_a_good_one(tmp_path: Path, name: str) -> None:
    count, _, profiles = SEVERAL[name]
    images = make([tmp_path / f"device{number}" for number in range(count)], *profiles, size=256 << 20)
    shown = filled(tmp_path, images)["root"]
    data = images[0].read_bytes()
    plain = b"nocow/file"  # which has no checksums: nobody can tell
    shown[plain] = shown[plain]._replace(body=None)
    images[0].write_bytes(data[: 1 << 20] + bytes(len(data) - (1 << 20)))  # all but the first superblock
    compare(images, shown)


@pytest.mark.slow
def test_contract_holds_on_a_good_image(tmp_path: Path) -> None:
    image, truth = rooted(tmp_path)
    tree = check_files("btrfs", image, truth)
    inner = tree[b"dir/inner.txt"].attr
    told = (tmp_path / "tree" / "dir" / "inner.txt").stat()
    assert inner.m_ns in (told.st_mtime_ns, told.st_mtime_ns // 10**9 * 10**9)  # older tools write seconds
    assert (inner.mode, inner.uid) == (told.st_mode & 0o7777, told.st_uid)


@pytest.mark.slow
@pytest.mark.parametrize("checksum", ["crc32c", "xxhash", "sha256", "blake2"])
def test_bytes_that_do_not_fit_their_checksum_are_an_error(tmp_path: Path, checksum: str) -> None:
    image, truth = rooted(tmp_path, "--csum", checksum)
    data = bytearray(image.read_bytes())
    wanted = truth[b"large.bin"]
    assert wanted is not None
    at = data.index(wanted[8192 : 8192 + 64])
    data[at + 100] ^= 1
    reader = MemoryReader(bytes(data))
    files = open_files("btrfs", reader)
    found = walked(files, reader)
    assert {path for path, text in truth.items() if text is not None and found[path] != text} == {
        b"large.bin"
    }
    assert found[b"large.bin"] is None


@pytest.mark.slow
def test_only_the_bad_sector_is_an_error(tmp_path: Path) -> None:
    image, truth = rooted(tmp_path)
    data = bytearray(image.read_bytes())
    wanted = truth[b"large.bin"]
    assert wanted is not None
    data[data.index(wanted[8192 : 8192 + 64]) + 100] ^= 1
    image.write_bytes(data)
    (place := tmp_path / "mount").mkdir()
    with mounted(image, at=place) as at:
        file = next(at.glob("*/*/root/large.bin"))
        handle = os.open(file, os.O_RDONLY)
        try:
            assert os.pread(handle, 8192, 0) == wanted[:8192]
            assert os.pread(handle, 200_000, 12_288) == wanted[12_288:212_288]
            with pytest.raises(OSError, match="Input/output"):
                os.pread(handle, 10, 9000)
        finally:
            os.close(handle)
        assert (file.parent / "small.txt").read_bytes() == truth[b"small.txt"]


@pytest.mark.slow
def test_other_superblocks_and_roots_are_used(tmp_path: Path) -> None:
    image, truth = rooted(tmp_path, size=130 << 20)
    good = image.read_bytes()
    without = bytearray(good)
    without[0x10000:0x11000] = bytes(0x1000)
    reader = MemoryReader(bytes(without))
    with pytest.raises(NotMine):
        open_files("btrfs", MemoryReader(bytes(without[:0x4000000])))
    found = walked(open_files("btrfs", reader), reader)
    assert {path for path, text in truth.items() if text is not None} == {
        p for p, t in found.items() if t is not None
    }
    damaged = bytearray(good)
    damaged[0x10200] ^= 1
    files = open_files("btrfs", MemoryReader(bytes(damaged)))
    assert any("superblock at 65536" in note for note in files.info.notes)
    wrong = changed(good, root=0x123000)  # where no root is
    files = open_files("btrfs", MemoryReader(wrong))
    assert any("backup root" in note for note in files.info.notes)
    assert set(walk(files)) >= set(truth)


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    image, _ = rooted(tmp_path, "-M", "-n", "4096", size=18 << 20)
    line = check_hostile("btrfs", image, tmp_path, seeds=60, seconds=200)
    assert "walked" in line


@pytest.mark.slow
def test_damage_under_right_checksums_stays_inside_the_contract(tmp_path: Path) -> None:
    image, _ = rooted(tmp_path, "-M", "-n", "4096", size=18 << 20)
    outcomes = resummed(image.read_bytes(), range(int(os.environ.get("IMGFS_SEEDS", "200"))))
    assert outcomes["walked"]


@pytest.mark.slow
def test_what_is_refused_is_named(tmp_path: Path) -> None:
    image, _ = rooted(tmp_path)
    good = image.read_bytes()
    for bit, name in ((13, "extent-tree-v2"), (17, "remap-tree"), (40, "bit 40")):
        with pytest.raises(Exception, match=name):
            open_files("btrfs", MemoryReader(changed(good, incompat=1 << bit)))
    files = open_files("btrfs", MemoryReader(changed(good, incompat=1 << 12, log=1 << 20)))
    assert any("zoned" in note for note in files.info.notes)
    assert any("log" in note for note in files.info.notes)
    with pytest.raises(Malformed):
        open_files("btrfs", MemoryReader(changed(good, node=12345)))
    for other in (b"", bytes(200_000)):
        with pytest.raises((NotMine, EvidenceError)):
            open_files("btrfs", MemoryReader(other))


@pytest.mark.slow
@pytest.mark.root
def test_devices_are_one_disk_of_the_mount(tmp_path: Path) -> None:
    images = make([tmp_path / f"device{number}.img" for number in range(2)], "-d", "raid0", "-m", "raid1")
    with attached(images, tmp_path / "mnt") as where:
        truth = plant(where)
        (where / "wide").write_bytes(noise(3_000_000, 8))
    (place := tmp_path / "mount").mkdir()
    with mounted(*images, at=place) as at:
        root = at / "EVIDENCE" / "00-btrfs" / "root"
        for name, data in {**truth, b"wide": noise(3_000_000, 8)}.items():
            if data is not None:
                assert (root / os.fsdecode(name)).read_bytes() == data
    with mounted(images[1], at=place) as at:  # what is there of it, where it lies
        root = at / "device1.img" / "00-btrfs" / "root"
        assert (root / "small.txt").read_bytes() == truth[b"small.txt"]
        with pytest.raises(OSError, match="Input/output"):
            (root / "wide").read_bytes()


def test_a_file_is_read_in_the_way_its_reader_says(tmp_path: Path) -> None:
    image, truth = rooted(tmp_path)
    reader = FileReader(image)
    files = open_files("btrfs", reader)
    for path, entry in walk(files).items():
        if truth.get(path) is not None:
            assert content(files, reader, 0, entry) == truth[path]


@pytest.mark.slow
@pytest.mark.root
def test_devices_may_be_partitions_of_one_disk(tmp_path: Path) -> None:
    images = make([tmp_path / "one", tmp_path / "two"], "-d", "raid0", "-m", "raid1", size=126 << 20)
    with attached(images, tmp_path / "mnt") as where:
        (where / "wide").write_bytes(noise(3_000_000, 8))
        run("btrfs", "subvolume", "create", where / "root")
        (where / "root" / "inner").write_bytes(b"a subvolume of that name")
    whole = sfdisk(disk(tmp_path / "disk.img", 256 << 20), "label: gpt\nsize=126MiB\nsize=126MiB\n")
    starts = sorted(start for start, _ in as_sfdisk_sees(whole).values())
    with whole.open("r+b") as file:
        for start, image in zip(starts, images, strict=True):
            file.seek(start)
            file.write(image.read_bytes())
    (place := tmp_path / "mount").mkdir()
    with mounted(whole, at=place) as at:
        (wide,) = at.glob("disk.img/*/root/wide")
        assert wide.read_bytes() == noise(3_000_000, 8)
        assert not list((wide.parent / "root").iterdir())
        (inner,) = at.glob("disk.img/*/root~*/inner")
        assert inner.read_bytes() == b"a subvolume of that name"
        needs = [layer["needs"] for layer in layers(at, backend="btrfs")]
        assert needs == ["", ""]


@pytest.mark.slow
@pytest.mark.root
def test_a_device_that_was_away_is_not_believed(tmp_path: Path) -> None:
    images = make([tmp_path / "one", tmp_path / "two"], "-d", "raid1", "-m", "raid1", size=300 << 20)
    with attached(images, tmp_path / "mnt", "nodatasum") as where:
        (where / "file").write_bytes(noise(500_000, 1))
    with attached(images[:1], tmp_path / "mnt", "degraded,nodatasum,nodatacow") as where:
        run("cp", "--no-preserve=all", planted(tmp_path / "newer", noise(500_000, 2)), where / "file")
    for given in (images, images[::-1]):
        files, reader = opened(given)
        assert walked(files, reader)[b"file"] == noise(500_000, 2)
        assert any("left out" in note for note in files.info.notes)
    files, reader = opened(images[1:])  # the older state, for who has no other
    assert walked(files, reader)[b"file"] == noise(500_000, 1)


@pytest.mark.slow
@pytest.mark.root
def test_what_the_worker_decodes_is_read_through_a_mount(tmp_path: Path) -> None:
    images = make([tmp_path / "one.img"])
    truth = {}
    for method in ("zlib", "zstd", "lzo"):
        with attached(images, tmp_path / "mnt", f"compress-force={method}") as where:
            for name, length in (("inline", 1200), ("long", 700_001)):
                truth[f"{name}-{method}"] = (method.encode() * length)[:length]
                (where / f"{name}-{method}").write_bytes(truth[f"{name}-{method}"])
    (place := tmp_path / "mount").mkdir()
    with mounted(images[0], at=place) as at:
        for name, data in truth.items():
            assert (at / "one.img" / "00-btrfs" / "root" / name).read_bytes() == data
