"""Volume shadow copies against vshadowmount: composed stores of every kind, and a real volume."""

from __future__ import annotations

import json
import os
import random
import subprocess
from array import array
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgfs.backends import Options
from imgfs.backends.vss import open_vss
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import LOST, Media, VolumeTable
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.worker import checks, wire
from tests.backends.vssimages import BLOCK, FORWARDER, OVERLAY, TIME, UNUSED, Store, Volume
from tests.mounts import mounted

SHARED = os.environ.get("IMGFS_SHARED", "")


def opened(reader, state: str = "") -> Media | VolumeTable:
    reader.table = b""
    answer = open_vss(reader, Options(state=state))
    checks.check_opened(wire.OpenReply(opened=answer, table=len(reader.table) or -1), [reader.size])
    return answer


def content(reader, state: int) -> bytes:
    """Read a copy; what is lost as bytes that say so."""
    media = opened(reader, str(state))
    assert isinstance(media, Media)
    (layout,) = media.layouts
    out, at = [], 0
    columns = (array("q", column) for column in (layout.logical, layout.length, layout.target))
    for logical, length, target in zip(*columns, strict=True):
        assert logical == at, "no gaps"
        at += length
        out.append(
            reader.read(target, length) if target >= 0 else (b"\xee" if target == LOST else b"\0") * length
        )
    assert at == layout.size
    return b"".join(out)


