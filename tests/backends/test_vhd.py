"""VHD: what qemu-img writes reads as what was converted; what it cannot write is composed here."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.testing.media import check_media
from tests.backends.diskimages import (
    MIB,
    contents,
    convert,
    holes,
    media,
    needs_qemu,
    qemu,
    run_count,
    sparse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SECTOR = 512
FREE = 0xFFFF_FFFF
EXACT = "subformat=dynamic,force_size=on"


def checksummed(raw: bytes, at: int) -> bytes:
    zeroed = raw[:at] + bytes(4) + raw[at + 4 :]
    total = 0
    for byte in zeroed:
        total += byte
    return raw[:at] + struct.pack(">I", ~total & 0xFFFF_FFFF) + raw[at + 4 :]


OWN = bytes(range(16))


def footer(
    size: int,
    kind: int,
    *,
    creator: bytes = b"win ",
    header: int = 512,
    chs: bytes = bytes(4),
    own: bytes = OWN,
    created: int = 7,
) -> bytes:
    raw = b"conectix" + struct.pack(
        ">IIQI4sI4sQQ", 2, 0x10000, header, created, creator, 1, b"Wi2k", size, size
    )
    return checksummed((raw + chs + struct.pack(">II", kind, 0) + own).ljust(512, b"\0"), 64)


def dynamic(
    size: int,
    blocks: Mapping[int, bytes],
    *,
    block: int = 2 * MIB,
    kind: int = 3,
    bitmaps: Mapping[int, bytes] | None = None,
    parent: str = "",
    old: bool = False,
    own: bytes = OWN,
    created: int = 7,
    below: tuple[bytes, int] = (bytes(16), 0),
    locators: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return a dynamic or differencing disk; bitmaps not given have all bits set.

    ``below`` is the id of the parent and when it was modified; ``locators`` map platforms to paths.
    """
    count = -(-size // block)
    table = [FREE] * count
    bitmap = -(-block // SECTOR // 8 // 512) * 512
    places_at = (1536 + 4 * count + 511) // 512 * 512
    at = places_at + 512 * len(locators or {})
    data = b""
    for number, content in blocks.items():
        table[number] = (at + len(data)) // 512
        held = (bitmaps or {}).get(number, b"\xff" * max(block // SECTOR // 8, 1))
        data += held.ljust(bitmap, b"\0") + content.ljust(block, b"\0")
    header = b"cxsparse" + struct.pack(">QQIIII16sII", 2**64 - 1, 1536, 0x10000, count, block, 0, *below, 0)
    header += parent.encode("utf-16-be").ljust(512, b"\0")
    for number, (platform, path) in enumerate((locators or {}).items()):
        header += struct.pack(">4sIIIQ", platform, 512, len(path), 0, places_at + 512 * number)
    header = checksummed(header.ljust(1024, b"\0"), 36)
    end = footer(size, kind, own=own, created=created)
    entries = struct.pack(f">{count}I", *table).ljust(places_at - 1536, b"\xff")
    entries += b"".join(path.ljust(512, b"\0") for path in (locators or {}).values())
    return end + header + entries + data + (end[:511] if old else end)


def naive(image: bytes) -> list[bytes | None]:
    """Return the sectors of a disk by the specification's formula; None: the parent holds it."""
    size, kind = struct.unpack_from(">Q", image, 48)[0], struct.unpack_from(">I", image, 60)[0]
    table, _, _, block = struct.unpack_from(">QIII", image, 512 + 16)
    per = block // SECTOR
    sectors: list[bytes | None] = []
    for sector in range(size // SECTOR):
        (entry,) = struct.unpack_from(">I", image, table + sector // per * 4)
        if entry == FREE:
            sectors.append(bytes(SECTOR) if kind == 3 else None)
            continue
        inside = sector % per
        held = image[entry * SECTOR + inside // 8] & (0x80 >> inside % 8)
        at = (entry + -(-per // 8 // SECTOR) + inside) * SECTOR
        sectors.append(image[at : at + SECTOR] if held or kind == 3 else None)
    return sectors


@needs_qemu
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("force", ["on", "off"])
@pytest.mark.parametrize("size", [SECTOR * 68, 3 * MIB + SECTOR, 21 * MIB])
def test_what_qemu_writes_reads_as_what_was_converted(subformat, force, size, tmp_path) -> None:
    data = sparse(size)
    image = convert(tmp_path, data, "vpc", f"subformat={subformat},force_size={force}")
    qemu("convert", "-f", "vpc", "-O", "raw", image, tmp_path / "truth.raw")  # rounded up to a geometry
    truth = (tmp_path / "truth.raw").read_bytes()
    assert truth.startswith(data)
    assert contents("vhd", image) == truth
    claim = media("vhd", image)
    assert not claim.lost
    assert claim.version == f"VHD 1.0 {subformat}"
    assert (holes(claim) > 0) == (subformat == "dynamic" and size > 4 * MIB)


@needs_qemu
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_the_contract_of_media(subformat, tmp_path) -> None:
    data = sparse(5 * MIB + SECTOR)
    image = convert(tmp_path, data, "vpc", f"subformat={subformat},force_size=on")
    check_media("vhd", {"disk.vhd": image.read_bytes()}, data, seeds=200)


def test_the_contract_of_media_for_a_differencing_disk_of_whole_blocks() -> None:
    data = random.Random(3).randbytes(3 * 8192)
    blocks = {n: data[n * 8192 : n * 8192 + 8192] for n in (2, 0, 1)}
    check_media("vhd", {"a.avhd": dynamic(len(data), blocks, block=8192, kind=4)}, data, seeds=200)


@needs_qemu
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_a_footer_that_is_damaged_is_replaced_by_its_copy(kind, tmp_path) -> None:
    data = sparse(5 * MIB)
    image = convert(tmp_path, data, "vpc", f"subformat={kind},force_size=on").read_bytes()
    for at in (len(image) - 512, len(image) - 450, len(image) - 20):
        bad = bytearray(image)
        bad[at] ^= 1
        if kind == "fixed":  # there is no copy: it is read as raw
            with pytest.raises((Malformed, NotMine)):
                media("vhd", bytes(bad))
        else:
            assert contents("vhd", bytes(bad)) == data
            assert any("copy at the start is used" in note for note in media("vhd", bytes(bad)).notes)
    if kind == "dynamic":
        assert contents("vhd", image[:-512]) == data
        bad = bytearray(image)
        bad[49] ^= 1
        assert contents("vhd", bytes(bad)) == data
        assert any("start is missing or damaged" in note for note in media("vhd", bytes(bad)).notes)


def test_footers_of_511_bytes_are_read() -> None:
    data = sparse(3 * MIB)
    assert contents("vhd", data + footer(len(data), 2)[:511]) == data
    blocks = {0: data[: 2 * MIB], 1: data[2 * MIB :]}
    image = dynamic(len(data), blocks, old=True)
    assert contents("vhd", image) == data
    assert contents("vhd", b"\0" * 512 + image[512:]) == data
    assert not media("vhd", image).notes


@pytest.mark.parametrize("block", [512, 4096, 512 << 10, 2 * MIB])
def test_dynamic_disks_of_any_block_size_read_as_a_naive_reader_reads_them(block) -> None:
    size = 3 * max(block, 8192) + SECTOR * 3
    rng = random.Random(block)
    numbers = rng.sample(range(-(-size // block)), 3)
    bitmaps = {numbers[0]: bytes(max(block // SECTOR // 8, 1))}  # means nothing here
    image = dynamic(size, {n: rng.randbytes(block) for n in numbers}, block=block, bitmaps=bitmaps)
    assert contents("vhd", image) == b"".join(sector or b"" for sector in naive(image))


def test_sectors_of_a_differencing_disk_that_its_bitmaps_do_not_hold_are_lost() -> None:
    rng = random.Random(5)
    block, size = 64 << 10, 9 * (64 << 10) + 5 * SECTOR
    blocks = {n: rng.randbytes(block) for n in (8, 1, 2, 5, 9)}
    bitmaps = {1: rng.randbytes(16), 2: bytes(16), 5: b"\x80" + bytes(15), 8: bytes(15) + b"\x01", 9: b"\x5a"}
    image = dynamic(size, blocks, block=block, kind=4, bitmaps=bitmaps, parent="Basis Ä.vhd")
    truth = naive(image)
    assert contents("vhd", image) == b"".join(b"?" * SECTOR if s is None else s for s in truth)
    claim = media("vhd", image)
    assert sum(stop - start for start, stop, _ in claim.lost) == truth.count(None) * SECTOR
    assert any("Basis Ä.vhd" in note for note in claim.notes)
    assert claim.version == "VHD 1.0 differencing"


def test_blocks_behind_the_end_and_over_the_table_are_lost() -> None:
    image = bytearray(dynamic(8 * MIB, {0: b"a" * 2 * MIB, 1: b"b" * 2 * MIB}))
    struct.pack_into(">I", image, 1536 + 8, 0x00FF_FFFF)
    struct.pack_into(">I", image, 1536 + 12, 2)
    data = contents("vhd", bytes(image))
    assert data == b"a" * 2 * MIB + b"b" * 2 * MIB + b"?" * 4 * MIB
    assert [(start, stop) for start, stop, _ in media("vhd", bytes(image)).lost] == [
        (4 * MIB, 6 * MIB),
        (6 * MIB, 8 * MIB),
    ]
    cut = dynamic(4 * MIB, {0: b"a" * 2 * MIB, 1: b"b" * 2 * MIB})[: -(MIB + 512)]
    assert contents("vhd", cut) == b"a" * 2 * MIB + b"b" * MIB + b"?" * MIB


def test_a_header_with_a_wrong_checksum_is_used_when_all_it_says_fits() -> None:
    image = bytearray(dynamic(4 * MIB, {1: b"b" * 2 * MIB}))
    image[512 + 36] ^= 1
    assert contents("vhd", bytes(image)) == bytes(2 * MIB) + b"b" * 2 * MIB
    assert any("checksum" in note for note in media("vhd", bytes(image)).notes)
    struct.pack_into(">Q", image, 512 + 16, 0)
    with pytest.raises(Malformed):
        media("vhd", bytes(image))


def test_the_size_is_the_footers_and_what_the_geometry_makes_is_said() -> None:
    data = sparse(MIB)
    image = data + footer(len(data), 2, creator=b"vpc ", chs=struct.pack(">HBB", 29, 4, 17))
    assert contents("vhd", image) == data
    assert any("geometry makes 1009664 bytes" in note for note in media("vhd", image).notes)


def test_a_raw_disk_that_looks_like_a_vhd_is_none() -> None:
    fixed = bytes(MIB) + footer(MIB, 2)
    with pytest.raises(NotMine):
        media("vhd", bytes(4 * MIB) + fixed)  # the last thing on a larger disk
    with pytest.raises(NotMine):
        media("vhd", footer(MIB, 2) + bytes(MIB))
    with pytest.raises(EvidenceError):
        media("vhd", b"conectix" + bytes(MIB))
    with pytest.raises(NotMine):
        media("vhd", bytes(MIB))


def test_two_tebibytes_open_at_once(tmp_path) -> None:
    image = tmp_path / "large.vhd"
    size = 2040 << 30
    count = size // (2 * MIB)
    whole = dynamic(2 * MIB, {})
    header = bytearray(whole[512:1536])
    struct.pack_into(">I", header, 28, count)
    with image.open("wb") as file:
        file.write(footer(size, 3) + checksummed(bytes(header), 36) + b"\xff" * 4 * count + footer(size, 3))
    begin = time.monotonic()
    claim = media("vhd", image)
    assert time.monotonic() - begin < 1
    assert (run_count(claim), holes(claim)) == (1, size)


def test_a_differencing_disk_whose_footers_agree_on_a_wrong_checksum_is_read(corpus: Path) -> None:
    import lzma

    path = corpus / "corpus" / "log2timeline_dfvfs" / "image-differential.vhd.xz"
    image = lzma.decompress(path.read_bytes())
    claim = media("vhd", image)  # the checksums of its footers are wrong, and they agree
    assert any("both copies" in note for note in claim.notes)
    assert any("its parent is image.vhd" in note for note in claim.notes)
    truth = b"".join(b"?" * SECTOR if sector is None else sector for sector in naive(image))
    assert contents("vhd", image) == truth
