"""Arrays of md as a Linux guest made and read them: see tests/guest/recipes/md*.sh."""

from __future__ import annotations

import hashlib
import struct
import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.block.codecs import decode
from imgfs.block.hostfile import HostFile
from imgfs.block.pieces import Coded, Lost, Stored, Zeros
from imgfs.errors import EvidenceError, Malformed, NeedMembers, NotMine, NotSupported
from imgfs.model import VolumeTable
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.volumes import check_volumes
from imgfs.worker import wire
from imgfs.worker.checks import check_opened
from tests.guest.arrays import load
from tests.guest.pattern import data

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORDED = Path(__file__).parent.parent / "recorded"
FINAL = Options(final=True)
BLOCK = 4096
LOSES = {0: 0, -1: 0, 4: 1, 5: 1, 6: 2}


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    """Return (members, truth) of every recorded array."""
    found = {}
    for name in ("md", "md-five", "md-six", "md-states", "md-unfinished", "md-dirty"):
        found |= load(RECORDED / f"{name}.xz", tmp_path_factory.mktemp(name))
    return found


def named(recording: str) -> list[str]:
    """Return the arrays of a recording, for parameters."""
    import json
    import lzma

    head = lzma.decompress((RECORDED / f"{recording}.xz").read_bytes()).partition(b"\n")[0]
    return sorted(json.loads(head)["truth"])


def opened(paths: Sequence[Path], options: Options = FINAL) -> VolumeTable:
    """Open members together, the first of them as the source."""
    readers = [FileReader(path) for path in paths]
    readers[0].others = readers[1:]
    table = discover()["md"].open(readers[0], options)
    assert isinstance(table, VolumeTable)
    sizes = [reader.size for reader in readers]
    reply = wire.OpenReply(opened=table)
    wire.encode(reply)
    check_opened(reply, sizes)
    return table


def contents(table: VolumeTable, paths: Sequence[Path], volume: int = 0) -> list[bytes | None]:
    """Return the blocks of a volume; None: lost."""
    files = [HostFile.open(path) for path in paths]
    try:
        source = build(table.layouts[: table.volumes[volume].layout + 1], files, "test")
        return [
            resolved(source.plan(at, min(at + BLOCK, source.size))) for at in range(0, source.size, BLOCK)
        ]
    finally:
        for file in files:
            file.close()


def resolved(pieces) -> bytes | None:
    out = b""
    for piece in pieces:
        match piece:
            case Lost():
                return None
            case Zeros(length):
                out += bytes(length)
            case Stored(file, offset, length):
                out += file.read(offset, length)
            case Coded(unit, skip, length):
                stored = resolved(unit.pieces)
                assert stored is not None, "a sum of what is lost"
                out += bytes(decode(unit.codec, memoryview(stored), unit.coded, unit.length))[
                    skip : skip + length
                ]
    return out


def digest(blocks: Sequence[bytes | None]) -> str:
    assert None not in blocks, "some blocks are lost"
    return hashlib.sha256(b"".join(block for block in blocks if block is not None)).hexdigest()


