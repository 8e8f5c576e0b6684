"""VHDX: what qemu-img writes reads as what was converted; logs, parents and large sectors are composed."""

from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from imgfs.backends._crc32c import crc32c
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.testing.media import check_media
from tests.backends import vhdximages as vhdx
from tests.backends.diskimages import (
    MIB,
    contents,
    convert,
    holes,
    media,
    needs_qemu,
    qemu,
    read,
    run_count,
    sparse,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
KIB = 1 << 10
BAT_AT = 3 * MIB
DIRTY = 1200 * MIB


def test_the_checksum_is_the_one_of_rfc_3720() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == vhdx.crc(b"123456789") == 0xE3069283


@needs_qemu
@pytest.mark.parametrize(
    "options", ["subformat=dynamic", "subformat=fixed", "block_size=1M", "block_size=64M"]
)
@pytest.mark.parametrize("size", [512, 3 * MIB + 512, 70 * MIB])
def test_what_qemu_writes_reads_as_what_was_converted(options, size, tmp_path) -> None:
    data = sparse(size)
    image = convert(tmp_path, data, "vhdx", options)
    assert contents("vhdx", image) == data
    claim = media("vhdx", image)
    assert not claim.lost
    assert claim.sector == 512
    assert claim.version.startswith("VHDX 1 ")


@needs_qemu
@pytest.mark.parametrize("zeros", ["on", "off"])
def test_both_ways_to_say_zeros_are_holes(zeros, tmp_path) -> None:
    data = sparse(90 * MIB)
    image = convert(tmp_path, data, "vhdx", f"block_size=1M,block_state_zero={zeros}")
    assert contents("vhdx", image) == data
    assert holes(media("vhdx", image)) > 50 * MIB


@needs_qemu
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_the_contract_of_media(kind, tmp_path) -> None:
    data = sparse(5 * MIB + 512)
    image = convert(tmp_path, data, "vhdx", f"subformat={kind},block_size=1M")
    check_media("vhdx", {"disk.vhdx": image.read_bytes()}, data, seeds=200)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("parent", ["", "..\\basis.vhdx"])
def test_every_state_of_a_block_reads_as_the_format_says(sector, parent) -> None:
    rng = random.Random(sector)
    size = 9 * MIB - 4096
    noise = {n: rng.randbytes(MIB) for n in (0, 3, 5, 8)}
    states = {0: vhdx.PRESENT, 3: vhdx.PRESENT, 5: vhdx.PARTLY, 8: vhdx.PARTLY, 2: 1, 4: 2, 6: 3, 7: 4}
    per = MIB // sector
    bitmap = bytearray(rng.randbytes(9 * per // 8))
    bitmap[5 * per // 8] = 0b0000_0001  # the first bit is the least significant one
    blocks = {n: (state, noise.get(n, b"")) for n, state in states.items()}
    image = vhdx.compose(
        size, blocks, sector=sector, parent=parent, bitmaps={0: bytes(bitmap)} if parent else None
    )
    truth = bytearray()
    for at in range(0, size, sector):
        number, index = at // MIB, at // sector
        state = states.get(number, 0)
        stored = noise.get(number, b"")[at % MIB :][:sector]
        if state == vhdx.PRESENT:
            truth += stored
        elif state in {1, 2, 3} or (not state and not parent):
            truth += bytes(sector)
        elif state == vhdx.PARTLY and parent and bitmap[index // 8] >> index % 8 & 1:
            truth += stored
        else:
            truth += b"?" * sector
    assert contents("vhdx", image) == truth
    claim = media("vhdx", image)
    assert claim.sector == sector
    assert claim.lost
    assert any("basis.vhdx" in note for note in claim.notes) == bool(parent)


def test_entries_of_sector_bitmaps_lie_between_the_chunks() -> None:
    rng = random.Random(9)
    size = 9 << 30  # more than one chunk of 4 GiB
    blocks = {n: (vhdx.PRESENT, rng.randbytes(MIB)) for n in (0, 4095, 4096, 4097, 8191, 8192, 9215)}
    claim = media("vhdx", vhdx.compose(size, blocks))
    layout = claim.layouts[-1]
    assert [n // MIB for n in memoryview(layout.logical).cast("q")] == [0, 1, 4095, 4098, 8191, 8193, 9215]
    chunk = 1 << 20
    bitmaps = {0: b"\xff" * chunk, 1: b"\x0f" + bytes(chunk - 1)}
    partly = {n: (vhdx.PARTLY, content) for n, (_, content) in blocks.items() if n < 8192}
    claim = media("vhdx", vhdx.compose(size, partly, parent="p", bitmaps=bitmaps))
    held = size - sum(stop - start for start, stop, _ in claim.lost)
    assert held == 2 * MIB + 4 * 512


# --- the log ------------------------------------------------------------------------------------------
def dirty(*, wrap: bool = False, spoil: int = -1) -> tuple[dict[int, bytes], bytes]:
    """Return (the blocks of the disk, an image whose table is only right once its log is replayed)."""
    rng = random.Random(4)
    content = {n: rng.randbytes(MIB) for n in (0, 1, 700, 1100)}
    image = vhdx.compose(DIRTY, {n: (vhdx.PRESENT, data) for n, data in content.items()})
    pages = [image[BAT_AT + at : BAT_AT + at + 4096] for at in range(0, 12288, 4096)]
    stale = bytearray(image)
    stale[BAT_AT : BAT_AT + 4096] = bytes(4096)
    stale[BAT_AT + 4096 : BAT_AT + 8192] = rng.randbytes(4096)
    stale[BAT_AT + 8192 : BAT_AT + 16384] = rng.randbytes(8192)
    at = vhdx.LOG_SIZE - 12288 if wrap else 4096 * 5
    total = len(image)
    first = vhdx.entry(2**32 + 1, [(BAT_AT + 8192, 8192), (BAT_AT, rng.randbytes(4096))], tail=at, size=total)
    second = vhdx.entry(
        2**32 + 2,
        [(BAT_AT, pages[0]), (BAT_AT + 4096, pages[1]), (BAT_AT + 8192, pages[2])],
        tail=at,
        size=total,
    )
    old = vhdx.entry(9, [(BAT_AT, rng.randbytes(4096))], tail=4096 * 60, size=total)
    other = vhdx.entry(2**40, [(BAT_AT, 4096)], tail=4096 * 70, size=total, guid=bytes(15) + b"\1")
    ring = [(4096 * 60, old), (4096 * 70, other), (at, first), ((at + len(first)) % vhdx.LOG_SIZE, second)]
    dirty = bytearray(vhdx.with_log(bytes(stale), ring))
    if spoil >= 0:
        dirty[vhdx.LOG_AT + (at + spoil) % vhdx.LOG_SIZE] ^= 1
    return content, bytes(dirty)


def differs(image: bytes, content: dict[int, bytes]) -> bool:
    """Compare a disk with its blocks; everything else is holes."""
    claim = media("vhdx", image)
    source = build(claim.layouts, [Memory(image)], "vhdx")
    wanted = [(number * MIB, data) for number, data in content.items()]
    wrong = any(read(source, at, at + MIB) != data for at, data in wanted)
    return wrong or holes(claim) != DIRTY - len(content) * MIB


@pytest.mark.parametrize("wrap", [False, True])
def test_a_log_that_was_not_written_back_is_honoured(wrap) -> None:
    content, image = dirty(wrap=wrap)
    assert not differs(image, content)
    assert any("replayed in memory: 2 entries" in note for note in media("vhdx", image).notes)


@needs_qemu
@pytest.mark.parametrize("wrap", [False, True])
def test_qemu_replays_the_log_to_the_same_disk(wrap, tmp_path) -> None:
    content, image = dirty(wrap=wrap)
    path, truth = tmp_path / "dirty.vhdx", tmp_path / "truth.raw"
    path.write_bytes(image)
    qemu("check", "-r", "all", "-f", "vhdx", path)
    assert path.read_bytes() != image
    with truth.open("wb") as file:
        file.truncate(DIRTY)
        for number, data in content.items():
            file.seek(number * MIB)
            file.write(data)
    assert "identical" in qemu("compare", "-f", "vhdx", "-F", "raw", path, truth)
    assert not differs(image, content)
    assert not differs(path.read_bytes(), content)


@pytest.mark.parametrize("spoil", [8192, 8192 + 70, 8192 + 4096 * 2 + 100])
def test_an_entry_that_was_torn_leaves_the_sequence_before_it(spoil) -> None:
    content, image = dirty(spoil=spoil)
    assert any("replayed in memory: 1 entries" in note for note in media("vhdx", image).notes)
    assert differs(image, content)


def test_a_log_without_a_complete_sequence_opens_nothing() -> None:
    image = bytearray(vhdx.compose(4 * MIB, {0: (vhdx.PRESENT, b"a")}))
    with pytest.raises(Malformed, match="no complete sequence"):
        media("vhdx", vhdx.with_log(bytes(image), []))
    torn = vhdx.entry(5, [(BAT_AT, 4096)], tail=4096 * 9, size=len(image))
    with pytest.raises(Malformed, match="no complete sequence"):
        media("vhdx", vhdx.with_log(bytes(image), [(0, torn)]))


def test_the_log_may_move_payload_and_extend_the_file() -> None:
    rng = random.Random(6)
    content, patch = rng.randbytes(MIB), rng.randbytes(4096)
    image = vhdx.compose(4 * MIB, {1: (vhdx.PRESENT, content)})
    at = len(image) - MIB
    table = bytearray(image[BAT_AT : BAT_AT + 4096])
    struct.pack_into("<Q", table, 16, len(image) | vhdx.PRESENT)
    updates = [(at + 8192, patch), (at + 65536, 12288), (at + 69632, patch), (BAT_AT, bytes(table))]
    raw = vhdx.entry(3, updates, tail=0, size=len(image), last=len(image) + MIB)
    truth = bytearray(bytes(MIB) + content + bytes(2 * MIB))
    truth[MIB + 8192 : MIB + 12288] = patch
    truth[MIB + 65536 : MIB + 77824] = bytes(4096) + patch + bytes(4096)
    image = vhdx.with_log(image, [(0, raw)])
    assert contents("vhdx", image) == truth
    assert not media("vhdx", image).lost
    check_media("vhdx", {"disk.vhdx": image}, bytes(truth), seeds=100)


def test_a_hostile_log_ends_in_time() -> None:
    image = vhdx.compose(4 * MIB, {0: (vhdx.PRESENT, b"a")})
    begin = time.monotonic()
    claims = [
        (at, struct.pack("<4sIIIQII", b"loge", 1, MIB, 0, 1, 0, 0) + vhdx.LOG_GUID + bytes(4096 - 48))
        for at in range(0, MIB, 4096)
    ]
    with pytest.raises(Malformed):
        media("vhdx", vhdx.with_log(image, claims))
    assert time.monotonic() - begin < 4


def test_a_log_of_nothing_but_zeros_ends_in_time() -> None:
    image = vhdx.compose(4 * MIB, {0: (vhdx.PRESENT, b"a")})
    updates = [(MIB * 64 + 8192 * (n * 7919 % 30_000), 4096) for n in range(30_000)]
    image = vhdx.with_log(image, [(0, vhdx.entry(3, updates, tail=0, size=len(image)))])
    begin = time.monotonic()
    assert contents("vhdx", image) == b"a".ljust(4 * MIB, b"\0")
    assert time.monotonic() - begin < 4


# --- damage -------------------------------------------------------------------------------------------
def test_each_structure_that_is_there_twice_may_be_damaged_once() -> None:
    image = vhdx.compose(4 * MIB, {0: (vhdx.PRESENT, b"a"), 3: (vhdx.PRESENT, b"b")}, sequences=(6, 5))
    truth = contents("vhdx", image)
    for pair in ((64, 128), (192, 256)):
        for at in pair:
            bad = bytearray(image)
            bad[at * KIB + 100] ^= 1
            assert contents("vhdx", bytes(bad)) == truth
            if at != 256:  # the second copy of the region table is not looked at while the first is sound
                assert any(f"at {at * KIB} is damaged" in note for note in media("vhdx", bytes(bad)).notes)
        bad = bytearray(image)
        for at in pair:
            bad[at * KIB + 100] ^= 1
        with pytest.raises(Malformed):
            media("vhdx", bytes(bad))


def test_blocks_behind_the_end_or_over_structures_are_lost() -> None:
    image = bytearray(vhdx.compose(4 * MIB, {n: (vhdx.PRESENT, bytes([n])) for n in range(4)}))
    struct.pack_into("<Q", image, BAT_AT, 2 * MIB | vhdx.PRESENT)
    struct.pack_into("<Q", image, BAT_AT + 8, 900 * MIB | vhdx.PRESENT)
    assert contents("vhdx", bytes(image[: -MIB // 2])) == (
        b"?" * 2 * MIB + b"\2".ljust(MIB, b"\0") + b"\3".ljust(MIB // 2, b"\0") + b"?" * (MIB // 2)
    )


def test_what_must_be_understood_and_is_not_is_refused() -> None:
    image = vhdx.compose(4 * MIB, {})
    bad = bytearray(image)
    bad[2 * MIB + 32] ^= 1
    with pytest.raises(NotSupported):
        media("vhdx", bytes(bad))
    with pytest.raises(NotMine):
        media("vhdx", b"VHDXfile" + image[8:])
    with pytest.raises(EvidenceError):
        media("vhdx", b"vhdxfile" + bytes(2 * MIB))  # a raw disk that starts like one


def test_sixty_four_tebibytes_open_at_once(tmp_path: Path) -> None:
    image = tmp_path / "large.vhdx"
    size, block = 64 << 40, MIB
    entries = (1 << 26) + (1 << 14)
    bat_size = -(-8 * entries // MIB) * MIB
    small = bytearray(vhdx.compose(MIB, {}, block=block))
    for at in (192, 256):
        small[at * KIB : (at + 64) * KIB] = vhdx.regions(BAT_AT, bat_size, 2 * MIB)
    small[2 * MIB : 3 * MIB] = vhdx.metadata(size, block, 512)
    with image.open("wb") as file:
        file.write(small)
        file.truncate(BAT_AT + bat_size)
    claim = media("vhdx", image)  # 512 MiB of table: the host reads them once
    begin = time.monotonic()
    assert media("vhdx", image) == claim
    assert time.monotonic() - begin < 1
    assert (run_count(claim), holes(claim)) == (1, size)
