"""EWF: every variant that ewfacquire writes reads as what was acquired; damage costs its range only."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import trio

from imgfs.backends import Options
from imgfs.backends.ewf import open_ewf, siblings
from imgfs.block.build import build
from imgfs.block.fetch import open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.errors import BadUnit, EvidenceError, LostBytes, Malformed, NotMine
from imgfs.model import Foreign, Media
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import check_media
from tests.conftest import shared

needs_ewfacquire = pytest.mark.skipif(shutil.which("ewfacquire") is None, reason="ewfacquire is missing")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CORPUS = (shared() or Path("nowhere")) / "corpus"
SECTOR = 512


def media_bytes(size: int = 3 * 1024 * 1024 + 5 * SECTOR) -> bytes:
    """Return text, noise and zeros: chunks that compress, that do not, and empty ones."""
    rng = random.Random(7)
    text = b"".join(b"line %d of a log\n" % rng.randrange(10**6) for _ in range(60_000))
    return (text[: size // 3] + rng.randbytes(size // 3) + bytes(size))[: size - 100_000] + rng.randbytes(
        100_000
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "media.raw"
    path.write_bytes(media_bytes())
    return path


def acquire(raw: Path, folder: Path, *options: str) -> list[Path]:
    """Return the segments ewfacquire writes, in order."""
    command = ["ewfacquire", "-u", "-q", "-t", str(folder / "image"), "-C", "case 7", "-e", "examiner"]
    subprocess.run([*command, "-d", "sha1", *options, str(raw)], check=True, capture_output=True)
    return sorted(folder.glob("image.*"))


def opened(paths: list[Path]) -> tuple[Media, list[FileReader]]:
    others = [FileReader(path) for path in paths[1:]]
    reader = FileReader(paths[0], others=others)
    result = open_ewf(reader, Options())
    return result if isinstance(result, Media) else result.media, [reader, *others]


def read_all(paths: list[Path], media: Media, *, lost_zero: bool = False, table: bytes = b"") -> bytes:
    """Return the bytes of the media through the block layer."""

    async def run() -> bytes:
        files = [HostFile.open(path) for path in paths]
        source = build(media.layouts, files, "ewf", table=memoryview(table) if table else None)
        out = bytearray()
        async with open_fetcher(lost_zero=lost_zero) as fetcher:
            for at in range(0, source.size, 1 << 20):
                out += await fetcher.fetch(source, at, min(at + (1 << 20), source.size))
            fetcher.debug_check()
        for file in files:
            file.close()
        return bytes(out)

    return trio.run(run)


FORMATS = [
    "encase1",
    "encase2",
    "encase3",
    "encase4",
    "encase5",
    "encase6",
    "encase7",
    "smart",
    "ftk",
    "ewfx",
]
FORMATS += ["linen5", "linen6", "linen7"]


@needs_ewfacquire
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_reads_as_what_was_acquired(kind, raw, tmp_path) -> None:
    paths = acquire(raw, tmp_path, "-f", kind, "-c", "fast")
    media, _ = opened(paths)
    data = raw.read_bytes()
    assert not media.lost
    assert not any(isinstance(layout, Foreign) for layout in media.layouts)
    assert read_all(paths, media) == data
    assert media.digests["md5"] == hashlib.md5(data).hexdigest()  # noqa: S324
    if kind in {"encase6", "encase7", "linen6", "linen7"}:
        assert media.digests["sha1"] == hashlib.sha1(data).hexdigest()  # noqa: S324
    assert media.metadata["case_number"] == "case 7"
    assert media.metadata["examiner"] == "examiner"


@needs_ewfacquire
@pytest.mark.parametrize("options", [["-c", "none"], ["-c", "empty-block"], ["-c", "best"], ["-b", "1024"]])
def test_every_compression_and_chunk_size_reads_as_what_was_acquired(options, raw, tmp_path) -> None:
    paths = acquire(raw, tmp_path, "-f", "encase6", *options)
    media, _ = opened(paths)
    assert read_all(paths, media) == raw.read_bytes()


@pytest.fixture(scope="module")
def segments(raw, tmp_path_factory):
    if shutil.which("ewfacquire") is None:
        pytest.skip("ewfacquire is missing")
    paths = acquire(raw, tmp_path_factory.mktemp("segments"), "-f", "encase6", "-c", "none", "-S", "1 MiB")
    assert len(paths) == 4
    return paths


def test_segments_may_come_in_any_order(raw, segments) -> None:
    shuffled = [segments[2], segments[0], segments[3], segments[1]]
    media, _ = opened(shuffled)
    assert read_all(shuffled, media) == raw.read_bytes()


@pytest.mark.parametrize("missing", [{0}, {1}, {2}, {3}, {1, 2}, {1, 3}])
def test_a_missing_segment_loses_only_its_range(missing, raw, segments) -> None:
    data = raw.read_bytes()
    kept = [path for number, path in enumerate(segments) if number not in missing]
    media, _ = opened(kept)
    assert media.lost
    assert any("missing" in note for note in media.notes)
    got = read_all(kept, media, lost_zero=True)
    expected = bytearray(data)
    for start, stop, why in media.lost:
        assert why
        expected[start:stop] = bytes(stop - start)
    assert got == expected
    lost = sum(stop - start for start, stop, _ in media.lost)
    share = {0: 1.1, 1: 1.1, 2: 1.1, 3: 0.2}
    gone = sum(share[number] for number in missing) if missing != {1, 3} else 2.3  # 2 cannot be placed
    assert lost <= gone * 2**20
    with pytest.raises(LostBytes):
        read_all(kept, media)


def test_two_segments_of_one_number_are_lost_and_other_files_left_out(raw, segments, tmp_path) -> None:
    alien = acquire(raw, tmp_path, "-f", "encase6", "-c", "none", "-S", "1 MiB")
    other = tmp_path / "image.txt"
    other.write_text("no image")
    paths = [*segments, alien[1], other]
    media, _ = opened(paths)
    assert any("a second segment 2; both are left out" in note for note in media.notes)
    assert any("image.txt: no EWF segment" in note for note in media.notes)
    ((start, stop, _),) = media.lost
    expected = bytearray(raw.read_bytes())
    expected[start:stop] = bytes(stop - start)
    assert read_all(paths, media, lost_zero=True) == expected


@needs_ewfacquire
@pytest.mark.parametrize("kind", ["encase1", "encase6", "smart"])
def test_the_contract_of_media(kind, tmp_path) -> None:
    data = media_bytes(5 * 64 * SECTOR)
    raw = tmp_path / "raw"
    raw.write_bytes(data)
    folder = tmp_path / "images"
    folder.mkdir()
    paths = acquire(raw, folder, "-f", kind, "-c", "fast")
    check_media("ewf", {path.name: path.read_bytes() for path in paths}, data, verified=True)


@needs_ewfacquire
def test_the_contract_of_media_in_segments(raw, segments) -> None:
    files = {path.name: path.read_bytes() for path in segments}
    check_media("ewf", files, raw.read_bytes(), verified=True, seeds=20)


def test_a_damaged_table_is_replaced_by_its_copy(raw, segments, tmp_path) -> None:
    paths = [shutil.copy(path, tmp_path) for path in segments]
    damage(Path(paths[1]), b"table\0")
    media, _ = opened([Path(path) for path in paths])
    assert any("its copy is used" in note for note in media.notes)
    assert not media.lost
    assert read_all(paths, media) == raw.read_bytes()


def test_a_table_without_good_copy_loses_only_its_range(raw, segments, tmp_path) -> None:
    paths = [Path(shutil.copy(path, tmp_path)) for path in segments]
    damage(paths[1], b"table\0")
    damage(paths[1], b"table2\0")
    media, _ = opened(paths)
    ((start, stop, why),) = media.lost
    assert "checksum" in why
    expected = bytearray(raw.read_bytes())
    expected[start:stop] = bytes(stop - start)
    assert stop - start < 1.1 * 2**20
    assert read_all(paths, media, lost_zero=True) == expected


def damage(path: Path, section: bytes) -> None:
    """Flip a bit in the entries of a table."""
    data = bytearray(path.read_bytes())
    at = data.index(section.ljust(16, b"\0")) + 76 + 24 + 5
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_a_chunk_is_a_bad_unit_and_its_neighbours_are_read(raw, segments, tmp_path) -> None:
    paths = [Path(shutil.copy(path, tmp_path)) for path in segments]
    data = bytearray(paths[0].read_bytes())
    data[data.index(b"sectors".ljust(16, b"\0")) + 76 + 40_000] ^= 4
    paths[0].write_bytes(data)
    media, _ = opened(paths)

    async def run() -> None:
        files = [HostFile.open(path) for path in paths]
        source = build(media.layouts, files, "image.E01|ewf")
        async with open_fetcher() as fetcher:
            for _ in range(2):
                with pytest.raises(BadUnit, match=r"image.E01\|ewf: .*\[32768, 65536\)"):
                    await fetcher.fetch(source, 40_000, 40_001)
            assert await fetcher.fetch(source, 0, 32768) == raw.read_bytes()[:32768]
            assert await fetcher.fetch(source, 65536, 98304) == raw.read_bytes()[65536:98304]
        for file in files:
            file.close()

    trio.run(run)


def test_a_table_that_overflows_is_read_by_libewf(raw, segments, tmp_path) -> None:
    pytest.importorskip("pyewf")
    paths = [Path(shutil.copy(path, tmp_path)) for path in segments]
    data = bytearray(paths[0].read_bytes())
    at = data.index(b"table".ljust(16, b"\0")) + 76 + 24
    count = int.from_bytes(data[at - 24 : at - 20], "little")
    first, second = bytes(data[at : at + 4]), bytes(data[at + 4 : at + 8])
    data[at : at + 8] = second + first
    data[at + 4 * count : at + 4 * count + 4] = zlib.adler32(data[at : at + 4 * count]).to_bytes(4, "little")
    paths[0].write_bytes(data)
    reader = FileReader(paths[0], others=[FileReader(path) for path in paths[1:]])
    result = open_ewf(reader, Options())
    assert not isinstance(result, Media)
    assert isinstance(result.media.layouts[-1], Foreign)
    assert "ascend" in result.media.notes[0]
    assert result.read(2**20, 5000) == raw.read_bytes()[2**20 : 2**20 + 5000]


def test_no_signature_is_not_mine_and_no_volume_is_malformed() -> None:
    with pytest.raises(NotMine):
        open_ewf(MemoryReader(b"LVF\x09\x0d\x0a\xff\x00" + bytes(200)), Options())
    with pytest.raises(Malformed):
        open_ewf(MemoryReader(b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00" + bytes(200)), Options())


@pytest.mark.parametrize(
    "name, yes, no",
    [
        ("a.b.E01", ["a.b.E01", "a.b.E02", "a.b.E99", "a.b.EAA", "a.b.FAA", "a.b.ZZZ"], ["a.E02", "axb.E02"]),
        ("disk.s01", ["disk.s02", "disk.saa"], ["disk.e02", "disk.iso", "disk.raw"]),
    ],
)
def test_segment_names_are_siblings(name, yes, no) -> None:
    import re

    pattern = siblings(name)
    assert pattern
    assert all(re.fullmatch(pattern, other) for other in yes)
    assert not any(re.fullmatch(pattern, other) for other in no)


def test_other_names_have_no_siblings() -> None:
    assert not siblings("disk.raw")


def corpus_entries() -> list[dict]:
    index = CORPUS / "INDEX.json"
    entries = json.loads(index.read_text()) if index.exists() else []
    return [e for e in entries if e.get("container") == "ewf" and not e["hostile"] and e.get("truth")]


@pytest.mark.parametrize("entry", corpus_entries() or [None], ids=lambda e: e["image"] if e else "none")
def test_images_of_other_writers_read_as_ewfexport_reads_them(entry, tmp_path) -> None:
    if entry is None:
        pytest.skip("the corpus is not beside the project")
    truth = json.loads((CORPUS / entry["truth"]).read_text())
    if "media_md5" not in truth:
        pytest.skip("no truth about the media")
    paths = []
    for name in entry["files"]:
        path = tmp_path / Path(name).name.removesuffix(".xz")
        data = (CORPUS / name).read_bytes()
        path.write_bytes(lzma.decompress(data) if name.endswith(".xz") else data)
        paths.append(path)
    media, _ = opened(paths)
    try:
        data = read_all(paths, media)
    except EvidenceError:  # an error only where the peer finds damage, too (and fills it with zeros)
        assert subprocess.run(["ewfverify", "-q", paths[0]], capture_output=True, check=False).returncode
    else:
        assert hashlib.md5(data).hexdigest() == truth["media_md5"]  # noqa: S324