def check(table: VolumeTable, paths: Sequence[Path], truth) -> None:
    """Compare the whole array with what the guest read."""
    assert table.volumes[0].stop == truth["size"]
    assert digest(contents(table, paths)) == truth["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for which in ("md", "md-five", "md-six") for name in named(which)])
def test_every_array_reads_as_the_kernel_reads_it(arrays, name: str) -> None:
    paths, truth = arrays[name]
    table = opened(paths)
    wanted = -1 if len(table.volumes) == 2 else 0  # the guest was told that RAID 0 is the alternate one
    assert table.volumes[wanted].stop == truth["size"]
    assert digest(contents(table, paths, wanted)) == truth["sha256"]
    detail = truth["detail"]
    assert table.uuid == detail["UUID"].split()[0]
    assert table.version == detail["Version"]
    assert table.volumes[0].unique_id == table.uuid
    assert detail["Raid Level"] == table.volumes[0].type_name.split()[0]
    if "Name" in detail:
        assert table.label == detail["Name"].split()[0].partition(":")[2] == name
    if "Layout" in detail and "original" not in detail["Layout"]:
        assert detail["Layout"].removeprefix("-") in table.volumes[0].type_name or detail["Layout"] in (
            "alternate",
            "-unknown-",
        )
    assert opened([*paths[1:], paths[0]]).uuid == table.uuid
    check_order(paths, truth, wanted)


def check_order(paths: list[Path], truth, wanted: int) -> None:
    """The order in which members come does not matter."""
    turned = [*paths[1:], paths[0]]
    assert digest(contents(opened(turned), turned, wanted)) == truth["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for which in ("md", "md-five", "md-six") for name in named(which)])
def test_what_members_are_missing_is_solved_or_lost_and_never_wrong(arrays, name: str) -> None:
    paths, truth = arrays[name]
    level = int(opened(paths).volumes[0].type_id)
    for gone in (1, 2, 3):
        for missing in combinations(range(len(paths)), gone):
            kept = [path for number, path in enumerate(paths) if number not in missing]
            if not kept:
                continue
            try:
                table = opened(kept)
            except Malformed as why:
                assert level == 0
                assert "depends on its size" in str(why)
                continue
            if level == -1:
                check_parts(table, kept, name)
                continue
            assert level != 0, "nobody knows how large the missing member was"
            blocks = contents(table, kept, -1)
            expected = data(name, 0, truth["size"])
            for number, block in enumerate(blocks):
                assert block in (None, expected[number * BLOCK :][: len(block or b"")])
            there = sum(block is not None for block in blocks)
            if gone <= LOSES.get(level, 0) or level == 1 or (level == 10 and gone == 1):
                assert there == len(blocks), f"{missing} missing"
                assert len(blocks) == truth["size"] // BLOCK
            assert any(note.startswith("missing: ") for note in table.notes)


def check_parts(table: VolumeTable, paths: Sequence[Path], name: str) -> None:
    """Each part of a linear array continues where some block of the array is."""
    whole = data(name, 0, 1 << 20)
    for number, _ in enumerate(table.volumes):
        assert b"".join(block or b"lost" for block in contents(table, paths, number)) in whole


@pytest.mark.parametrize("name", named("md-states"))
def test_failed_members_are_left_out_and_bad_blocks_avoided(arrays, name: str) -> None:
    paths, truth = arrays[name]
    table = opened(paths)
    check(table, paths, truth)
    said = " ".join(table.notes)
    if name.startswith("stale"):
        assert "stale, left out: " in said
        assert "missing: member" in said
    elif name.startswith("bad"):
        assert said.count("ranges of bad blocks") == 2
    else:
        assert {"spare5": "left out", "journal5": "the journal"}[name] in said


@pytest.mark.parametrize("name", ["bad1", "bad5", "bad10"])
def test_bad_blocks_nobody_else_has_are_lost_and_nothing_more(arrays, name: str) -> None:
    paths, truth = arrays[name]
    expected = data(name, 0, truth["size"])
    for gone in range(len(paths)):
        kept = [path for number, path in enumerate(paths) if number != gone]
        blocks = contents(opened(kept), kept)
        for number, block in enumerate(blocks):
            assert block in (None, expected[number * BLOCK :][:BLOCK])
        assert sum(block is None for block in blocks) <= 12


def test_a_stale_member_alone_is_what_it_was(arrays) -> None:
    paths, truth = arrays["stale1"]
    table = opened(paths[1:])
    assert b"".join(contents(table, paths[1:])) == data("old", 0, truth["size"])


UNFINISHED = named("md-unfinished")


@pytest.mark.parametrize("name", [name for name in UNFINISHED if name not in ("place5", "up6", "grow10")])
def test_recovery_and_reshape_half_way_read_as_the_kernel_reads_them(arrays, name: str) -> None:
    paths, truth = arrays[name]
    table = opened(paths)
    check(table, paths, truth)
    said = " ".join(table.notes)
    kinds = {"half5": "recovered up to", "replace5": "another copy", "sync6": "in sync up to byte"}
    assert kinds.get(name, "reshape in progress") in said


def test_copies_half_way_through_a_reshape_are_what_was_written(arrays) -> None:
    """The guest's own reading of this one is not: it is no witness here."""
    paths, truth = arrays["grow10"]
    table = opened(paths)
    assert any("up to byte 327680" in note for note in table.notes)
    for kept in (paths, *(paths[:gone] + paths[gone + 1 :] for gone in range(5))):
        assert b"".join(contents(opened(kept), kept)) == data("grow10", 0, truth["size"])


@pytest.mark.parametrize("name", ["grow5", "shrink5", "offset5", "old5", "less5"])
def test_a_member_missing_during_a_reshape_is_solved_in_both_shapes(arrays, name: str) -> None:
    paths, truth = arrays[name]
    for gone in range(len(paths)):
        kept = [path for number, path in enumerate(paths) if number != gone]
        check(opened(kept), kept, truth)


@pytest.mark.parametrize("name", ["place5", "up6"])
def test_what_is_reshaped_in_place_is_given_as_far_as_it_got(arrays, name: str) -> None:
    paths, truth = arrays[name]
    blocks = contents(opened(paths), paths)
    expected = data(name, 0, truth["size"])
    there = sum(block is not None for block in blocks)
    assert 0 < there < len(blocks) == truth["size"] // BLOCK
    for number, block in enumerate(blocks):
        assert block == (expected[number * BLOCK :][:BLOCK] if number < there else None)


def test_parity_that_was_never_brought_in_sync_solves_nothing(arrays) -> None:
    paths, truth = arrays["sync6"]
    whole = contents(opened(paths), paths)
    assert digest(whole) == truth["sha256"]
    for gone in range(len(paths)):
        kept = [path for number, path in enumerate(paths) if number != gone]
        blocks = contents(opened(kept), kept)
        assert all(block in (None, there) for block, there in zip(blocks, whole, strict=True))
        assert None in blocks
        assert None not in blocks[: len(blocks) // 8]


@pytest.mark.parametrize(
    ("name", "sure"), [("dirty5", 180), ("dirty6", 184), ("dirty09", 120), ("dirty4", 64)]
)
def test_parity_of_an_array_nobody_shut_down_counts_where_its_bitmap_says_so(arrays, name, sure) -> None:
    paths, truth = arrays[name]
    whole = opened(paths)
    check(whole, paths, truth)
    assert any("not shut down cleanly" in note for note in whole.notes)
    expected = data(name, 0, truth["size"])
    for gone in range(len(paths)):
        kept = [path for number, path in enumerate(paths) if number != gone]
        blocks = contents(opened(kept), kept)
        for number, block in enumerate(blocks):
            assert block in (None, expected[number * BLOCK :][:BLOCK])
        there = sum(block is not None for block in blocks)
        assert sure <= there
        assert there < len(blocks) or name == "dirty4"  # its parity is all that the last one holds


def test_copies_of_an_array_nobody_shut_down_are_read(arrays) -> None:
    paths, truth = arrays["dirty10"]
    for gone in range(len(paths)):
        kept = [path for number, path in enumerate(paths) if number != gone]
        check(opened(kept), kept, truth)


def test_members_wait_for_each_other(arrays) -> None:
    paths, truth = arrays["fivels"]
    with pytest.raises(NeedMembers) as need:
        opened(paths[:1], Options())
    assert (need.value.kind, need.value.set_id) == ("md", truth["detail"]["UUID"].split()[0])
    assert (need.value.have, need.value.of) == (1, 4)
    assert opened(paths, Options()).volumes


def test_strangers_are_left_out_and_said(arrays) -> None:
    paths, truth = arrays["fivels"]
    others, _ = arrays["fivers"]
    for mixed in ([*paths, others[0]], [others[0], *paths]):
        table = opened(mixed)
        check(table, mixed, truth)
        assert any("another array" in note for note in table.notes)


def test_two_images_of_one_member_are_one(arrays) -> None:
    paths, truth = arrays["fivels"]
    twice = [paths[0], *paths]
    table = opened(twice)
    check(table, twice, truth)
    assert any("another copy of member 0" in note for note in table.notes)


def test_a_superblock_of_a_big_endian_machine(arrays, tmp_path: Path) -> None:
    paths, truth = arrays["five09"]
    turned = []
    for path in paths:
        raw = bytearray(path.read_bytes())
        at = (len(raw) // 65536 - 1) * 65536
        words = list(struct.unpack("<1024I", raw[at : at + 4096]))
        words[39], words[40] = words[40], words[39]
        raw[at : at + 4096] = struct.pack(">1024I", *words)
        turned.append(tmp_path / path.name)
        turned[-1].write_bytes(raw)
    table = opened(turned)
    check(table, turned, truth)
    assert table.uuid == truth["detail"]["UUID"].split()[0]
    assert any("big-endian" in note for note in table.notes)


def test_an_image_that_ends_early_loses_what_it_lacks(arrays, tmp_path: Path) -> None:
    paths, truth = arrays["fivels"]
    cut = tmp_path / "cut"
    cut.write_bytes(paths[1].read_bytes()[: 200 * 1024])
    some = [paths[0], cut, *paths[2:]]
    table = opened(some)
    blocks = contents(table, some)
    expected = data("fivels", 0, truth["size"])
    assert all(block in (None, expected[n * BLOCK :][:BLOCK]) for n, block in enumerate(blocks))
    assert any("ends before" in note for note in table.notes)


def test_a_superblock_at_the_end_of_a_disk_may_be_that_of_its_last_slot(arrays) -> None:
    paths, _ = arrays["mirror09"]
    member = paths[0].read_bytes()
    boot = bytearray(1 << 16)
    struct.pack_into("<4xB3xII", boot, 446, 0xFD, 128, len(member) // 512)
    boot[510:512] = b"\x55\xaa"
    with pytest.raises(NotMine):
        discover()["md"].open(MemoryReader(bytes(boot) + member), FINAL)
    assert discover()["md"].open(MemoryReader(member), FINAL).volumes
    later = bytearray(arrays["mirror10"][0][0].read_bytes())
    with pytest.raises(NotMine):  # version 1 says where it lies
        discover()["md"].open(MemoryReader(bytes(65536) + later), FINAL)
    assert discover()["md"].open(MemoryReader(bytes(later)), FINAL).volumes
    later[446:510] = bytes(64)
    struct.pack_into("<B3xB3xII", later, 446, 0, 0x83, 8, len(later) // 512 - 8)
    later[510:512] = b"\x55\xaa"
    with pytest.raises(NotMine):  # what a slot covers is a remnant
        discover()["md"].open(MemoryReader(bytes(later)), FINAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mirror09", "mirror10", "mirror12", "five09", "fivels", "tenn2x3", "grow5"])
def test_damage_of_a_member_is_refused_or_moves_nothing(arrays, name: str) -> None:
    paths, truth = arrays[name]
    check_volumes("md", paths[0], {1: (0, truth["size"])}, options=FINAL, verified=True)


def resealed(raw: bytearray, at: int, place: int, new: bytes) -> bytes:
    """Return a member whose superblock of version 1 holds other bytes, its checksum right."""
    raw[at + place : at + place + len(new)] = new
    (most,) = struct.unpack_from("<I", raw, at + 220)
    raw[at + 216 : at + 220] = bytes(4)
    covered = bytes(raw[at : at + 256 + 2 * min(most, 1920)])
    total = sum(struct.unpack(f"<{len(covered) // 4}I", covered[: len(covered) // 4 * 4]))
    total += struct.unpack("<H", covered[-2:])[0] if len(covered) % 4 else 0
    struct.pack_into("<I", raw, at + 216, (total & 0xFFFF_FFFF) + (total >> 32) & 0xFFFF_FFFF)
    return bytes(raw)


# place and length of what is said of shape, size, places, progress, bad blocks and roles
FIELDS = [
    *((8, 4), (72, 4), (76, 4), (80, 8), (88, 4), (92, 4), (100, 4), (104, 8), (112, 4), (116, 4), (120, 4)),
    *((124, 4), (128, 8), (136, 8), (152, 8), (160, 4), (184, 1), (185, 1), (186, 2), (188, 4), (200, 8)),
    *((208, 8), (220, 4), (256, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fivels", "sixddf-N-restart", "tenf2x4", "zones1", "linear12", "mirror12", "bad5", "grow5"]
)
def test_hostile_numbers_are_refused_or_stay_within_their_members(arrays, name: str) -> None:
    paths, _ = arrays[name]
    raw = paths[0].read_bytes()
    others = [path.read_bytes() for path in paths[1:]]
    values = (
        b"\xff" * 8,
        b"\0" * 8,
        b"\1" + bytes(7),
        b"\xff" * 3 + b"\x7f" + b"\xff" * 3 + b"\x7f",
        b"\x00\x10" + bytes(6),
    )
    at = 4096
    for place, length in FIELDS:
        for value in values:
            for features in (None, 0x7FF, 4):
                member = bytearray(raw)
                if features is not None:
                    struct.pack_into("<I", member, at + 8, features)
                attempt(resealed(member, at, place, value[:length]), others)
                attempt(resealed(bytearray(member), at, 200, b"\xff" * 6 + bytes(2)), others)


def attempt(member: bytes, others: list[bytes]) -> None:
    """Open, and accept what the daemon would accept."""
    readers = [MemoryReader(other) for other in others]
    reader = MemoryReader(member, others=readers)
    try:
        table = discover()["md"].open(reader, FINAL)
    except (EvidenceError, NotMine, NotSupported):
        return
    check_opened(wire.OpenReply(opened=table), [len(member), *map(len, others)])


def test_a_checksum_that_differs_is_malformed(arrays) -> None:
    raw = bytearray(arrays["fivels"][0][0].read_bytes())
    raw[4096 + 90] ^= 1
    with pytest.raises(Malformed, match="checksum"):
        discover()["md"].open(MemoryReader(bytes(raw)), FINAL)


def test_numbers_nobody_can_count_to_are_refused_at_once(arrays) -> None:
    others = [path.read_bytes() for path in arrays["grow5"][0]]
    for place, value in (
        (100, b"\xff" * 4),
        (112, b"\x00\x00\x00\xff"),
        (112, b"\xff\xff\xff\x7f"),
        (64, b"\xff" * 8),
    ):
        member = resealed(bytearray(others[0]), 4096, place, value)
        member = resealed(bytearray(member), 4096, 200, b"\xff" * 6 + bytes(2))
        begin = time.perf_counter()
        attempt(member, others[1:])
        assert time.perf_counter() - begin < 2


def test_the_boot_record_of_a_file_system_is_no_table(arrays) -> None:
    paths, _ = arrays["mirror09"]
    member = bytearray(paths[0].read_bytes())
    member[446:512] = b"\r\nPress any key to restart".ljust(64, b"!") + b"\x55\xaa"
    assert discover()["md"].open(MemoryReader(bytes(member)), FINAL).volumes
