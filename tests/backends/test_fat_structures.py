"""What FAT images that no tool makes must show: damaged tables, chains, names, orphans."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgfs.backends import Options
from imgfs.backends.fat.clusters import chain, free_runs
from imgfs.backends.fat.table import Table
from imgfs.backends.fat.volume import Volume
from imgfs.errors import LostBytes
from imgfs.model import Kind, Linear
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.model import Entry

pytestmark = pytest.mark.slow

MIRROR = 1 << 62
SIZES = {12: 2 << 20, 16: 16 << 20, 32: 40 << 20}
LETTERS = "x" * 250


class Image:
    """A FAT image that can be patched. Units: bytes; clusters are sectors."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        reserved, self.tables = struct.unpack_from("<HB", data, 14)
        roots, length = struct.unpack_from("<H", data, 17)[0], struct.unpack_from("<H", data, 22)[0]
        self.bits = 16 if length else 32
        length = length or struct.unpack_from("<I", data, 36)[0]
        self.table, self.length = reserved * 512, length * 512
        self.root = self.table + self.tables * self.length
        self.heap = self.root + roots * 32
        if self.bits == 16 and (len(data) - self.heap) // 512 < 4085:
            self.bits = 12

    def set(self, cluster: int, value: int) -> None:
        for copy in range(self.tables):
            at = self.table + copy * self.length
            struct.pack_into(
                "<H" if self.bits == 16 else "<I", self.data, at + cluster * self.bits // 8, value
            )

    def slot(self, name: bytes) -> int:
        """Return where the entry with a short name lies in the root."""
        return next(at for at in range(self.root, len(self.data), 32) if self.data[at : at + 11] == name)

    def first(self, name: bytes) -> int:
        return int(struct.unpack_from("<H", self.data, self.slot(name) + 26)[0])


def make(folder: Path, bits: int = 16) -> Image:
    need("mkfs.vfat", "mcopy", "mdel")
    image, tree = folder / f"fat{bits}.img", folder / f"tree{bits}"
    image.write_bytes(b"")
    os.truncate(image, SIZES[bits])
    run("mkfs.vfat", "-F", bits, "-s", 1, "-n", "EVIDENCE", image)
    (tree / "DIR" / "SUB").mkdir(parents=True)
    for number, name in enumerate(("ONE.BIN", "TWO.BIN", "DIR/INNER.BIN", "DIR/SUB/DEEP.BIN", "LAST.BIN")):
        (tree / name).write_bytes(noise(9000 + number, number))
    (tree / f"{LETTERS}.text").write_bytes(noise(700, 8))
    run("mcopy", "-s", "-i", image, *sorted(tree.iterdir()), "::")
    return Image(image.read_bytes())


def opened(image: Image, **options: str) -> tuple[MemoryReader, dict[bytes, Entry], dict[bytes, Entry]]:
    reader = MemoryReader(bytes(image.data))
    files = open_files("fat", reader, Options(**options))  # type: ignore[arg-type]
    live, deleted = walk(files), walk(files, 1)
    for tree, entries in enumerate((live, deleted)):
        for path, entry in entries.items():
            assert files.stat(tree, entry.attr.inum, 0) == entry.attr, path
    return reader, live, deleted


def read(image: Image, entry: Entry, tree: int = 0) -> bytes:
    reader = MemoryReader(bytes(image.data))
    return content(open_files("fat", reader), reader, tree, entry)


def fls(folder: Path, image: Image) -> set[tuple[int, str, bool]]:
    """Return the number, name and deletion of every entry but TSK's own and labels."""
    need("fls")
    path = folder / "fls.img"
    path.write_bytes(image.data)
    rows = re.findall(
        r"^[+ ]*\S/(\w) (\* )?(\d+)(?:\(realloc\))?:\t(.+)$", run("fls", "-r", path), re.MULTILINE
    )
    return {
        (int(number), name, bool(star))
        for kind, star, number, name in rows
        if kind != "V" and "(Volume Label Entry)" not in name
    }


