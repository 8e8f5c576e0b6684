"""Laws of LVM2: a volume reads as the kernel read it, or part of it is lost, and that is said."""

from __future__ import annotations

import hashlib
import random
import time
from typing import TYPE_CHECKING, cast

import pytest
import trio

from imgfs.backends import Options
from imgfs.backends.lvm2 import open_lvm2
from imgfs.block.build import build
from imgfs.block.fetch import open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.errors import EvidenceError, LostBytes, NeedMembers, NotMine
from imgfs.model import SlotKind, VolumeTable
from imgfs.testing.volumes import check_volumes
from imgfs.worker import wire
from imgfs.worker.checks import check_opened
from tests.backends import lvmimages
from tests.guest import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from imgfs.backends import Reader
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Volume
    from tests.backends.lvmimages import Recorded

FINAL = Options(final=True)
PIECE = 1 << 20


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Callable[[str], Recorded]:
    """Return a group as a kernel left it, composed once."""
    kept: dict[str, Recorded] = {}

    def get(name: str) -> Recorded:
        if name not in kept:
            kept[name] = lvmimages.load(name, tmp_path_factory.mktemp(name))
        return kept[name]

    return get


class Set:
    """Readers as a worker sees them: the first with the others as its further members."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._first = readers[0]
        self.size, self.name, self.others = readers[0].size, "", readers[1:]
        self.table = b""

    def read(self, start: int, length: int) -> bytes:
        return self._first.read(start, length)

    def write_table(self, chunks: Iterable[bytes]) -> int:
        self.table = b"".join(chunks)
        return len(self.table)


def opened(readers: Sequence[Reader], options: Options = FINAL) -> tuple[VolumeTable, bytes]:
    """Open a set; the daemon would accept the answer."""
    whole = Set(readers)
    table = open_lvm2(cast("Reader", whole), options)
    reply = wire.OpenReply(opened=table, table=len(whole.table))
    wire.encode(reply)
    check_opened(reply, [reader.size for reader in readers])
    return table, whole.table


def source(table: VolumeTable, memory: bytes, files: Sequence[ByteSource], volume: Volume) -> ByteSource:
    layouts = table.layouts[: volume.layout + 1]
    made = build(layouts, files, volume.label, table=memoryview(memory))
    assert made.size == volume.stop - volume.start, volume.label
    return made


async def content(fetcher, made: ByteSource) -> bytes:
    """Return the bytes of a source; ranges that are lost as a mark that no data is."""
    parts = []
    for at in range(0, made.size, PIECE):
        stop = min(at + PIECE, made.size)
        try:
            parts.append(bytes(await fetcher.fetch(made, at, stop)))
        except LostBytes:
            parts.append(await blockwise(fetcher, made, at, stop))
    return b"".join(parts)


MARK = b"\xa5 nobody has this block"


async def blockwise(fetcher, made: ByteSource, start: int, stop: int) -> bytes:
    parts = []
    for at in range(start, stop, 4096):
        try:
            parts.append(bytes(await fetcher.fetch(made, at, min(at + 4096, stop))))
        except LostBytes:
            parts.append(MARK.ljust(min(4096, stop - at), b"-"))
    return b"".join(parts)


def read_all(recorded: Recorded, *without: str) -> tuple[VolumeTable, dict[str, bytes]]:
    """Open a set without some of its disks; return all its volumes."""
    files = [HostFile.open(path) for name, path in sorted(recorded.disks.items()) if name not in without]
    try:
        table, memory = opened(recorded.readers(*without))

        async def read() -> dict[str, bytes]:
            async with open_fetcher() as fetcher:
                return {
                    volume.label: await content(fetcher, source(table, memory, files, volume))
                    for volume in table.volumes
                }

        return table, trio.run(read)
    finally:
        for file in files:
            file.close()


def blocks(data: bytes) -> list[bytes]:
    return [data[at : at + 4096] for at in range(0, len(data), 4096)]


def is_lost(block: bytes) -> bool:
    return block.startswith(MARK)


def labels(table: VolumeTable) -> list[str]:
    return [volume.label for volume in table.volumes if volume.kind is SlotKind.ALLOCATED]


def expected(name: str, label: str) -> str:
    """Return the name of the truth of a volume: the guest read what is being merged by itself."""
    return "merged" if (name, label) == ("snapshot", "into") else label


@pytest.mark.slow
@pytest.mark.parametrize("name", lvmimages.NAMES)
def test_every_volume_reads_as_the_kernel_read_it(recorded, name: str) -> None:
    group = recorded(name)
    table, found = read_all(group)
    shown = {volume.label for volume in table.volumes if volume.kind is SlotKind.ALLOCATED}
    merging = {"merged"} if name == "snapshot" else set()
    assert set(group.truth) - merging <= shown
    for label in sorted(shown):
        digest, size = group.truth.get(expected(name, label), ("", 0))
        if digest == "-":
            assert all(map(is_lost, blocks(found[label]))), label
        elif digest:
            assert not any(map(is_lost, blocks(found[label]))), label
            assert hashlib.sha256(found[label][:size]).hexdigest() == digest, label
    assert all(volume.unique_id and volume.type_name for volume in table.volumes)
    assert all(volume.created_ns for volume in table.volumes if volume.kind is not SlotKind.UNALLOCATED)
    assert table.label == "many"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "thin", "snapshot", "cache"])
def test_what_lay_on_a_missing_disk_is_lost_and_everything_else_is_right(recorded, name: str) -> None:
    group = recorded(name)
    _, whole = read_all(group)
    for gone in group.disks:
        table, found = read_all(group, gone)
        assert any("is missing" in note for note in table.notes)
        for label, data in found.items():
            pairs = list(zip(blocks(data), blocks(whole[label]), strict=True))
            assert all(is_lost(block) or block == truth for block, truth in pairs), label
            lost = any(is_lost(block) and not is_lost(truth) for block, truth in pairs)
            said = any(label in note and "lost" in note for note in table.notes)
            assert said or not lost or label.endswith(("meta", "orig"))


REDUNDANT = {"r0": 0, "r0m": 0, "r1": 2, "r10": 1, "r10b": 1, "old": 1, "core": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raid", "raid6"])
def test_images_on_missing_disks_are_solved_from_the_others(recorded, name: str) -> None:
    group = recorded(name)
    _, whole = read_all(group)
    pairs = [("a",), ("b",), ("c",), ("d",), ("a", "b"), ("b", "d"), ("c", "e")]
    for gone in pairs:
        _, found = read_all(group, *gone)
        for label, data in found.items():
            allowed = REDUNDANT.get(label, 2 if label.startswith("r6") else 1)
            if len(gone) <= allowed:
                assert data == whole[label], (gone, label)
            both = zip(blocks(data), blocks(whole[label]), strict=True)
            assert all(is_lost(block) or block == truth for block, truth in both), (gone, label)


def test_a_set_waits_for_its_members(recorded) -> None:
    group = recorded("linear")
    readers = group.readers()
    for reader in readers:
        with pytest.raises(NeedMembers) as need:
            opened([reader], Options())
        assert (need.value.kind, need.value.have, need.value.of) == ("lvm2", 1, 3)
    table, _ = opened(readers, Options())
    assert need.value.set_id == table.uuid
    for order in ([2, 0, 1], [1, 2, 0]):
        other, _ = opened([readers[number] for number in order], Options())
        assert labels(other) == labels(table)


def test_strangers_and_copies_are_left_out_and_said(recorded, tmp_path: Path) -> None:
    linear, thin = recorded("linear").readers(), recorded("thin").readers()
    table, _ = opened([linear[0], thin[0], linear[1], linear[0], linear[2]])
    assert labels(table) == ["one", "stripes", "two"]
    assert any("belongs to group many" in note for note in table.notes)
    assert any("once more" in note for note in table.notes)
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(1 << 20))
    with pytest.raises(NotMine):
        opened([lvmimages.FileReader(blank)])


def test_any_intact_copy_of_the_metadata_will_do(recorded) -> None:
    readers = recorded("linear").readers()
    full, _ = opened(readers)
    for kept in range(3):
        damaged = [
            reader if number == kept else Patched(reader, {4096: bytes(512)})
            for number, reader in enumerate(readers)
        ]
        table, _ = opened(damaged)
        assert [(v.label, v.stop) for v in table.volumes] == [(v.label, v.stop) for v in full.volumes]
        assert sum("checksum" in note for note in table.notes) == 2
        with pytest.raises(NeedMembers) as need:
            opened([damaged[kept - 1]], Options())
        assert need.value.set_id == ""


def test_stale_images_are_not_read(recorded) -> None:
    table, _ = opened(recorded("stale").readers())
    assert [note for note in table.notes if "had failed" in note]


@pytest.mark.slow
def test_parity_of_an_array_that_nobody_closed_is_not_relied_upon(recorded) -> None:
    group = recorded("crash")
    _, whole = read_all(group)
    for gone in group.disks:
        table, found = read_all(group, gone)
        pairs = list(zip(blocks(found["five"]), blocks(whole["five"]), strict=True))
        assert all(is_lost(block) or block == truth for block, truth in pairs)
        assert any(is_lost(block) for block, _ in pairs)
        assert any(note.startswith("five: it was not closed") for note in table.notes)


@pytest.mark.slow
def test_what_was_removed_lies_in_the_free_extents(recorded) -> None:
    group = recorded("linear")
    table, found = read_all(group)
    unused = [found[v.label] for v in table.volumes if v.kind is SlotKind.UNALLOCATED]
    removed = {pattern.block("gone", number) for number in range(4 * 64)}
    assert removed & {block for data in unused for block in blocks(data)}
    used = sum(volume.stop for volume in table.volumes if volume.kind is SlotKind.ALLOCATED)
    assert sum(map(len, unused)) == 3 * 92 * (256 << 10) - used


def test_how_much_of_a_cache_is_newer_is_said(recorded) -> None:
    table, _ = opened(recorded("cache").readers())
    said = {note.split(":")[0]: note for note in table.notes if "cached" in note}
    assert "writethrough: read from its origin" in said["through"]
    for volume in ("back", "older", "single"):
        newer = int(said[volume].split(" of them")[0].split()[-1])
        assert newer > 0
    crashed, _ = opened(recorded("crash").readers())
    assert any("its cache was not closed" in note for note in crashed.notes)


class Patched:
    """A reader with other bytes in places, that ends early if asked."""

    def __init__(self, inner: Reader, changed: dict[int, bytes], size: int = -1) -> None:
        self._inner, self._changed = inner, changed
        self.size = inner.size if size < 0 else size
        self.name, self.others = "", ()
        self.seen: set[tuple[int, int]] = set()

    def read(self, start: int, length: int) -> bytes:
        self.seen.add((start, length))
        if start + length > self.size:
            raise EvidenceError("behind the end")
        data = bytearray(self._inner.read(start, length))
        for at, new in self._changed.items():
            first, last = max(at, start), min(at + len(new), start + length)
            if first < last:
                data[first - start : last - start] = new[first - at : last - at]
        return bytes(data)

    def write_table(self, chunks: Iterable[bytes]) -> int:
        return sum(map(len, chunks))


def mutations(group: Recorded, seeds: Iterable[int]) -> None:
    """Open damaged forms of a set: the answer is a table that can be built, or an error of the evidence."""
    readers = group.readers()
    watched = [Patched(reader, {}) for reader in readers]
    opened(watched)
    spots = [(number, *spot) for number, each in enumerate(watched) for spot in sorted(each.seen)]
    for seed in seeds:
        rng = random.Random(seed)
        changed: list[dict[int, bytes]] = [{} for _ in readers]
        for _ in range(rng.choice([1, 1, 1, 4])):
            number, start, length = rng.choice(spots)
            at = start + rng.randrange(length)
            new = rng.choice([bytes([rng.randrange(256)]), bytes(16), b"\xff" * 8, rng.randbytes(8)])
            changed[number][at] = new
        sizes = [reader.size for reader in readers]
        if not rng.randrange(8):
            sizes[rng.randrange(len(sizes))] = rng.randrange(readers[0].size)
        damaged = [Patched(*each) for each in zip(readers, changed, sizes, strict=True)]
        begin = time.monotonic()
        try:
            table, memory = opened(damaged)
        except (EvidenceError, NotMine):
            continue
        assert time.monotonic() - begin < 5
        lowers = [Sized(size) for size in sizes]
        for volume in table.volumes:
            made = source(table, memory, lowers, volume)
            made.plan(0, min(made.size, 1 << 20))


class Sized:
    """A source that is only planned over."""

    def __init__(self, size: int) -> None:
        self.size = size

    def plan(self, start: int, stop: int) -> list:
        assert 0 <= start <= stop <= self.size
        return []


@pytest.mark.slow
@pytest.mark.parametrize("name", lvmimages.NAMES)
def test_damage_costs_volumes_and_nothing_else(recorded, name: str) -> None:
    mutations(recorded(name), range(300))


@pytest.mark.slow
def test_the_contract_of_volumes(recorded) -> None:
    group = recorded("linear")
    table, _ = opened(group.readers())
    truth = {v.slot: (0, v.stop) for v in table.volumes if v.kind is SlotKind.ALLOCATED}
    check_volumes("lvm2", group.disks["a"], truth, options=FINAL, verified=True)