@contextmanager
def vshadowmount(path: Path, at: Path):
    at.mkdir(exist_ok=True)
    done = subprocess.run(["vshadowmount", str(path), str(at)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    try:
        yield at
    finally:
        subprocess.run(["fusermount", "-u", str(at)], check=True)


def random_stores(rng: random.Random, count: int, blocks: int) -> list[Store]:
    """Return stores with blocks kept, forwarded, laid over, unused; all within the lower half."""
    stores = []
    for _ in range(count):
        rows = []
        for _ in range(rng.randrange(25)):
            original = rng.randrange(2, blocks // 2) * BLOCK
            offset = rng.randrange(blocks // 2, blocks * 3 // 4) * BLOCK
            match rng.randrange(6):
                case 0:
                    rows.append((original, rng.randrange(2, blocks // 2) * BLOCK, 0, FORWARDER, 0))
                case 1:
                    rows.append((original, 1, offset, OVERLAY, rng.getrandbits(32)))
                case 2:
                    rows.append((original, BLOCK, offset, UNUSED, 0))
                case _:
                    rows.append((original, BLOCK * rng.randrange(1, 9), offset, 0, 0))
        free = {n for n in range(2, blocks) if rng.randrange(3) == 0}
        before = {n for n in range(2, blocks) if rng.randrange(2)} if rng.randrange(2) else None
        stores.append(Store(rows, free, before))
    return stores


def test_copies_are_listed_oldest_first(tmp_path) -> None:
    image = Volume(64).finish([Store([]), Store([]), Store([])], order=[2, 0, 1])
    table = opened(MemoryReader(image))
    assert isinstance(table, VolumeTable)
    assert [volume.slot for volume in table.volumes] == [1, 2, 3]
    assert [volume.unique_id[-2:] for volume in table.volumes] == ["64", "65", "66"]
    ns = [(TIME + number - 116_444_736_000_000_000) * 100 for number in range(3)]
    assert [volume.created_ns for volume in table.volumes] == ns
    assert {volume.stop for volume in table.volumes} == {64 * BLOCK}
    assert opened(MemoryReader(Volume(64).finish([]))).volumes == ()


@pytest.mark.parametrize("seed", range(12))
def test_vshadowmount_shows_the_same(tmp_path, seed) -> None:
    rng = random.Random(seed)
    stores = random_stores(rng, rng.randrange(1, 5), 128)
    image = Volume(128, seed).finish(stores, spread=bool(seed % 2))
    path = tmp_path / "v.raw"
    path.write_bytes(image)
    with vshadowmount(path, tmp_path / "m") as root:
        for number in range(1, len(stores) + 1):
            theirs = (root / f"vss{number}").read_bytes()
            mine = content(MemoryReader(image), number)
            wrong = [
                at // BLOCK for at in range(0, len(mine), 512) if mine[at : at + 512] != theirs[at : at + 512]
            ]
            assert not wrong, (number, wrong, stores)


@pytest.mark.skipif(not SHARED, reason="the corpus is not here")
def test_a_real_volume_is_what_vshadowmount_shows(tmp_path) -> None:
    raw = tmp_path / "v.raw"
    image = Path(SHARED) / "corpus/log2timeline_dfvfs_2019/vsstest.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    reader = FileReader(raw)
    with vshadowmount(raw, tmp_path / "m") as root:
        for number in (1, 2):
            media = opened(reader, str(number))
            assert isinstance(media, Media)
            layout = media.layouts[0]
            columns = (array("q", column) for column in (layout.logical, layout.length, layout.target))
            with (root / f"vss{number}").open("rb") as theirs:
                for logical, length, target in zip(*columns, strict=True):
                    if length > BLOCK * 64:  # what did not change, and what nothing used
                        continue
                    theirs.seek(logical)
                    assert theirs.read(length) == (
                        reader.read(target, length) if target >= 0 else bytes(length)
                    )


def test_a_store_that_is_cut_gives_an_error_and_not_a_later_state() -> None:
    rows = [(n * BLOCK, BLOCK, (n + 20) * BLOCK, 0, 0) for n in range(2, 12)]
    volume = Volume(64)
    image = bytearray(volume.finish([Store(rows), Store([])], spread=True))
    assert content(MemoryReader(bytes(image)), 1)[2 * BLOCK : 3 * BLOCK] == image[22 * BLOCK : 23 * BLOCK]
    at = 62 * BLOCK  # the second block of its list
    image[at : at + 16] = bytes(16)
    with pytest.raises(Malformed, match="type 3"):
        opened(MemoryReader(bytes(image)), "1")
    opened(MemoryReader(bytes(image)), "2")  # the later one does not need it


def test_what_leads_nowhere_is_lost() -> None:
    rows = [
        (2 * BLOCK, BLOCK, 1 << 40, 0, 0),
        (3 * BLOCK, 100, 0, FORWARDER, 0),
        (4 * BLOCK + 1, 0, BLOCK, 0, 0),
    ]
    image = Volume(64).finish([Store(rows)])
    shown = content(MemoryReader(image), 1)
    assert shown[2 * BLOCK : 4 * BLOCK] == b"\xee" * 2 * BLOCK
    media = opened(MemoryReader(image), "1")
    assert any("lost" in note for note in media.notes)


@pytest.mark.parametrize("state", ["0", "3", "x", "-1", "1" * 30])
def test_a_copy_that_is_not_there_is_refused(state) -> None:
    with pytest.raises(Malformed):
        opened(MemoryReader(Volume(64).finish([Store([]), Store([])])), state)


def test_mutations_end_in_an_answer_or_an_error() -> None:
    rng = random.Random(3)
    volume = Volume(64)
    image = volume.finish(random_stores(rng, 3, 64), spread=True)
    spots = [0x1E00 + n for n in range(100)]
    spots += [at * BLOCK + n for at in range(volume.top, 64) for n in range(300)]
    for _ in range(300):
        mutant = bytearray(image)
        for _ in range(rng.randrange(1, 4)):
            spot = rng.choice(spots)
            mutant[spot : spot + 8] = rng.choice([rng.randbytes(8), b"\xff" * 8, bytes(8)])
        for state in ("", "1", "3"):
            try:
                opened(MemoryReader(bytes(mutant)), state)
            except (NotMine, EvidenceError):
                continue


@pytest.mark.parametrize("start", [0, 1 << 20], ids=["whole", "partition"])
def test_a_mounted_volume_has_its_copies_beside_the_live_tree(tmp_path, start) -> None:
    """NTFS written by mkntfs and ntfscp; what a file was lies in a store."""
    path, text = tmp_path / "v.img", tmp_path / "t.txt"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkntfs", "-F", "-q", "-c", "4096", path], check=True, capture_output=True)
    text.write_bytes(b"as it was  " * 4000)
    subprocess.run(["ntfscp", "-f", "-q", path, text, "was.txt"], check=True, capture_output=True)
    before = path.read_bytes()
    text.write_bytes(b"as it is now" * 4000)
    subprocess.run(["ntfscp", "-f", "-q", path, text, "was.txt"], check=True, capture_output=True)
    subprocess.run(["ntfscp", "-f", "-q", path, text, "new.txt"], check=True, capture_output=True)
    now = path.read_bytes()
    changed = [at for at in range(0, len(now), BLOCK) if now[at : at + BLOCK] != before[at : at + BLOCK]]
    volume = Volume(1)
    volume.data = bytearray(now) + bytes((len(changed) + 64) * BLOCK)
    volume.top = len(volume.data) // BLOCK
    rows = []
    for at in changed:
        place = volume.take()
        volume.data[place : place + BLOCK] = before[at : at + BLOCK]
        rows.append((at, BLOCK, place, 0, 0))
    image = volume.finish([Store(rows)])
    path.write_bytes(bytes(start) + image)
    if start:
        script = f"start={start // 512}, size={len(image) // 512}, type=7"
        subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True)
    (tmp_path / "m").mkdir()
    with mounted(path, at=tmp_path / "m") as root:
        folder = root / path.name / ("01-ntfs" if start else "00-ntfs")
        assert {"root", "vss1", "vss1.raw", "volume.raw"} <= {p.name for p in folder.iterdir()}
        assert (folder / "root/was.txt").read_bytes() == b"as it is now" * 4000
        assert (folder / "vss1/was.txt").read_bytes() == b"as it was  " * 4000
        assert not (folder / "vss1/new.txt").exists()
        layers = json.loads((root / ".imgfs/layers.json").read_text())["layers"]
        assert [x["state"] for x in layers if "|vss:1" in x["spec"]] == ["open", "open"]
        assert (folder / "root/new.txt").exists()
        assert (folder / "vss1.raw").stat().st_mtime_ns == (TIME - 116_444_736_000_000_000) * 100
        with (folder / "vss1.raw").open("rb") as raw:
            shown = raw.read(len(before))
        assert shown[0x2000:] == before[0x2000:]