@pytest.mark.parametrize("bits", sorted(SIZES))
def test_numbers_and_names_are_those_of_fls(tmp_path: Path, bits: int) -> None:
    make(tmp_path, bits)
    path = tmp_path / f"fat{bits}.img"
    run("mdel", "-i", path, "::ONE.BIN", f"::{LETTERS}.text")
    run("mdeltree", "-i", path, "::DIR")
    image = Image(path.read_bytes())
    _, live, deleted = opened(image)
    said = {(entry.attr.inum, path.rpartition(b"/")[2].decode(), False) for path, entry in live.items()}
    said |= {
        (entry.attr.inum, path.rpartition(b"/")[2].decode(), True)
        for path, entry in deleted.items()
        if entry.attr.deleted and path != b"$Orphans"
    }
    assert said == fls(tmp_path, image)
    entry = deleted[f"{LETTERS}.text".encode()]
    assert read(image, entry, 1) == noise(700, 8)


def test_orphans_are_those_of_fls_and_what_deleted_directories_hold_is_none(tmp_path: Path) -> None:
    make(tmp_path)
    run("mdeltree", "-i", tmp_path / "fat16.img", "::DIR")
    image = Image((tmp_path / "fat16.img").read_bytes())
    assert not [path for path in opened(image)[2] if path.startswith(b"$Orphans/")]
    at = image.slot(b"\xe5IR        ")
    image.data[at : at + 32] = b"OTHER   TXT\x20" + bytes(20)
    _, _, deleted = opened(image)
    orphans = {path: entry for path, entry in deleted.items() if path.startswith(b"$Orphans/")}
    said = {
        (e.attr.inum, p.rpartition(b"/")[2].partition(b"-")[2] or p.rpartition(b"/")[2])
        for p, e in orphans.items()
    }
    listed = {(number, name.encode()) for number, name, star in fls(tmp_path, image) if star}
    assert said == listed
    inner = next(entry for path, entry in orphans.items() if path.endswith(b"NNER.BIN"))
    assert read(image, inner, 1) == (tmp_path / "tree16/DIR/INNER.BIN").read_bytes()
    assert any(path.count(b"/") == 2 for path in orphans)  # below the directory that is one


def test_orphans_come_in_pages_of_any_size(tmp_path: Path) -> None:
    image = make(tmp_path)
    entries = b"".join(b"F%06d TXT\x20" % n + bytes(20) for n in range(300))
    at = len(image.data) - (64 << 10)
    at -= (at - image.heap) % 512
    image.data[at : at + len(entries)] = entries
    files = open_files("fat", MemoryReader(bytes(image.data)))
    for limit in (1, 7, 1024):
        found, cursor = [], 0
        while cursor >= 0:
            page = files.list(1, MIRROR, cursor, limit)
            assert page.next == -1 or page.next > cursor
            found += [entry.name.partition(b"-")[2] for entry in page.entries]
            cursor = page.next
        assert found == [b"F%06d.TXT" % n for n in range(300)]
        files = open_files("fat", MemoryReader(bytes(image.data)))


