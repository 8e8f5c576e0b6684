"""E01 images of every level against ewfexport and ewfinfo; what a lost or damaged part costs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise, run
from tests.mounts import imgfs
from tests.peers import events, layers, watched
from tests.recipes import MIB
from tests.sample import acquire

pytestmark = pytest.mark.slow

CHUNK = 32 * 1024


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a raw disk: noise, zeros, text, and a size that is no multiple of a chunk."""
    path = tmp_path_factory.mktemp("media") / "disk.dd"
    text = b"".join(b"line %d\n" % n for n in range(150_000))
    path.write_bytes((noise(3 * MIB) + bytes(MIB) + text + noise(700_000, 2))[: 5 * MIB + 7 * 512])
    return path


@pytest.fixture(scope="module")
def segments(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the first of at least four segments."""
    need("ewfacquire")
    folder = tmp_path_factory.mktemp("segments")
    acquire(media, folder / "disk", segment="1MiB", level="none")
    assert len(list(folder.iterdir())) >= 4
    return folder / "disk.E01"


@pytest.mark.parametrize(
    ("form", "level"), [("encase6", "best"), ("encase5", "none"), ("ftk", "fast"), ("encase7", "empty-block")]
)
def test_bytes_facts_and_digests_are_as_libewf_says(
    form: str, level: str, media: Path, tmp_path: Path
) -> None:
    need("ewfacquire", "ewfexport", "ewfinfo")
    folder = tmp_path / "case"
    folder.mkdir()
    acquire(media, folder / "disk", segment="2MiB", level=level, form=form)
    first = next(p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".e01", ".ex01"))
    exported = tmp_path / "exported"
    run("ewfexport", "-q", "-u", "-f", "raw", "-t", exported, first)
    info = run("ewfinfo", first)
    with watched(first, at=tmp_path / "m") as point:
        said = (point / first.name / "disk.raw").read_bytes()
        assert said == exported.with_suffix(".raw").read_bytes()
        assert said == media.read_bytes()
        (layer,) = layers(point, backend="ewf")
        assert layer["state"] == "open"
        assert layer["size"] == media.stat().st_size
        assert layer["digests"]["md5"] == hashlib.md5(said).hexdigest()  # noqa: S324  # what is stored
        assert layer["digests"].get("sha1") in (None, hashlib.sha1(said).hexdigest())  # noqa: S324
        for stored in re.findall(r"(?:MD5|SHA1):\s+([0-9a-f]+)", info):
            assert stored in layer["digests"].values()
        told = {value.strip() for value in layer["metadata"].values()}
        for label in ("Case number", "Description", "Examiner name", "Evidence number", "Notes"):
            value = re.search(rf"{label}:\s+(.+)", info)
            assert value, info
            assert value[1].strip() in told, label


def test_a_missing_segment_costs_its_range_and_nothing_else(
    segments: Path, media: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "case"
    shutil.copytree(segments.parent, folder)
    (folder / "disk.E03").unlink()
    truth = media.read_bytes()
    with watched(folder / "disk.E01", at=tmp_path / "m") as point:
        (layer,) = layers(point, backend="ewf")
        assert layer["state"] == "incomplete"
        lost = [(start, stop) for start, stop, _ in layer["lost"]]
        assert len(lost) == 1
        ((start, stop),) = lost
        assert 0 < start < stop < len(truth)
        assert stop - start <= 1100 * 1024
        readable = readable_chunks(point / "disk.E01/disk.raw", truth)
        assert readable == {at for at in range(0, len(truth), CHUNK) if at >= stop or at + CHUNK <= start}
        assert any(event["event"] == "read.failed" for event in events(point))


def readable_chunks(path: Path, truth: bytes) -> set[int]:
    """Return the offsets of the chunks that can be read; those are the truth's, the others EIO."""
    good = set()
    fd = os.open(path, os.O_RDONLY)
    try:
        for at in range(0, len(truth), CHUNK):
            try:
                data = os.pread(fd, CHUNK, at)
            except OSError as why:
                assert why.errno == errno.EIO
            else:
                assert data == truth[at : at + CHUNK]
                good.add(at)
    finally:
        os.close(fd)
    return good


@pytest.fixture
def flipped(media: Path, tmp_path: Path) -> tuple[Path, int]:
    """Return an image with one bit of a chunk flipped, and the chunk's offset."""
    need("ewfacquire")
    folder = tmp_path / "case"
    folder.mkdir()
    acquire(media, folder / "disk", segment="100MiB", level="none")
    image = folder / "disk.E01"
    data = bytearray(image.read_bytes())
    chunk = 40
    at = data.index(media.read_bytes()[chunk * CHUNK : chunk * CHUNK + 64])
    data[at + 1000] ^= 4
    image.write_bytes(data)
    return image, chunk * CHUNK


def test_a_flipped_bit_costs_its_chunk_and_nothing_else(
    flipped: tuple[Path, int], media: Path, tmp_path: Path
) -> None:
    image, bad = flipped
    truth = media.read_bytes()
    with watched(image, at=tmp_path / "m") as point:
        readable = readable_chunks(point / "disk.E01/disk.raw", truth)
        assert readable == set(range(0, len(truth), CHUNK)) - {bad}


def test_verify_finds_the_chunk_and_ends_with_6(flipped: tuple[Path, int]) -> None:
    image, bad = flipped
    done = imgfs("verify", image, check=False)
    assert done.returncode == 6
    assert f"unreadable [{bad}, {bad + CHUNK})" in done.stdout
    rows = json.loads(imgfs("verify", "--json", image, check=False).stdout)
    assert [row[:2] for row in rows["bad"]] == [[bad, bad + CHUNK]]
    assert not rows["sound"]


def test_verify_confirms_what_was_stored(segments: Path, media: Path) -> None:
    done = imgfs("verify", segments)
    assert hashlib.sha1(media.read_bytes()).hexdigest() + "  as stored" in done.stdout  # noqa: S324
