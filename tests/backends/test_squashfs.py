from __future__ import annotations

import os
import random
import subprocess
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine, NotSupported
from imgfs.model import PACKED_CODED, Foreign, Packed
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files, walk
from tests.backends.compared import SOURCE, same
from tests.backends.kernel import shown
from tests.backends.romimages import KERNEL, kept, packer
from tests.backends.seen import look
from tests.backends.tskimages import many, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.romimages import Trees
PACKED = replace(SOURCE, grain=10**9)
WAYS: dict[str, tuple[str, ...]] = {
    "gzip": ("-comp", "gzip"),
    "gzip-4k": ("-comp", "gzip", "-b", "4096"),
    "gzip-1m-all-fragments": ("-comp", "gzip", "-b", "1048576", "-always-use-fragments"),
    "no-fragments": ("-comp", "gzip", "-no-fragments", "-no-exports"),
    "verbatim": ("-noI", "-noD", "-noF", "-noX", "-noId"),
    "verbatim-data": ("-noD", "-noF"),
    "lzo": ("-comp", "lzo"),
    "lzo-1": ("-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-b", "16384"),
    "xz": ("-comp", "xz"),
    "xz-bcj": ("-comp", "xz", "-Xbcj", "x86,arm", "-Xdict-size", "100%"),
    "lz4": ("-comp", "lz4"),
    "lz4-hc": ("-comp", "lz4", "-Xhc", "-b", "262144"),
    "zstd": ("-comp", "zstd"),
}


def make(folder: Path, image: Path, *options: str) -> Path:
    need("mksquashfs")
    run("mksquashfs", folder, image, "-quiet", "-no-progress", "-noappend", *options)
    return image


LARGE = ("gzip", "lzo", "lz4", "zstd")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return packer("squashfs", tmp_path_factory)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", WAYS)
def test_what_the_kernel_shows_is_shown(trees: Trees, tmp_path: Path, name: str) -> None:
    folder, packed = trees(10_000 if name in LARGE else 2000)
    image = make(folder, tmp_path / "image", *WAYS[name])
    wanted = shown("squashfs", image, tmp_path / "mnt")
    assert set(wanted) == set(packed)
    same("squashfs", image, wanted, KERNEL)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WAYS, "lzma"])
def test_what_was_packed_is_read(trees: Trees, tmp_path: Path, name: str) -> None:
    """As an ordinary user, and with the compressor the kernel has not."""
    folder, truth = trees(10_000 if name == "gzip" else 2000)
    image = make(folder, tmp_path / "image", *WAYS.get(name, ("-comp", "lzma")))
    same("squashfs", image, truth, PACKED)
    need("unsquashfs")
    command = ["unsquashfs", "-q", "-n", "-d", tmp_path / "out", image]
    subprocess.run(command, check=False, capture_output=True)  # fails to set what a user may not
    rules = (
        PACKED if os.geteuid() == 0 else replace(PACKED, modes=False)
    )  # it leaves out bits of users' files
    same("squashfs", image, look(tmp_path / "out"), rules)


@pytest.mark.slow
def test_contract_holds_on_a_good_image(trees: Trees, tmp_path: Path) -> None:
    folder, _ = trees(2000)
    check_files("squashfs", make(folder, tmp_path / "image"), kept(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gzip", "lzo", "xz", "lz4", "zstd", "lzma"])
def test_verbatim_blocks_among_others_are_read_with_them(tmp_path: Path, name: str) -> None:
    """What does not become smaller is stored as it is: each third block, a stretch of 2 MiB, and the last."""
    rng = random.Random(4)
    block = 131_072
    noise = [number % 3 == 0 or 16 <= number < 32 for number in range(50)]
    data = b"".join(
        rng.randbytes(block) if one else b"%08d" % number * (block // 8) for number, one in enumerate(noise)
    )
    data += rng.randbytes(70_000)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "mixed").write_bytes(data)
    image = make(tree, tmp_path / "image", "-comp", name, "-no-fragments")
    (layout,) = check_files("squashfs", image, {b"mixed": data})[b"mixed"].layout or open_files(
        "squashfs", FileReader(image)
    ).layout(0, 1, 0)
    assert isinstance(layout, Packed)
    flags = [word >> 32 for word in array("Q", layout.table)[1::2]]
    assert flags == [*(0 if one else PACKED_CODED for one in noise), 0]


@pytest.mark.slow
def test_many_small_files_share_their_fragments(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    truth = many(tree, 400)
    image = make(tree, tmp_path / "image")
    found = check_files("squashfs", image, truth)
    units = set()
    for path, entry in found.items():
        if path.endswith(b".txt") and entry.attr.size and entry.layout is not None:
            assert isinstance(entry.layout[0], Packed)
            units.add(entry.layout[0].table)
    assert len(units) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gzip", "lzo", "xz", "lz4", "zstd", "lzma", "verbatim"])
def test_damage_stays_inside_the_contract(tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    plant(tree)
    many(tree, 60)
    if os.geteuid() == 0:
        os.setxattr(tree / "small.txt", b"user.note", b"a value")
    image = make(tree, tmp_path / "image", *WAYS.get(name, ("-comp", "lzma")))
    line = check_hostile("squashfs", image, tmp_path, seeds=200)
    assert "walked" in line


@pytest.mark.slow
def test_a_directory_goes_on_behind_damage(tmp_path: Path) -> None:
    """The index of a large directory names headers further on."""
    tree = tmp_path / "tree"
    tree.mkdir()
    names = {b"a rather long name so that they fill blocks %05d" % number for number in range(3000)}
    for name in names:
        (tree / name.decode()).write_bytes(b"")
    image = make(tree, tmp_path / "image", "-noI")
    data = bytearray(image.read_bytes())
    at = int.from_bytes(data[72:80], "little")
    at += 2 + (int.from_bytes(data[at : at + 2], "little") & 0x7FFF)  # the second block of names
    data[at : at + 2] = b"\xff\xff"
    reader = MemoryReader(bytes(data))
    files = open_files("squashfs", reader)
    found, cursor, damaged = set(), 0, ""
    while cursor >= 0:
        page = files.list(0, files.info.trees[0].root, cursor, 500)
        cursor, damaged = page.next, damaged or page.damaged
        found |= {entry.name for entry in page.entries}
    assert "metadata block" in damaged
    assert found < names
    assert len(found) > 2000


def test_the_first_version_is_named() -> None:
    head = bytearray(128)
    head[:4], head[28:32] = b"hsqs", b"\1\0\0\0"
    with pytest.raises(NotSupported, match=r"SquashFS 1\.0"):
        open_files("squashfs", MemoryReader(bytes(head)))


def test_other_bytes_are_not_squashfs() -> None:
    for data in (b"", bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("squashfs", MemoryReader(data))


def test_nothing_is_walked_twice(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    plant(tree)
    reader = FileReader(make(tree, tmp_path / "image"))
    assert len(walk(open_files("squashfs", reader))) == sum(1 for _ in tree.rglob("*"))
    reader.close()


@pytest.mark.slow
def test_a_table_too_large_for_a_message_stays_with_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    truth = plant(tree)
    image = make(tree, tmp_path / "image", "-b", "4096")
    monkeypatch.setattr("imgfs.backends.squashfs.content._MOST", 10)
    found = check_files("squashfs", image, truth)
    reader = FileReader(image)
    files = open_files("squashfs", reader)
    assert isinstance(files.layout(0, found[b"large.bin"].attr.inum, 0)[-1], Foreign)
    reader.close()
