"""UDIF: 7z, dmg2img and qemu-img read the same bytes, and the checksums of Apple's own images hold."""

from __future__ import annotations

import bz2
import lzma
import os
import random
import shutil
import signal
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Foreign, Linear, Media, Packed
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends import dmgimages as dmg
from tests.backends.dmgimages import ADC, BZIP2, FREE, LZFSE, LZMA, RAW, ZEROS, ZLIB, Part
from tests.peers import layers, watched
from tests.stateful.conftest import workers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CODED = {"zlib": ZLIB, "bzip2": BZIP2, "lzma": LZMA, "adc": ADC, "lzfse": LZFSE}
CHUNK = 512  # sectors


def text(length: int, seed: int = 3) -> bytes:
    """Return content that every codec finds matches in, near and far, long and short."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(2, 12)) for _ in range(300)]
    out = bytearray()
    while len(out) < length:
        out += rng.choice(words) * rng.choice((1, 1, 1, 2, 40))
    return bytes(out[:length])


def part(kind: int, sectors: int = 3 * CHUNK + 7, seed: int = 3, name: str = "disk (Apple_HFS : 0)") -> Part:
    """Return a part of full chunks, zeros, free space, a verbatim and a short chunk."""
    data = bytearray(text(sectors * 512, seed))
    data[CHUNK * 512 : CHUNK * 512 + 100 * 512] = bytes(100 * 512)
    middle = sectors - CHUNK - 150
    kinds = [(CHUNK, kind), (60, ZEROS), (40, FREE), (min(CHUNK, middle), kind), (20, RAW)]
    kinds += [(CHUNK - 132, kind)] if middle > 2 * CHUNK else []
    return Part(bytes(data), [*kinds, (sectors - sum(n for n, _ in kinds), kind)], name)


def opened(files: dict[str, bytes] | bytes) -> Media:
    members = files if isinstance(files, dict) else {"disk.dmg": files}
    readers = [MemoryReader(data, name=name) for name, data in members.items()]
    readers[0].others = readers[1:]
    answer = discover()["dmg"].open(readers[0], Options())
    return answer if isinstance(answer, Media) else answer.media


def by_7z(image: Path) -> bytes:
    done = subprocess.run(["7z", "x", "-so", "-tdmg", str(image)], capture_output=True, check=True)
    return done.stdout


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# --- codecs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", CODED)
def test_other_readers_read_the_same(codec, tmp_path) -> None:
    needs("7z")
    one = part(CODED[codec])
    image = dmg.whole(dmg.image([one]))
    assert contents("dmg", {"disk.dmg": image}) == one.data
    path = tmp_path / "disk.dmg"
    path.write_bytes(image)
    assert by_7z(path) == one.data
    if codec in {"zlib", "bzip2", "adc"} and shutil.which("dmg2img"):
        subprocess.run(["dmg2img", "-s", path, tmp_path / "raw"], check=True, capture_output=True)
        assert (tmp_path / "raw").read_bytes() == one.data
    if codec == "zlib" and shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "convert", "-f", "dmg", "-O", "raw", path, tmp_path / "raw"], check=True)
        assert (tmp_path / "raw").read_bytes() == one.data
    media = opened(image)
    assert not media.lost
    assert media.version == f"UDIF 4 {codec.upper() if codec in {'adc', 'lzfse', 'lzma'} else codec}"
    foreign = any(isinstance(layout, Foreign) for layout in media.layouts)
    assert foreign == (codec in {"adc", "lzfse"})


@pytest.mark.parametrize("codec", CODED)
def test_the_contract_of_media(codec) -> None:
    one = part(CODED[codec], 2 * CHUNK + 177)
    check_media("dmg", {"disk.dmg": dmg.whole(dmg.image([one]))}, one.data, seeds=200)


def test_codecs_mixed_in_one_image_keep_their_tables() -> None:
    parts = [part(kind, seed=seed, name=f"part {seed}") for seed, kind in enumerate(CODED.values())]
    image = dmg.whole(dmg.image(parts, between=b"gap", data_at=512))
    truth = b"".join(one.data for one in parts)
    assert contents("dmg", {"disk.dmg": image}) == truth
    media = opened(image)
    units = {(layout.codec.name, layout.unit) for layout in media.layouts if isinstance(layout, Packed)}
    assert {(name, CHUNK * 512) for name in ("zlib", "bzip2", "xz")} <= units
    assert sum(isinstance(layout, Foreign) for layout in media.layouts) == 1
    assert media.metadata["part 4"].startswith("part 4: sectors 6172 to 7715, crc32 ")


def test_places_count_from_the_data_fork_and_from_the_table(tmp_path) -> None:
    needs("7z")
    one = part(ZLIB)
    path = tmp_path / "disk.dmg"
    for data_at, before in ((1024, b""), (0, bytes(777)), (512, bytes(777))):
        image = dmg.whole(dmg.image([one], data_at=data_at), before=before)
        assert contents("dmg", {"disk.dmg": image}) == one.data
        path.write_bytes(image)
        assert by_7z(path) == one.data


def test_neighbouring_chunks_of_one_size_are_one_run() -> None:
    one = Part(text(64 * CHUNK * 512), [(CHUNK, ZLIB)] * 64)
    packed, linear = opened(dmg.whole(dmg.image([one]))).layouts
    assert isinstance(packed, Packed)
    assert isinstance(linear, Linear)
    assert (packed.unit, len(linear.logical)) == (CHUNK * 512, 8)


# --- where the tables are ---------------------------------------------------------------------------------
def test_tables_in_the_resource_fork_of_images_without_a_list() -> None:
    parts = [part(ZLIB, name="first"), part(BZIP2, seed=8, name="zweites Stück")]
    media = opened(dmg.whole(dmg.image(parts), fork=True))
    assert media.metadata["part 1"].startswith("zweites Stück: ")
    image = dmg.whole(dmg.image(parts), fork=True)
    assert contents("dmg", {"disk.dmg": image}) == b"".join(one.data for one in parts)


def test_a_damaged_list_still_gives_its_tables() -> None:
    one = part(ZLIB)
    image = dmg.whole(dmg.image([one]))
    bad = image.replace(b"</dict>\n</plist>", b"</dixt>\n</plist>")
    assert bad != image
    assert contents("dmg", {"disk.dmg": bad}) == one.data
    assert any("the property list is damaged" in note for note in opened(bad).notes)


def test_entities_of_a_list_are_not_expanded() -> None:
    made = dmg.image([part(ZLIB)])
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 30))
    doctype = f'<!DOCTYPE plist [<!ENTITY e0 "x">{entities}]>'.encode()
    listed = dmg.plist(made.tables)
    start, stop = listed.index(b"<!DOCTYPE"), listed.index(b"<plist")
    listed = listed[:start] + doctype + listed[stop:].replace(b"<key>plst</key>", b"<key>&e29;</key>")
    image = (
        made.fork
        + listed
        + dmg.koly(
            data_length=len(made.fork), xml_at=len(made.fork), xml_length=len(listed), sectors=made.sectors
        )
    )
    begin = time.monotonic()
    assert any("damaged" in note for note in opened(image).notes)
    assert time.monotonic() - begin < 2


def test_an_image_without_tables_is_its_data() -> None:
    data = text(100 * 512)
    image = data + dmg.koly(data_length=len(data), sectors=100)
    assert contents("dmg", {"disk.dmg": image}) == data
    assert opened(image).version == "UDIF 4 without tables"
    more = opened(data + dmg.koly(data_length=len(data), sectors=120))
    assert more.lost == ((51200, 61440, "the image has no data for it"),)
    with pytest.raises(Malformed, match="neither a table"):
        opened(dmg.koly(sectors=10))


def test_a_trailer_at_the_start_is_one() -> None:
    one = part(ZLIB)
    made = dmg.image([one])
    listed = dmg.plist(made.tables)
    image = dmg.koly(
        data_at=512, data_length=len(made.fork), xml_at=512 + len(made.fork), xml_length=len(listed),
        sectors=made.sectors,
    ) + made.fork + listed  # fmt: skip
    assert contents("dmg", {"disk.dmg": image}) == one.data


# --- segments ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", ["zlib", "adc"])
def test_segments_are_one_image_whichever_is_named(codec, tmp_path) -> None:
    one = part(CODED[codec])
    made = dmg.image([one])
    size = len(made.fork)
    files = dmg.segmented(made, [0, size // 3 + 1, size // 2])
    assert contents("dmg", files) == one.data
    backwards = dict(reversed(files.items()))
    assert contents("dmg", backwards) == one.data
    assert opened(files).metadata["segments"] == f"3, set {bytes(range(16)).hex()}"
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "disk.099.dmgpart").write_bytes(dmg.koly(uuid=bytes(16), segments=3, segment=2))
    for name in files:
        with watched(tmp_path / name, at=tmp_path / "m") as point:
            assert (point / name / "disk.raw").read_bytes() == one.data
            (layer,) = layers(point, backend="dmg")
            assert (layer["state"], len(layer["members"])) == ("open", 4)
            assert any("another image" in note for note in layer["notes"])


def test_a_missing_segment_costs_its_chunks() -> None:
    one = part(ZLIB)
    made = dmg.image([one])
    size = len(made.fork)
    files = dmg.segmented(made, [0, size // 3, 2 * size // 3])
    for gone in list(files)[1:]:
        held = {name: data for name, data in files.items() if name != gone}
        media = opened(held)
        assert any("1 of 3 segments are missing" in note for note in media.notes)
        assert media.lost
        source = build(media.layouts, [Memory(data) for data in held.values()], "dmg")
        found = contents("dmg", held, lost=b"?")
        assert source.size == len(one.data) == len(found)
        for start, stop, _ in media.lost:
            assert found[start:stop] == b"?" * (stop - start)
        kept = sum(stop - start for start, stop, _ in media.lost)
        same = sum(a == b for a, b in zip(found, one.data, strict=True))
        assert same >= len(one.data) - kept
    headless = {name: data for name, data in files.items() if name != "disk.dmg"}
    with pytest.raises(EvidenceError):  # only the first has the tables
        if not opened(headless).lost:
            raise AssertionError(headless.keys())
        raise EvidenceError("everything is lost")


# --- checksums --------------------------------------------------------------------------------------------
def test_the_checksum_of_the_whole_media_is_a_digest(tmp_path) -> None:
    data = text(2000 * 512)
    one = Part(data, [(CHUNK, ZLIB)] * 3)
    made = dmg.image([one])
    image = dmg.whole(made)
    assert opened(image).digests == {"crc32": f"{zlib.crc32(data):08x}"}
    assert not opened(image).notes
    md5 = "00112233445566778899aabbccddeeff"
    assert opened(dmg.whole(made, master=(4, 128, bytes.fromhex(md5)))).digests == {"md5": md5}
    assert not opened(dmg.whole(dmg.image([one, one]))).digests  # of parts only
    wrong = opened(dmg.whole(made, master=(2, 32, b"abcd")))
    assert any("checksum over those of all parts differs" in note for note in wrong.notes)


def apples(corpus: Path) -> list[bytes]:
    folder = corpus / "corpus"
    found = []
    for path in sorted(folder.glob("*/*.dmg*")):
        if path.suffix != ".json":
            opener = {".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
            with opener(path, "rb") as file:
                found.append(file.read())
    return found


def test_the_checksums_of_real_images_hold(corpus) -> None:
    """Every part of images that macOS wrote, in all codecs, has the CRC-32 its writer stored."""
    checked, kinds = 0, set()
    images = apples(corpus)
    for image in images:
        found = contents("dmg", {"disk.dmg": image})
        media = opened(image)
        assert not media.lost
        assert not any("differs" in note for note in media.notes)
        kinds.add(media.version)
        for name, table in tables_of(image):
            start, count = struct.unpack_from(">QQ", table, 8)
            (number,) = struct.unpack_from(">I", table, 200)
            crc = 0
            for row in range(number):
                kind, _, first, length, _, _ = struct.unpack_from(">IIQQQQ", table, 204 + 40 * row)
                if kind not in (FREE, dmg.COMMENT, dmg.END):
                    at = (start + first) * 512
                    crc = zlib.crc32(found[at : at + length * 512], crc)
            assert struct.pack(">I", crc) == table[72:76], name
            checked += count
    assert len(images) > 10
    assert kinds >= {f"UDIF 4 {name}" for name in ("zlib", "bzip2", "LZMA", "ADC", "LZFSE")}
    assert checked > 100_000


def tables_of(image: bytes) -> list[tuple[str, bytes]]:
    import plistlib

    at, length = struct.unpack_from(">QQ", image, len(image) - 512 + 216)
    rows = plistlib.loads(image[at : at + length])["resource-fork"]["blkx"]
    return [(row["Name"], row["Data"]) for row in rows]


# --- damage -----------------------------------------------------------------------------------------------
def rows_of(rows: list[tuple[int, int, int, int, int]], sectors: int, fork: bytes) -> bytes:
    """Return an image with these rows: kind, first sector, sectors, offset, stored bytes."""
    raw = struct.pack(">4sIQQQII24xII128sI", b"mish", 1, 0, sectors, 0, 0, 0, 2, 32, bytes(4), len(rows))
    raw += b"".join(struct.pack(">IIQQQQ", kind, 0, *rest) for kind, *rest in rows)
    return dmg.whole(dmg.Image(fork=fork, tables=[("", raw)], sectors=sectors, sums=bytes(4)))


def test_what_no_table_says_is_lost_and_what_two_say_is_the_first_ones() -> None:
    stored = [zlib.compress(bytes([65 + n]) * 4 * 512) for n in range(3)]
    fork = b"".join(stored)
    at = [0, len(stored[0]), len(stored[0]) + len(stored[1])]
    rows = [
        (ZLIB, 4, 4, at[1], len(stored[1])),
        (ZLIB, 0, 4, at[0], len(stored[0])),
        (ZLIB, 6, 4, at[2], len(stored[2])),
        (0x80000042, 12, 2, 0, 9),
        (RAW, 14, 2, 1 << 40, 1024),
        (ZLIB, 16, 2, 1 << 40, 1024),
        (RAW, 18, 2, 0, 10),
        (ZEROS, 1 << 60, 5, 0, 0),
        (dmg.END, 20, 0, 0, 0),
        (ZEROS, 10, 2, 0, 0),
    ]
    image = rows_of(rows, 20, fork)
    found = contents("dmg", {"disk.dmg": image}, lost=b"?")
    assert found[: 10 * 512] == b"A" * 2048 + b"B" * 2048 + b"C" * 1024
    assert found[10 * 512 : 18 * 512] == b"?" * 8 * 512
    media = opened(image)
    reasons = [why for _, _, why in media.lost]
    assert reasons[0] == "no table says what is there"
    assert "unknown type 0x80000042" in reasons[1]
    assert "no data" in reasons[2]
    assert "fewer bytes" in reasons[-1]
    assert any("1 chunks leave their part" in note for note in media.notes)
    assert any("1 chunks cover bytes" in note for note in media.notes)


@pytest.mark.parametrize("codec", ["lzfse", "adc", "zlib"])
def test_a_bad_chunk_costs_itself(codec) -> None:
    kind = CODED[codec]
    one = Part(text(4 * CHUNK * 512), [(CHUNK, kind)] * 4)
    made = dmg.image([one])
    (second,) = struct.unpack_from(">Q", made.tables[0][1], 204 + 40 + 24)
    fork = made.fork[:second] + b"\x00\x00\x00\x00" * 4 + made.fork[second + 16 :]
    found = contents(
        "dmg", {"disk.dmg": dmg.whole(dmg.Image(fork, made.tables, made.sums, made.sectors))}, lost=b"?"
    )
    size = CHUNK * 512
    assert found[:size] == one.data[:size]
    assert found[size : 2 * size] == b"?" * size
    assert found[2 * size :] == one.data[2 * size :]


def test_chunks_no_decoder_should_take_are_lost() -> None:
    rows = [(LZFSE, 0, 1 << 20, 0, 100), (ZLIB, 1 << 20, 1 << 20, 0, 100), (dmg.END, 0, 0, 0, 0)]
    media = opened(rows_of(rows, 1 << 21, bytes(100)))
    assert [why.partition(" of ")[0] for _, _, why in media.lost] == ["a chunk", "a chunk"]


def test_chunks_of_more_sizes_than_there_may_be_tables() -> None:
    """The rest is decoded by the worker: no chunk is lost for the sake of layouts."""
    fork, rows, at = b"", [], 0
    for count in range(1, 4101):
        stored = zlib.compress(bytes([count % 251]) * 512 * count, 1)
        rows.append((ZLIB, at, count, len(fork), len(stored)))
        fork += stored
        at += count
    media = opened(rows_of([*rows, (dmg.END, at, 0, 0, 0)], at, fork))
    assert sum(isinstance(layout, Packed) for layout in media.layouts) == 4096
    assert sum(isinstance(layout, Foreign) for layout in media.layouts) == 1
    assert not media.lost


def test_a_terabyte_opens_in_time() -> None:
    """A million chunks of a megabyte: the rows go through the memory file."""
    count = 1 << 20
    rows = b"".join(struct.pack(">IIQQQQ", ZLIB, 0, n * 2048, 2048, n % 1000, 50) for n in range(count))
    raw = struct.pack(">4sIQQQII24xII128sI", b"mish", 1, 0, count * 2048, 0, 0, 0, 2, 32, bytes(4), count)
    image = dmg.whole(
        dmg.Image(fork=bytes(4096), tables=[("", raw + rows)], sectors=count * 2048, sums=bytes(4))
    )
    reader = MemoryReader(image, name="disk.dmg")
    begin = time.process_time()
    media = discover()["dmg"].open(reader, Options())
    assert time.process_time() - begin < 10
    assert isinstance(media, Media)
    assert media.layouts[-1].size == 1 << 40
    assert len(reader.table) == 16 * count + 26


def test_a_fresh_worker_goes_on_decoding_where_tables_are_large(tmp_path) -> None:
    """More rows than a message has room for, and chunks that only a worker decodes: it dies in between."""
    count = 600_000
    content = [text(512 * 512, seed) for seed in (1, 2)]
    stored = [dmg.lzfse(data) for data in content]
    small = zlib.compress(bytes(512))
    fork = small + b"".join(stored)
    third = count // 3  # neither at the start nor at the end, which are looked at when the media is opened
    rows = [(ZLIB, n, 1, 0, len(small)) for n in range(third)]
    rows += [(LZFSE, third, 512, len(small), len(stored[0]))]
    rows += [(ZLIB, 512 + n, 1, 0, len(small)) for n in range(third, 2 * third)]
    rows += [(LZFSE, 2 * third + 512, 512, len(small) + len(stored[0]), len(stored[1]))]
    rows += [(ZLIB, 1024 + n, 1, 0, len(small)) for n in range(2 * third, count)]
    path = tmp_path / "disk.dmg"
    path.write_bytes(rows_of([*rows, (dmg.END, count + 1024, 0, 0, 0)], count + 1024, fork))
    with (
        watched(path, at=tmp_path / "m") as point,
        (point / "disk.dmg/disk.raw").open("rb", buffering=0) as raw,
    ):
        raw.seek(third * 512)
        assert raw.read(4096) == content[0][:4096]
        for pid in workers(point):
            os.kill(pid, signal.SIGKILL)
        raw.seek((2 * third + 512) * 512)
        assert raw.read(4096) == content[1][:4096]


def test_a_disk_of_nothing_is_a_run() -> None:
    sectors = (1 << 54) - 1
    image = rows_of([(ZEROS, 0, sectors, 0, 0), (dmg.END, sectors, 0, 0, 0)], sectors, b"")
    media = opened(image)
    assert media.layouts[-1].size == sectors * 512
    assert not media.lost


def test_what_merely_has_the_signature_is_none() -> None:
    with pytest.raises(NotMine):
        opened(bytes(1000))
    with pytest.raises(NotMine):
        opened(b"kol")
    with pytest.raises(Malformed, match="version 5"):
        opened(dmg.koly(version=5))
    with pytest.raises(Malformed):
        opened(bytes(512) + b"koly" + b"\xff" * 508)
