"""EWF2: composed images read as libewf and a naive reader read them; damage costs its range only."""

from __future__ import annotations

import hashlib
import io
import random
import re
import struct
import time

import pytest

from imgfs.backends import Options
from imgfs.backends.ewf2 import open_ewf2, siblings
from imgfs.block.build import build
from imgfs.block.codecs import decode
from imgfs.block.memory import Memory
from imgfs.errors import BadUnit, Malformed, NotMine, NotSupported
from imgfs.model import PACKED_PLAIN, Codec, Linear, Media
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import _contents, check_media
from tests.backends import ewf2images
from tests.backends.ewf2images import SECTOR, Writer, headless, image, info, naive
from tests.conftest import shared
from tests.peers import watched

pyewf = pytest.importorskip("pyewf")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
UNIT = 8 * SECTOR
SIZE = 61 * UNIT + 3 * SECTOR


def media_bytes(size: int = SIZE) -> bytes:
    """Return text, noise, zeros and patterns, chunk by chunk."""
    rng = random.Random(7)
    kinds = [
        lambda: (b"line %d of a log\n" % rng.randrange(10**6)) * UNIT,
        lambda: rng.randbytes(UNIT),
        lambda: bytes(UNIT),
        lambda: rng.randbytes(8) * UNIT,
        lambda: b"\xff" * UNIT,
    ]
    return b"".join(kinds[rng.randrange(5)]()[:UNIT] for _ in range(-(-size // UNIT)))[:size]


VARIANTS = [
    (1, ["coded"]),
    (1, ["plain"]),
    (1, ["coded", "plain", "fill", "coded"]),
    (1, ["fill"]),
    (2, ["coded"]),
    (2, ["plain", "fill", "coded"]),
]


def opened(files: list[bytes]) -> tuple[Media, bytes]:
    readers = [MemoryReader(data, name=f"image.Ex{n:02d}") for n, data in enumerate(files, 1)]
    readers[0].others = readers[1:]
    media = open_ewf2(readers[0], Options())
    return media, readers[0].table


def contents(files: list[bytes]) -> tuple[Media, list[tuple[int, bytes | None]]]:
    media, table = opened(files)
    source = build(media.layouts, [Memory(data) for data in files], "x", table=memoryview(table))
    return media, list(_contents(source))


def read(files: list[bytes]) -> bytes:
    return b"".join(data or b"" for _, data in contents(files)[1])


def peer(files: list[bytes]) -> bytes:
    handle = pyewf.handle()
    handle.open_file_objects([io.BytesIO(data) for data in files])
    return handle.read_buffer_at_offset(handle.get_media_size(), 0)


@pytest.mark.parametrize("method, hows", VARIANTS)
@pytest.mark.parametrize("per_segment", [1000, 20])
def test_composed_images_read_as_libewf_reads_them(method, hows, per_segment) -> None:
    data = media_bytes()
    files = image(data, hows, method=method, per_segment=per_segment)
    assert naive(files, UNIT, len(data)) == data
    if method == 1:  # libewf as its wheel is built reads no bzip2
        assert peer(files) == data
    media, _ = opened(files)
    assert read(files) == data
    assert not media.lost
    assert not media.notes
    assert media.digests == {"md5": hashlib.md5(data).hexdigest(), "sha1": hashlib.sha1(data).hexdigest()}  # noqa: S324
    assert media.metadata == {
        "serial_number": "S\t1",
        "model": "Model",
        "description": "a name",
        "case_number": "case 7",
        "examiner": "examiner",
        "system_date": "2006-03-12T11:44:05+00:00",
        "set": ewf2images.SET.hex(),
    }


@pytest.mark.parametrize("hows", [["headless"], ["headless", "plain"]])
def test_bzip2_blocks_without_their_stream_are_read(hows) -> None:
    data = media_bytes()
    assert read(image(data, hows, method=2)) == data


def test_chunks_without_checksum_are_read_where_they_lie() -> None:
    data = media_bytes(8 * UNIT)
    assert read(image(data, ["bare"])) == data


@pytest.mark.parametrize("method, hows", VARIANTS[2:6:3])
def test_the_contract_of_media(method, hows) -> None:
    data = media_bytes(12 * UNIT)
    (file,) = image(data, hows, method=method)
    check_media("ewf2", {"image.Ex01": file}, data, verified=True, seeds=200)


def test_the_contract_of_media_in_segments() -> None:
    data = media_bytes()
    files = image(data, ["coded", "plain", "fill"], per_segment=20)
    names = {f"image.Ex{n:02d}": file for n, file in enumerate(files, 1)}
    check_media("ewf2", names, data, verified=True, seeds=60)


@pytest.mark.parametrize("missing", [{0}, {1}, {3}, {0, 2}, {1, 2}])
def test_a_missing_segment_loses_only_its_range(missing) -> None:
    data = media_bytes()
    files = [f for n, f in enumerate(image(data, ["coded", "plain"], per_segment=20)) if n not in missing]
    media, found = contents(files)
    gone = {(n * 20 * UNIT, min((n + 1) * 20 * UNIT, SIZE)) for n in missing}
    assert sum(b - a for a, b, _ in media.lost) == sum(b - a for a, b in gone)
    assert all("missing" in why for _, _, why in media.lost)
    for at, step in found:
        inside = any(a < at + (32 << 10) and at < b for a, b in gone)
        assert step == (None if inside else data[at : at + (32 << 10)])


def test_segments_come_in_any_order_and_strangers_are_left_out() -> None:
    data = media_bytes()
    files = image(data, ["coded", "plain"], per_segment=20)
    stranger = Writer(2, set_id=bytes(16))
    stranger.section(ewf2images.DONE, b"")
    mixed = [files[2], files[0], bytes(stranger.out), b"no image" * 100, files[3], files[1]]
    media, found = contents(mixed)
    assert b"".join(step or b"" for _, step in found) == data
    assert any("another set" in note for note in media.notes)
    assert any("no EWF2 segment" in note for note in media.notes)
    media, _ = opened([*files, files[1]])
    assert [(a, b) for a, b, _ in media.lost] == [(20 * UNIT, 40 * UNIT)]


def test_a_segment_that_was_cut_keeps_the_tables_before_the_cut() -> None:
    data = media_bytes()
    (file,) = image(data, ["plain"])
    media, found = contents([file[: len(file) * 2 // 3]])
    ((start, stop, why),) = media.lost
    assert "segment 1" in why
    assert stop == SIZE
    assert 30 * UNIT < start < 45 * UNIT
    for at, step in found:
        assert step == (data[at : at + (32 << 10)] if at + (32 << 10) <= start else None)


def test_an_image_within_the_image_is_no_part_of_it() -> None:
    inner = b"".join(image(bytes(range(256)) * 64, ["plain"]))
    data = (inner + bytes(-len(inner) % UNIT)) * 3
    (file,) = image(data, ["plain"], per_table=1)
    for cut in range(len(file) - 1, len(file) // 2, -997):
        for at, step in contents([file[:cut]])[1]:
            assert step is None or step == data[at : at + (32 << 10)]


def test_chunks_that_two_tables_claim_are_lost() -> None:
    data = media_bytes(10 * UNIT)
    writer = Writer(1)
    info(writer, len(data), UNIT)
    parts = [("plain", data[at : at + UNIT]) for at in range(0, len(data), UNIT)]
    writer.chunks(0, parts[:4])
    writer.chunks(3, parts[5:8])
    writer.chunks(6, parts[6:])
    writer.section(ewf2images.DONE, b"")
    media, _ = opened([bytes(writer.out)])
    assert [(a // UNIT, b // UNIT) for a, b, _ in media.lost] == [(0, 6)]
    assert any("two sector tables" in note for note in media.notes)


def test_a_damaged_table_loses_its_chunks_and_says_so() -> None:
    data = media_bytes()
    (file,) = image(data, ["plain"])
    damaged = bytearray(file)
    header = struct.pack("<QI4x", 10, 5)
    damaged[damaged.index(header) + 40] ^= 1
    media, _ = opened([bytes(damaged)])
    ((start, stop, why),) = media.lost
    assert (start, stop) == (10 * UNIT, 15 * UNIT)
    assert "checksum of the entries" in why


def test_a_stream_too_short_to_be_one_is_no_pattern() -> None:
    writer = Writer(1)
    info(writer, 3 * UNIT, UNIT)
    entries = b"".join(struct.pack("<QII", 40, size, flags) for size, flags in ((8, 1), (0, 3), (8, 0x101)))
    writer.table(0, 3, entries)
    writer.section(ewf2images.DONE, b"")
    _, found = contents([bytes(writer.out)])
    assert all(step is None for _, step in found)


def test_a_changed_byte_of_a_plain_chunk_is_a_bad_unit() -> None:
    data = media_bytes(2 * UNIT)
    (file,) = image(data, ["plain"])
    damaged = bytearray(file)
    damaged[damaged.index(data[:64]) + 9] ^= 4
    media, _ = opened([bytes(damaged)])
    assert struct.unpack_from("<QII", media.layouts[0].table)[2] == PACKED_PLAIN  # type: ignore[union-attr]
    assert contents([bytes(damaged)])[1] == [(0, None)]


def test_encrypted_images_are_named() -> None:
    for kind, flags in ((ewf2images.KEYS, 0), (ewf2images.MD5, 2)):
        writer = Writer(1)
        info(writer, UNIT, UNIT)
        writer.section(kind, bytes(64), flags=flags)
        writer.section(ewf2images.DONE, b"")
        with pytest.raises(NotSupported, match="EWF2 encrypted"):
            opened([bytes(writer.out)])


def test_what_was_not_readable_at_acquisition_is_said() -> None:
    data = media_bytes()
    media, _ = opened(image(data, ["coded"], errors=[(3, 4), (100, 1)]))
    assert "not readable at acquisition: 4 sectors from 3" in media.notes
    assert "not readable at acquisition: 1 sectors from 100" in media.notes


def test_no_signature_is_not_mine_and_nothing_behind_it_is_malformed() -> None:
    with pytest.raises(NotMine):
        opened([b"EVF\x09\x0d\x0a\xff\x00" + bytes(200)])
    with pytest.raises(Malformed):
        opened([bytes(Writer(1).out)])
    with pytest.raises(NotSupported):
        opened([bytes(Writer(1, method=7).out)])


def test_a_large_sparse_image_opens_at_once() -> None:
    unit, size = 64 * SECTOR, 1 << 37
    writer = Writer(1)
    info(writer, size, unit)
    count = size // unit
    for first in range(0, count, 1 << 20):
        zeros = struct.pack("<QII", 0, 0, 5) * ((1 << 20) - 1)
        writer.table(first, 1 << 20, zeros + struct.pack("<QII", first, 0, 5))
    writer.section(ewf2images.DONE, b"")
    begin = time.process_time()
    reader = MemoryReader(bytes(writer.out))
    media = open_ewf2(reader, Options())
    assert not media.lost
    assert media.layouts[0].size == size
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("encode", [headless, __import__("bz2").compress])
def test_bzip2_units_keep_their_length_and_checksum(encode) -> None:
    data, codec = media_bytes(UNIT), Codec("ewf2", {"unit": UNIT, "method": 2})
    stored = encode(data)
    assert decode(codec, memoryview(stored), True, UNIT) == data
    for bad in (stored[: len(stored) // 2], b"", b"BZh9" + bytes(40), encode(data[:-1]), encode(data * 2)):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(bad), True, UNIT)
    for at in range(0, len(stored), 7):
        changed = bytearray(stored)
        changed[at] ^= 16
        try:
            assert decode(codec, memoryview(changed), True, UNIT) == data
        except BadUnit:
            continue


@pytest.mark.parametrize(
    "name, yes, no",
    [
        (
            "a.b.Ex01",
            ["a.b.Ex02", "a.b.Ex99", "a.b.ExAA", "a.b.EzZZ"],
            ["a.Ex02", "a.b.E01", "a.b.Lx01", "axb.Ex02"],
        )
    ],
)
def test_segment_names_are_siblings(name, yes, no) -> None:
    pattern = siblings(name)
    assert all(re.fullmatch(pattern, other) for other in yes)
    assert not any(re.fullmatch(pattern, other) for other in no)
    assert not siblings("disk.E01")


def test_an_image_of_the_corpus_reads_as_its_origin_says() -> None:
    import lzma

    folder = shared()
    if folder is None:
        pytest.skip("the corpus is not beside the project")
    packed = folder / "corpus" / "SecurityRonin_ewf-forensic" / "zeros_128s.Ex01.xz"
    files = [lzma.decompress(packed.read_bytes())]
    media, _ = opened(files)
    assert read(files) == bytes(65536) == peer(files)
    assert media.digests == {"md5": hashlib.md5(bytes(65536)).hexdigest()}  # noqa: S324
    assert not isinstance(media.layouts[-1], Linear)


@pytest.mark.parametrize("method, hows", [*VARIANTS[2:6:3], (2, ["headless", "fill"])])
def test_a_mount_shows_the_media(method, hows, tmp_path) -> None:
    data = media_bytes(700 * UNIT)
    for number, file in enumerate(image(data, hows, method=method, per_segment=300), 1):
        (tmp_path / f"case.Ex{number:02d}").write_bytes(file)
    with watched(tmp_path / "case.Ex02", at=tmp_path / "m") as point:
        assert (point / "case.Ex02" / "disk.raw").read_bytes() == data


def test_very_many_lost_ranges_and_long_words_fit_a_reply() -> None:
    writer = Writer(1)
    unit = SECTOR
    words = {"ts": "100000000", "bp": "512", "sb": "1", "nt": "x" * 100_000}
    writer.text(ewf2images.DEVICE, words)
    for first in range(0, 60_000_000, 5_000):
        writer.table(first, 1, struct.pack("<QII", 0, 0, 5))
    writer.section(ewf2images.DONE, b"")
    media, _ = opened([bytes(writer.out)])
    texts = [*media.notes, *media.metadata.values(), *(why for _, _, why in media.lost)]
    assert sum(map(len, texts)) < 1 << 20
    assert max(map(len, texts)) < 1 << 16
    assert media.lost[-1][1] == 100_000_000 * unit
    assert media.metadata["notes"].endswith("[100000 characters, cut]")
    assert len(media.layouts) < 20_000
