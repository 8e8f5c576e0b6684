"""AFF4: every way to store an image reads as what was stored; what is unknown is an error, never zeros."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._aff4_plan import Plan
from imgfs.backends._aff4_targets import Targets
from imgfs.backends._aff4_volume import Volume as Opened
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.model import Media
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import check_media, pieces
from imgfs.worker.checks import check_layouts
from tests.backends import aff4images as aff4
from tests.backends.aff4images import MAP, SPACE, STREAM, Volume, naive
from tests.backends.test_corpus_files import CORPUS
from tests.peers import layers, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgfs.block.pieces import ByteSource

pytestmark = pytest.mark.slow
CHUNK = 4096
ZERO, UNKNOWN, UNREADABLE = SPACE + "Zero", SPACE + "UnknownData", SPACE + "UnreadableData"


def content(length: int, seed: int = 7) -> bytes:
    """Return bytes of which some chunks compress and some do not."""
    rng = random.Random(seed)
    parts = [
        rng.choice((rng.randbytes(CHUNK), bytes(CHUNK), rng.randbytes(64) * 64))
        for _ in range(-(-length // CHUNK))
    ]
    return b"".join(parts)[:length]


def opened(*volumes: bytes, names: Sequence[str] = ()) -> tuple[Media, ByteSource]:
    files = [
        MemoryReader(data, name=name)
        for data, name in zip(volumes, names or map(str, range(99)), strict=False)
    ]
    files[0].others = files[1:]
    media = discover()["aff4"].open(files[0], Options())
    assert isinstance(media, Media)
    table = memoryview(files[0].table) if files[0].table else None
    return media, build(media.layouts, [Memory(data) for data in volumes], "aff4", table=table)


def known(source: ByteSource, step: int = 512) -> bytes:
    """Return the bytes of a source, ``?`` for those that are errors to read."""
    out = bytearray()
    for at in range(0, source.size, step):
        stop = min(at + step, source.size)
        try:
            out += b"".join(pieces(source.plan(at, stop)))
        except EvidenceError:
            out += b"?" * (stop - at)
    return bytes(out)


def whole(**options: object) -> Callable[[bytes], bytes]:
    """Return a recipe of a volume with one stream under one map."""

    def make(data: bytes) -> bytes:
        archive = {k: options[k] for k in ("comment", "described", "piped", "wide") if k in options}
        volume = Volume(**archive)  # type: ignore[arg-type]
        volume.stream(data, **{k: v for k, v in options.items() if k not in archive})  # type: ignore[arg-type]
        volume.map([(0, len(data), 0, 0)], [str(options.get("urn", STREAM))], len(data))
        volume.image()
        return volume.bytes()

    return make


def early(form: str) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        volume = Volume(space=aff4.EARLY, version="")
        volume.stream(data, early=form)
        volume.map([(0, len(data), 0, 0)], [STREAM], len(data), kind="aff4:map , aff4:Image")
        return volume.bytes()

    return make


def bare(data: bytes) -> bytes:
    volume = Volume(version="", comment=False, described=False)
    volume.stream(data, method=aff4.NULL, deflate=True)
    return volume.bytes()


RECIPES = {
    "snappy": whole(),
    "lz4": whole(method=aff4.LZ4),
    "deflate": whole(method=aff4.DEFLATE),
    "zlib": whole(method=aff4.ZLIB),
    "null": whole(method=aff4.NULL),
    "no method": whole(method=""),
    "rekall": whole(method=aff4.REKALL_SNAPPY, always=True),
    "rekall, verbatim": whole(method=aff4.REKALL_SNAPPY),
    "snappy, unpadded": whole(pad=False),
    "lz4, unpadded": whole(method=aff4.LZ4, pad=False),
    "deflate, unpadded": whole(method=aff4.DEFLATE, pad=False),
    "zlib, unpadded": whole(method=aff4.ZLIB, pad=False),
    "null, unpadded": whole(method=aff4.NULL, pad=False),
    "one chunk a bevy": whole(per=1),
    "zip64": whole(wide=True),
    "descriptors": whole(piped=True),
    "descriptors, zip64": whole(piped=True, wide=True),
    "deflated segments": whole(deflate=True),
    "deflated segments, null": whole(deflate=True, method=aff4.NULL),
    "no comment": whole(comment=False),
    "no description": whole(described=False),
    "early, ends": early("ends"),
    "early, starts": early("starts"),
    "bare stream": bare,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_variant_reads_as_what_was_stored(name) -> None:
    for size in (20 * CHUNK, 19 * CHUNK + 777):
        data = content(size)
        image = RECIPES[name](data)
        stream = STREAM if name == "bare stream" else MAP
        if name != "rekall":
            assert naive(image, stream=stream) == data
        check_media("aff4", {"image.aff4": image}, data, seeds=200 if size % CHUNK else 10)


def test_maps_of_every_kind_of_target() -> None:
    data = content(24 * CHUNK)
    size = 40 << 20
    points = [
        (20 << 20, 17 << 20, 4711, 1),  # longer than one tile of tiles
        (0, 3 * CHUNK, 2 * CHUNK, 0),
        (3 * CHUNK, 2 * CHUNK, 5 * CHUNK, 0),  # goes on in map and stream
        (6 * CHUNK, CHUNK, 0, 2),
        (7 * CHUNK, 100, 17, 0),
        (7 * CHUNK + 100, 3000, 0, 3),
        (size - 5000, 5000, 19 * CHUNK, 0),
    ]
    volume = Volume()
    volume.stream(data)
    volume.map(points, [STREAM, SPACE + "SymbolicStreamFF", ZERO, SPACE + "SymbolicStream61"], size)
    volume.image()
    image = volume.bytes()
    media, source = opened(image)
    assert not media.lost
    truth = naive(image)
    for at in range(0, size, 1 << 20):
        assert b"".join(pieces(source.plan(at, at + (1 << 20)))) == truth[at : at + (1 << 20)]
    check_media("aff4", {"image.aff4": image}, truth, seeds=30)


@pytest.mark.parametrize("gap", ["", ZERO, UNKNOWN, UNREADABLE])
def test_unknown_and_unreadable_ranges_are_errors_and_never_zeros(gap) -> None:
    data = content(8 * CHUNK)
    points = [
        (0, CHUNK, 0, 0),
        (CHUNK, 2 * CHUNK, 0, 1),
        (3 * CHUNK, CHUNK, 0, 2),
        (8 * CHUNK, 4 * CHUNK, CHUNK, 0),
    ]
    volume = Volume()
    volume.stream(data)
    volume.map(points, [STREAM, UNKNOWN, UNREADABLE], 13 * CHUNK, gap=gap)
    volume.image()
    image = volume.bytes()
    media, source = opened(image)
    assert known(source) == naive(image)
    lost = {(start, stop): why for start, stop, why in media.lost}
    assert "aff4:UnknownData" in lost[CHUNK, 3 * CHUNK]
    assert "aff4:UnreadableData" in next(why for (start, _), why in lost.items() if start == 3 * CHUNK)
    assert bool(sum(stop - start for start, stop in lost) > 3 * CHUNK) == (gap in (UNKNOWN, UNREADABLE))


def test_what_a_map_cannot_mean_is_lost() -> None:
    data = content(8 * CHUNK)
    points = [
        (0, 2 * CHUNK, 0, 0),
        (CHUNK, 2 * CHUNK, CHUNK, 0),  # the same bytes, said twice
        (4 * CHUNK, 2 * CHUNK, 0, 0),
        (5 * CHUNK, 2 * CHUNK, 0, 0),  # other bytes for the same place
        (8 * CHUNK, 2 * CHUNK, 7 * CHUNK, 0),  # leaves its stream
        (10 * CHUNK, CHUNK, 0, 9),  # no such target
        (11 * CHUNK, CHUNK, 0, 1),  # no such stream
        (1 << 63, CHUNK, 0, 0),
        (12 * CHUNK, 0, 0, 0),
        (12 * CHUNK, 1 << 62, 0, 0),
    ]
    volume = Volume()
    volume.stream(data)
    volume.map(points, [STREAM, "aff4://no-such-stream"], 13 * CHUNK)
    volume.image()
    media, source = opened(volume.bytes())
    wanted = (
        data[: 3 * CHUNK]
        + bytes(CHUNK)
        + data[:CHUNK]
        + b"?" * CHUNK
        + data[CHUNK : 2 * CHUNK]
        + bytes(CHUNK)
    )
    wanted += data[7 * CHUNK :] + b"?" * (3 * CHUNK) + data[:CHUNK]
    assert known(source) == wanted
    assert {why for _, _, why in media.lost} >= {"two points of the map claim this range"}
    assert sum(stop - start for start, stop, _ in media.lost) == 4 * CHUNK


def stripes(data: bytes) -> tuple[bytes, bytes]:
    """Return two volumes that hold every other chunk each, as section 7.1 of the standard has it."""
    urns = [STREAM, STREAM[:-1] + "5"]
    count = len(data) // CHUNK
    points = [(n * CHUNK, CHUNK, n // 2 * CHUNK, n % 2) for n in range(count)]
    made = []
    for number, urn in enumerate(urns):
        volume = Volume(arn=f"{aff4.VOLUME[:-1]}{7 + number}")
        own = MAP[:-1] + str(7 + number)
        volume.stream(b"".join(data[n * CHUNK : (n + 1) * CHUNK] for n in range(number, count, 2)), urn=urn)
        volume.map(points, urns, len(data), urn=own, dependentStream=", ".join(f"<{u}>" for u in urns))
        volume.image(own)
        made.append(volume.bytes())
    return made[0], made[1]


def test_stripes_find_each_other() -> None:
    data = content(20 * CHUNK)
    first, second = stripes(data)
    for files in ({"d_1.aff4": first, "d_2.aff4": second}, {"d_2.aff4": second, "d_1.aff4": first}):
        check_media("aff4", files, data, seeds=20)
    media, source = opened(second, names=["d_2.aff4"])
    assert "d_1.aff4" in media.wants
    assert "d_2.aff4" not in media.wants
    assert known(source) == b"".join(
        data[n * CHUNK : (n + 1) * CHUNK] if n % 2 else b"?" * CHUNK for n in range(len(data) // CHUNK)
    )
    assert not opened(first, second, names=["d_1.aff4", "d_2.aff4"])[0].wants


def test_stripes_beside_each_other_are_one_disk_in_a_mount(tmp_path: Path) -> None:
    data = content(20 * CHUNK)
    for number, image in enumerate(stripes(data), 1):
        (tmp_path / f"disk_{number}.aff4").write_bytes(image)
    other = whole(urn=STREAM[:-1] + "9")(content(CHUNK, seed=1))
    (tmp_path / "disk_3.aff4").write_bytes(other)  # beside them by chance
    with watched(tmp_path / "disk_2.aff4", at=tmp_path / "m") as point:
        assert (point / "disk_2.aff4" / "disk.raw").read_bytes() == data
        (layer,) = layers(point, backend="aff4")
        assert {"disk_1.aff4", "disk_2.aff4"} <= set(layer["members"])
        assert layer["state"] == "open"
    (tmp_path / "disk_1.aff4").unlink()
    with watched(tmp_path / "disk_2.aff4", at=tmp_path / "m") as point:
        (layer,) = layers(point, backend="aff4")
        assert layer["state"] == "incomplete"
        with (point / "disk_2.aff4" / "disk.raw").open("rb", buffering=0) as file:
            with pytest.raises(OSError, match="Input/output"):
                file.read(512)
            file.seek(CHUNK)
            assert file.read(CHUNK) == data[CHUNK : 2 * CHUNK]


def test_a_mount_reads_every_codec(tmp_path: Path) -> None:
    data = content(300 * CHUNK)
    paths = []
    for name in ("snappy", "lz4", "deflate", "zlib", "null"):
        paths.append(tmp_path / f"{name}.aff4")
        paths[-1].write_bytes(RECIPES[name](data))
    with watched(*paths, at=tmp_path / "m") as point:
        for path in paths:
            assert (point / path.name / "disk.raw").read_bytes() == data


@pytest.mark.parametrize(
    "name", ["snappy", "descriptors", "descriptors, zip64", "zip64", "deflated segments"]
)
def test_a_damaged_directory_is_replaced_by_local_headers(name) -> None:
    data = content(20 * CHUNK)
    image = bytearray(RECIPES[name](data))
    at = image.index(b"PK\x01\x02")
    for broken in (image[:at], image[:at] + b"PK\x01\x03" + image[at + 4 :], image[:-60]):
        media, source = opened(bytes(broken))
        assert known(source) == data
        assert any("central directory is damaged" in note for note in media.notes)


@pytest.mark.parametrize("method", [aff4.NULL, aff4.SNAPPY, aff4.LZ4])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_volume_that_is_cut_short_shows_what_is_left(method, deflate) -> None:
    data = content(24 * CHUNK)
    volume = Volume()
    volume.segments["information.turtle"] = b""  # comes first, as some write it
    volume.stream(data, method=method, deflate=deflate)
    names = [name for name in volume.segments if name.endswith(".index")]
    volume.segments = {
        name: volume.segments[name] for name in ("information.turtle", *names, *volume.segments)
    }
    volume.image(STREAM)
    image = volume.bytes()
    held = 0
    for cut in range(len(image), 2000, -len(image) // 40):
        try:
            media, source = opened(image[:cut])
        except Malformed:
            continue
        check_layouts(media.layouts, (cut,))
        found = known(source, CHUNK)
        assert len(found) == len(data)
        assert all(a in (b"?" * CHUNK, b) for a, b in zip(_chunks(found), _chunks(data), strict=True))
        held += found.count(b"?" * CHUNK) not in (0, 24)
    assert held


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def test_bytes_before_the_archive_move_it() -> None:
    data = content(4 * CHUNK)
    image = whole()(data)
    front = image[:43]  # begins like an archive
    media, source = opened(front + image)
    assert known(source) == data
    assert not media.lost


def test_damage_to_an_index_costs_its_bevy() -> None:
    data = content(24 * CHUNK)
    volume = Volume()
    volume.stream(data)
    volume.map([(0, len(data), 0, 0)], [STREAM], len(data))
    volume.image()
    name = f"{STREAM}/00000001.index".replace("aff4://", "aff4%3A%2F%2F")
    index = volume.segments[name]
    image = volume.bytes()
    for bad in (image.replace(index, index[:-1] + b"\x7f"), image.replace(name.encode(), b"x" * len(name))):
        media, source = opened(bad)
        assert known(source) == data[: 8 * CHUNK] + b"?" * (8 * CHUNK) + data[16 * CHUNK :]
        assert [(start, stop) for start, stop, _ in media.lost] == [(8 * CHUNK, 16 * CHUNK)]
    volume.segments[name] = index[:-12] + struct.pack("<QI", 1 << 40, 100)
    media, source = opened(volume.bytes())
    assert known(source) == data[: 15 * CHUNK] + b"?" * CHUNK + data[16 * CHUNK :]
    assert [(start, stop) for start, stop, _ in media.lost] == [(15 * CHUNK, 16 * CHUNK)]


def test_a_map_that_is_damaged_is_not_believed() -> None:
    data = content(4 * CHUNK)
    image = whole()(data)
    point = aff4.POINT.pack(0, len(data), 0, 0)
    with pytest.raises(Malformed, match="checksum"):
        opened(image.replace(point, aff4.POINT.pack(0, len(data), CHUNK, 0)))


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(NotMine):
        opened(b"PK\x03\x04" + bytes(100))
    with pytest.raises(NotMine):
        opened(bytes(100))
    volume = Volume()
    with pytest.raises(Malformed, match="without an image"):
        opened(volume.bytes())
    volume.say(STREAM, "aff4:EncryptedStream", keyBag="<aff4://bag>")
    with pytest.raises(NotSupported, match="encrypted"):
        opened(volume.bytes())
    volume.image(STREAM)
    with pytest.raises(NotSupported, match="encrypted"):
        opened(volume.bytes())
    volume = Volume()
    volume.stream(content(CHUNK))
    volume.image(STREAM)
    image = volume.bytes().replace(
        b"<http://code.google.com/p/snappy/>", b"<http://code.google.com/p/zippy1/>"
    )
    with pytest.raises((Malformed, NotSupported), match="zippy1"):
        opened(image)


def test_stored_digests_and_facts_are_told() -> None:
    data = content(4 * CHUNK)
    volume = Volume()
    volume.stream(data)
    volume.map([(0, len(data), 0, 0)], [STREAM], len(data))
    kinds = {"MD5": "md5", "SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512", "Blake2b": "blake2b"}
    stored = {kind: hashlib.new(name, data).hexdigest() for kind, name in kinds.items()}
    hashes = ", ".join(f'"{value}"^^aff4:{kind}' for kind, value in stored.items())
    volume.image(hash=f'{hashes}, "{"0" * 128}"^^aff4:blockMapHashSHA512', diskSerial='"S\\"1"')
    volume.say("aff4://case", "aff4:CaseDetails", examiner='"""E\nE"""', caseName="'N'@en")
    media, _ = opened(volume.bytes())
    assert media.digests == {kinds[kind]: value for kind, value in stored.items()}
    assert media.version == "1.0"
    assert media.metadata["diskSerial"] == 'S"1'
    assert media.metadata["CaseDetails.examiner"] == "E\nE"
    assert media.metadata["CaseDetails.caseName"] == "N"
    assert any("blockMapHashSHA512 (1)" in note for note in media.notes)


def test_a_terabyte_opens_at_once() -> None:
    data = content(64 * CHUNK)
    volume = Volume()
    volume.stream(data)
    size = 1 << 40
    step = size // 200_000 // CHUNK * CHUNK
    points = [(n * step, CHUNK, n % 64 * CHUNK, 0) for n in range(200_000)]
    volume.map(points, [STREAM], size)
    volume.image()
    image = volume.bytes()
    begin = time.process_time()
    media, source = opened(image)
    assert time.process_time() - begin < 5
    assert source.size == size
    assert not media.lost
    at, _, inside, _ = points[-1]
    read = b"".join(pieces(source.plan(at - 512, at + CHUNK + 512)))
    assert read == bytes(512) + data[inside : inside + CHUNK] + bytes(512)


def test_sizes_up_to_the_largest_stay_sparse() -> None:
    volume = Volume()
    volume.stream(content(CHUNK))
    volume.map([(0, CHUNK, 0, 0), ((1 << 63) - 1 - CHUNK, CHUNK, 0, 0)], [STREAM], (1 << 63) - 1)
    volume.image()
    _, source = opened(volume.bytes())
    assert source.size == (1 << 63) - 1
    assert b"".join(pieces(source.plan(source.size - CHUNK, source.size))) == content(CHUNK)


@pytest.mark.parametrize("name", ["Base-Linear.aff4", "Base-Linear-AllHashes.aff4", "Base-Linear.af4"])
def test_hashes_inside_reference_images_are_those_of_our_bytes(name) -> None:
    path = CORPUS / "aff4_pyaff4" / name
    if not path.exists():
        pytest.skip("no corpus")
    reader = FileReader(path)
    volume = Opened(reader, 0)
    (stream,) = (s for s in volume.objects if volume.types(s) & {"ImageStream", "stream"})
    plan = Plan(1)
    Targets([volume], plan, []).target(stream)
    source = build(plan.layouts(reader), [Memory(path.read_bytes())], name)
    data = b"".join(pieces(source.plan(0, source.size)))
    compared = 0
    for term in volume.get(stream, "hash"):
        kind = re.sub(".*#", "", term.datatype).lower()  # type: ignore[union-attr]
        assert hashlib.new(kind, data).hexdigest() == term.value, kind  # type: ignore[union-attr]
        compared += 1
    assert compared == (5 if "All" in name else 2)
    truth = json.loads(path.with_name(name + ".truth.json").read_text())
    media = discover()["aff4"].open(reader, Options())
    assert isinstance(media, Media)
    source = build(media.layouts, [Memory(path.read_bytes())], name)
    digest = hashlib.sha256()
    for at in range(0, source.size, 1 << 20):
        digest.update(b"".join(pieces(source.plan(at, min(at + (1 << 20), source.size)))))
    assert digest.hexdigest() == truth["media_sha256"]