def test_a_name_in_a_code_page_is_what_the_analyst_says_it_is(tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy")
    rules, image, source = tmp_path / "rules", tmp_path / "disk.img", tmp_path / "ПРИВЕТ.TXT"
    rules.write_text("default_codepage=866\n")
    source.write_bytes(b"hello\n")
    image.write_bytes(bytes(2 << 20))
    run("mkfs.vfat", image)
    environment = os.environ | {"MTOOLSRC": str(rules), "LC_ALL": "C.UTF-8"}
    subprocess.run(["mcopy", "-i", image, source, "::"], env=environment, check=True)
    reader = FileReader(image)
    assert "ПРИВЕТ.TXT".encode() in walk(open_files("fat", reader, Options(codepage="cp866")))
    assert "ПРИВЕТ.TXT".encode("cp866").decode("cp437").encode() in walk(open_files("fat", reader))
    reader.close()


@pytest.mark.parametrize(
    ("raw", "case", "codepage", "wanted"),
    [
        (b"\x05BC     TXT", 0, "cp437", "\u03c3BC.TXT"),
        (b"NAME    EXT", 0x08, "cp437", "name.EXT"),
        (b"NAME    EXT", 0x10, "cp437", "NAME.ext"),
        (b"\x8eBC        ", 0x08, "cp850", "äbc"),
        (b"A B     C  ", 0, "cp437", "A B.C"),
    ],
)
def test_short_names(tmp_path: Path, raw: bytes, case: int, codepage: str, wanted: str) -> None:
    image = make(tmp_path)
    at = image.slot(b"TWO     BIN")
    image.data[at : at + 11], image.data[at + 12] = raw, case
    assert wanted.encode() in opened(image, codepage=codepage)[1]


def test_attributes_are_those_mattrib_set(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "fat16.img"
    run("mattrib", "+h", "+s", "+r", "-a", "-i", path, "::ONE.BIN")
    run("mattrib", "+r", "-i", path, "::TWO.BIN")
    reader = FileReader(path)
    files = open_files("fat", reader)
    live = walk(files)
    said = {name: files.xattrs(0, live[name].attr.inum) for name in (b"ONE.BIN", b"TWO.BIN", b"DIR", b"$MBR")}
    key = b"user.imgfs.fat.attributes"
    assert said[b"ONE.BIN"] == {key: b"read-only hidden system"}
    assert said[b"TWO.BIN"] == {key: b"read-only archive"}
    assert said[b"DIR"] == said[b"$MBR"] == {}
    assert [live[name].attr.mode for name in (b"ONE.BIN", b"DIR")] == [0o555, 0o777]
    reader.close()


def test_surrogates_become_one_character_and_lone_ones_keep_their_bytes(tmp_path: Path) -> None:
    image = make(tmp_path)
    at = bytes(image.data).find("xxxxx".encode("utf-16-le"), image.root)
    for units, wanted in (("😀".encode("utf-16-le"), "😀".encode()), (b"\x00\xd8x\0", b"\xed\xa0\x80x")):
        image.data[at : at + 4] = units
        assert any(wanted in path for path in opened(image)[1])


def test_a_broken_long_name_gives_way_to_the_short_one(tmp_path: Path) -> None:
    whole = make(tmp_path)
    at = next(at for at in range(whole.root, whole.heap, 32) if whole.data[at + 11] == 0x0F)
    for offset in (0, 13, 64 + 13, 32):  # order and checksum of the first slots
        image = Image(whole.data)
        image.data[at + offset] ^= 0x11
        _, live, _ = opened(image)
        assert f"{LETTERS}.text".encode() not in live
        short = next(entry for path, entry in live.items() if path.startswith(b"XXXXXX~"))
        assert read(image, short) == noise(700, 8)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_chain_that_is_no_chain_loses_its_rest_and_nothing_else(tmp_path: Path, bits: int) -> None:
    whole = make(tmp_path, bits)
    first, end = whole.first(b"ONE     BIN"), 0xFFFF if bits == 16 else 0x0FFFFFFF
    data = noise(9000, 0)
    for value in (0, 1, end, end - 8, first, first + 1, first + 4):
        image = Image(whole.data)
        image.set(first + 4, value)
        reader, live, _ = opened(image)
        entry = live[b"ONE.BIN"]
        assert entry.attr.damaged
        assert entry.attr.allocated == 5 * 512
        (layout,) = open_files("fat", reader).layout(0, entry.attr.inum, 0)
        assert isinstance(layout, Linear)
        assert array("q", layout.length)[0] == 5 * 512
        at = array("q", layout.target)[0]
        assert reader.read(at, 5 * 512) == data[: 5 * 512]
        with pytest.raises(OSError, match=r"lost|covered"):
            read(image, entry)
        assert read(image, live[b"LAST.BIN"]) == noise(9004, 4)


def test_a_directory_whose_cluster_counts_as_free_still_serves_its_files(tmp_path: Path) -> None:
    image = make(tmp_path)
    image.set(image.first(b"DIR        "), 0)
    _, live, _ = opened(image)
    data = (tmp_path / "tree16/DIR/INNER.BIN").read_bytes()
    assert read(image, live[b"DIR/INNER.BIN"]) == data


def test_a_deleted_file_shows_nothing_of_another(tmp_path: Path) -> None:
    make(tmp_path)
    run("mdel", "-i", tmp_path / "fat16.img", "::ONE.BIN")
    whole = Image((tmp_path / "fat16.img").read_bytes())
    first, data = whole.first(b"\xe5NE     BIN"), noise(9000, 0)
    entry = opened(whole)[2][b"_NE.BIN"]
    assert not entry.attr.damaged
    assert read(whole, entry, 1) == data
    image = Image(whole.data)
    image.set(first, 0xFFFF)
    entry = opened(image)[2][b"_NE.BIN"]
    assert "another file" in entry.attr.damaged
    with pytest.raises(OSError, match=r"lost|covered"):
        read(image, entry, 1)
    image = Image(whole.data)
    image.set(first + 3, 0xFFFF)  # TSK leaves out what is in use: so do we, and say so
    entry = opened(image)[2][b"_NE.BIN"]
    assert entry.attr.damaged
    path = tmp_path / "skipped.img"
    path.write_bytes(image.data)
    peer = subprocess.run(["icat", path, str(entry.attr.inum)], capture_output=True, check=True).stdout
    assert read(image, entry, 1) == peer


def test_a_directory_inside_itself_ends_and_costs_nothing_else(tmp_path: Path) -> None:
    image = make(tmp_path, 32)
    sub = image.first(b"DIR        ")
    at = image.heap + (sub - 2) * 512 + 64
    struct.pack_into("<H", image.data, at + 26, sub)
    for cluster in (2, sub):
        struct.pack_into("<H", image.data, at + 26, cluster)
        reader = MemoryReader(bytes(image.data))
        files = open_files("fat", reader)
        entries = {entry.name: entry for entry in files.list(0, 2, 0, 1024).entries}
        assert b"ONE.BIN" in entries
        names = {entry.name: entry for entry in files.list(0, entries[b"DIR"].attr.inum, 0, 1024).entries}
        assert names[b"SUB"].attr.kind == Kind.DIR


class Lossy(MemoryReader):
    """A source that cannot supply some ranges."""

    lost: tuple[tuple[int, int], ...] = ()

    def read(self, start: int, length: int) -> bytes:
        for low, high in self.lost:
            if start < high and low < start + length:
                raise LostBytes("lost", start=low, stop=high)
        return super().read(start, length)


@pytest.mark.parametrize("bits", sorted(SIZES))
def test_the_second_table_serves_where_the_first_is_lost(tmp_path: Path, bits: int) -> None:
    image = make(tmp_path, bits)
    whole = opened(image)
    reader = Lossy(bytes(image.data))
    reader.lost = ((image.table, image.table + 512), (image.table + image.length + 512, image.root))
    files = open_files("fat", reader)
    assert {path: entry.attr for path, entry in walk(files).items()} == {
        path: entry.attr for path, entry in whole[1].items()
    }
    reader.lost = ((image.table, image.root),)
    assert walk(open_files("fat", reader))[b"ONE.BIN"].attr.damaged


def test_a_lost_sector_of_a_directory_costs_what_lies_in_it(tmp_path: Path) -> None:
    image = make(tmp_path)
    reader = Lossy(bytes(image.data))
    reader.lost = ((image.root, image.root + 512),)
    files = open_files("fat", reader)
    page = files.list(0, 2, 0, 1024)
    assert page.damaged
    assert b"$MBR" in {entry.name for entry in page.entries}


def volume_of(values: list[int]) -> Volume:
    clusters = len(values)
    data = struct.pack(f"<{clusters + 2}I", 0, 0, *values).ljust(512 * (clusters + 40), b"\0")
    reader = MemoryReader(data)
    table = Table(reader, (0,), 4 * (clusters + 2), 32, clusters)
    return Volume(reader, table, table, data_at=0, heap_at=0, cluster=512, size=reader.size)


def followed(values: list[int], first: int, need: int) -> list[int]:
    """Return the clusters of a chain, one after the other."""
    found: list[int] = []
    while 2 <= first < len(values) + 2 and first not in found and len(found) < need:
        found.append(first)
        first = values[first - 2]
    return found


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_chain_is_what_following_it_one_by_one_gives(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    near = st.integers(0, count + 3)
    values = [data.draw(st.one_of(st.just(cluster + 1), near)) for cluster in range(2, count + 2)]
    first, need = data.draw(near), data.draw(st.integers(1, count + 5))
    found = chain(volume_of(values), first, need)
    spread = [start + n for start, length in found.runs for n in range(length)]
    assert spread == followed(values, first, need)
    assert found.clusters == len(spread)
    assert bool(found.damaged) == (len(spread) < need)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 61))
def test_free_runs_are_the_zeros_of_the_table(free: list[bool], start: int) -> None:
    volume = volume_of([0 if one else 7 for one in free])
    spread = [first + n for first, length in free_runs(volume, start) for n in range(length)]
    assert spread == [cluster for cluster, one in enumerate(free, 2) if one and cluster >= start]


def test_chains_and_free_runs_cross_the_windows_of_a_table() -> None:
    count = 40_000
    values = [cluster + 1 for cluster in range(2, count + 2)]
    values[29_998] = 0xFFFFFFFF
    values[30_001:] = [0] * (count - 30_001)
    volume = volume_of(values)
    assert chain(volume, 5, 29_996).runs == [(5, 29_996)]
    assert chain(volume, 5, 29_997).damaged
    assert list(free_runs(volume, 2)) == [(30_003, count - 30_001)]
