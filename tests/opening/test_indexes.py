"""Indexes of compressed disks: made once, found again, made again when damaged, kept in memory."""

from __future__ import annotations

import bz2
import gzip
import os
import pty
import random
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from imgfs import limits, runtime
from imgfs.backends import discover
from imgfs.block.hostfile import HostFile
from imgfs.errors import NotSupported
from imgfs.opening.indexes import Indexes, evict
from tests.mounts import COMMAND, ROOT, imgfs, wait_until
from tests.peers import digest, events, layers, watched

pytestmark = pytest.mark.slow
MIB = 1 << 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "imgfs" / "index"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a compressed disk that is too large to be one piece, beside what is in it."""
    rng = random.Random(1)
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        for _ in range(36):
            file.write(rng.choice((bytes(MIB), rng.randbytes(MIB), rng.randbytes(1024) * 1024)))
    (tmp_path / "case").mkdir()
    path = tmp_path / "case" / "disk.raw.gz"
    path.write_bytes(gzip.compress(raw.read_bytes(), 1))
    return path


def begun(point: Path) -> list[str]:
    return [row["event"] for row in events(point) if row["event"].startswith("index.")]


def test_an_index_is_made_once_for_the_user_alone(image: Path, cache: Path, tmp_path: Path) -> None:
    for expected in (["index.begun", "index.made"], []):
        with watched(image, at=tmp_path / "mnt") as point:
            assert begun(point) == expected
            assert digest(point / image.name / "disk.raw") == digest(tmp_path / "raw")
            rng = random.Random(2)
            with (
                (point / image.name / "disk.raw").open("rb", buffering=0) as file,
                (tmp_path / "raw").open("rb") as raw,
            ):
                for _ in range(200):
                    at, length = rng.randrange(36 * MIB), rng.randrange(1, 70_000)
                    assert os.pread(file.fileno(), length, at) == os.pread(raw.fileno(), length, at)
            notes = layers(point, backend="gzip")[0]["notes"]
            assert any("an index was made" in note for note in notes) == bool(expected)
            assert layers(point, backend="gzip")[0]["progress"] is None
    (index,) = cache.iterdir()
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert sorted(path.name for path in image.parent.iterdir()) == [image.name]  # nothing beside the evidence


def test_a_changed_image_has_another_index(image: Path, cache: Path, tmp_path: Path) -> None:
    imgfs("info", image)
    os.utime(image, ns=(1, 1))
    imgfs("info", image)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("where", ["start", "middle", "end", "cut", "empty"])
def test_a_damaged_index_is_made_again(where: str, image: Path, cache: Path, tmp_path: Path) -> None:
    imgfs("info", image)
    (index,) = cache.iterdir()
    data = bytearray(index.read_bytes())
    whole = bytes(data)
    if where == "cut":
        del data[-100:]
    elif where == "empty":
        data.clear()
    else:
        data[{"start": 5, "middle": len(data) // 2, "end": len(data) - 3}[where]] ^= 1
    index.write_bytes(data)
    with watched(image, at=tmp_path / "mnt") as point:
        expected = [] if where == "empty" else ["index.damaged"]
        assert begun(point) == [*expected, "index.begun", "index.made"]
        assert digest(point / image.name / "disk.raw") == digest(tmp_path / "raw")
    (index,) = cache.iterdir()
    assert index.read_bytes() == whole


@pytest.mark.parametrize("hindrance", ["a file", "others may enter", "no home"])
def test_without_a_folder_of_its_own_it_is_kept_in_memory(
    hindrance: str, image: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hindrance == "a file":
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"")
    elif hindrance == "others may enter":
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with watched(image, at=tmp_path / "mnt") as point:
        assert digest(point / image.name / "disk.raw") == digest(tmp_path / "raw")
        assert any("in memory" in note for note in layers(point, backend="gzip")[0]["notes"])
    assert not cache.is_dir() or not list(cache.iterdir())


def test_an_index_that_is_evicted_serves_on(image: Path, cache: Path, tmp_path: Path) -> None:
    with watched(image, at=tmp_path / "mnt") as point:
        (index,) = cache.iterdir()
        os.utime(index)
        index.unlink()
        time.sleep(0)
        assert digest(point / image.name / "disk.raw") == digest(tmp_path / "raw")


def test_a_copy_is_an_index_too(cache: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(random.Random(3).randbytes(3 * MIB) + bytes(40 * MIB) + b"x" * MIB)
    path = tmp_path / "disk.xz"
    with path.open("wb") as file:
        subprocess.run(["xz", "-0", "-T1", "-c", raw], stdout=file, check=True)
    with watched(path, at=tmp_path / "mnt") as point:
        assert digest(point / "disk.xz/disk.raw") == digest(raw)
        assert layers(point, backend="xz")[0]["metadata"]["read by"]


def test_cut_disks_end_in_an_error(image: Path, cache: Path, tmp_path: Path) -> None:
    image.write_bytes(image.read_bytes()[:-100_000])
    with watched(image, at=tmp_path / "mnt") as point:
        layer = layers(point, backend="gzip")[0]
        assert layer["state"] == "incomplete"
        start = layer["lost"][0][0] // 4096 * 4096  # the kernel reads pages
        with (point / image.name / "disk.raw").open("rb") as file, (tmp_path / "raw").open("rb") as raw:
            assert file.read(start) == raw.read(start)
            with pytest.raises(OSError, match="Input/output"):
                file.read()


def test_what_takes_long_shows_how_far_it_is(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "case" / "disk.bz2"
    path.parent.mkdir()
    path.write_bytes(bz2.compress(random.Random(4).randbytes(10 * MIB), 1) * 4)
    for verb in (["info", path], ["mount", path, tmp_path / "mnt"]):
        ours, theirs = pty.openpty()
        done = subprocess.Popen(
            [*COMMAND, *map(str, verb)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        said = bytearray()
        with suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 65536):
                said += data
        os.close(ours)
        assert done.stdout is not None
        done.stdout.close()
        assert done.wait() == 0
        assert b"building index" in said
        for index in cache.iterdir():
            index.unlink()
    imgfs("umount", tmp_path / "mnt")


def test_what_is_interrupted_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "case" / "disk.bz2"
    path.parent.mkdir()
    path.write_bytes(bz2.compress(random.Random(4).randbytes(20 * MIB), 1) * 10)
    for foreground in ((), ("-f",)):
        words = [*COMMAND, "mount", *foreground, str(path), str(tmp_path / "mnt")]
        with subprocess.Popen(
            words,
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # who runs us may ignore it
        ) as process:
            wait_until(lambda: cache.is_dir() and list(cache.iterdir()), 60)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == (0 if foreground else 130)
        assert not runtime.is_mounted(str(tmp_path / "mnt"))
        assert not list(cache.iterdir())


# --- the folder ----------------------------------------------------------------------------------
def written(indexes: Indexes, image: HostFile, *pieces: bytes) -> HostFile:
    draft = indexes.draft(image, discover()["gzip"])

    async def work() -> None:
        for piece in pieces:
            await draft.write(piece)

    try:
        trio.run(work)
        return indexes.keep(draft)
    finally:
        draft.close()


def test_the_oldest_give_way(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 * number, 1000 * number))
    evict(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    left = tmp_path / ".new-abc"
    left.write_bytes(b"x")
    os.utime(left, (0, 0))
    os.utime(tmp_path / "4", (100_000_000, 100_000_000))
    evict(tmp_path, 250)
    assert not left.exists()


def test_what_has_no_room_goes_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_bytes(b"image")
    image = HostFile.open(tmp_path / "image")
    indexes = Indexes(tmp_path / "folder")
    try:
        file = written(indexes, image, b"one", b"two")
        assert file.read(0, 6) == b"onetwo"
        again = indexes.find(image, discover()["gzip"])
        assert again is not None
        assert again.read(0, 6) == b"onetwo"
        indexes.drop(image, discover()["gzip"], again)
        assert indexes.find(image, discover()["gzip"]) is None
        monkeypatch.setattr(limits, "INDEX_FREE_SHARE", 1)
        monkeypatch.setattr(limits, "INDEX_FREE", 1 << 60)
        file = written(indexes, image, b"one", b"two")
        assert file.read(0, 6) == b"onetwo"
        assert not list((tmp_path / "folder").iterdir())
        monkeypatch.setattr(limits, "INDEX_IN_MEMORY", 5)
        with pytest.raises(NotSupported, match="no room"):
            written(indexes, image, b"one", b"two")
        assert not list((tmp_path / "folder").iterdir())
    finally:
        indexes.close()
        image.close()
