"""Images that build upon others: names are claims, what is missing is lost, nothing else is opened."""

from __future__ import annotations

import os
import random
import shutil
import struct
from pathlib import Path

import pytest
import trio

from imgfs.errors import EvidenceError
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.media import check_media
from tests.backends.qcowimages import (
    convert,
    io,
    media_bytes,
    needs_qemu,
    patch,
    qemu,
    raw_bytes,
    rename_backing,
)
from tests.backends.test_qcow2 import content, opened

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]
CANARY = b"CANARY" * 4000


def chain(folder: Path, seed: int, depth: int) -> tuple[list[Path], bytes]:
    """Return images that build upon each other, the active one first, and what qemu-img reads of it."""
    rng = random.Random(seed)
    size = 2 << 20
    base = folder / "base.raw"
    base.write_bytes(media_bytes(size, seed))
    first, kind = base, "raw"
    if rng.random() < 0.5:
        first, kind = convert(base, folder / "base.qcow2", packed=rng.random() < 0.5), "qcow2"
        base.unlink()
    paths = [first]
    for level in range(depth):
        image = folder / f"level{level}.qcow2"
        size = max(1 << 20, size + rng.choice((-1, 0, 0, 1)) * 300 * 512)
        extended = ",extended_l2=on" if rng.random() < 0.3 else ""
        options = f"cluster_size={1 << rng.randrange(14, 18)}{extended}"
        backing = ["-b", paths[0].name, "-F", kind]
        qemu("create", "-q", "-f", "qcow2", "-o", options, *backing, image.name, size, cwd=folder)
        spots = [(rng.randrange(0, size, 512), rng.randrange(1, 200) * 512) for _ in range(6)]
        verbs = ("write -P 5", "write -z", "discard", "write -z -u")
        io(image, *(f"{rng.choice(verbs)} {at} {min(n, size - at)}" for at, n in spots))
        paths.insert(0, image)
        kind = "qcow2"
    return paths, raw_bytes(paths[0], folder)


@pytest.mark.parametrize("seed", range(10))
def test_a_chain_reads_as_qemu_reads_it(seed, tmp_path) -> None:
    paths, truth = chain(tmp_path, seed, 1 + seed % 4)
    media, _ = opened(paths)
    assert not media.lost
    assert content(paths) == truth


@pytest.mark.parametrize("seed", range(4))
def test_what_a_missing_image_held_is_lost_and_the_rest_is_right(seed, tmp_path) -> None:
    paths, truth = chain(tmp_path, seed, 3)
    for number in range(1, len(paths)):
        kept = [path for index, path in enumerate(paths) if index != number]
        media, _ = opened(kept)
        assert media.wants == (paths[number].name,)
        assert any(paths[number].name in note for note in media.notes)
        expected = bytearray(truth)
        for start, stop, why in media.lost:
            assert why
            expected[start:stop] = bytes(stop - start)
        assert content(kept, lost_zero=True) == expected
        if media.lost:
            with pytest.raises(EvidenceError):
                content(kept)


def test_the_first_version_builds_upon_others_too(tmp_path) -> None:
    (tmp_path / "base.raw").write_bytes(media_bytes(1 << 20))
    qemu("create", "-q", "-f", "qcow", "-b", "base.raw", "-F", "raw", "top.qcow", cwd=tmp_path)
    top = tmp_path / "top.qcow"
    io(top, "write -P 4 100k 50k")
    assert content([top, tmp_path / "base.raw"], "qcow") == raw_bytes(top, tmp_path)


@pytest.mark.parametrize("options", ["", ",data_file_raw=on", ",cluster_size=4k"])
def test_clusters_in_a_data_file(options, tmp_path) -> None:
    image, data = tmp_path / "image.qcow2", tmp_path / "image.data"
    words = ["-o", f"data_file=image.data{options}", image.name, "2M"]
    qemu("create", "-q", "-f", "qcow2", *words, cwd=tmp_path)
    io(image, "write -P 1 0 64k", "write -P 2 1M 300k", "write -z 64k 64k")
    truth = raw_bytes(image, tmp_path)
    assert content([image, data]) == truth
    media, _ = opened([image])
    assert media.wants == ("image.data",)
    expected = bytearray(truth)
    for start, stop, _ in media.lost:
        expected[start:stop] = bytes(stop - start)
    assert content([image], lost_zero=True) == expected
    assert sum(stop - start for start, stop, _ in media.lost) >= 364 << 10


def test_a_chain_that_leads_back_to_itself_ends(tmp_path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    qemu("create", "-q", "-f", "qcow2", base, "1M")
    qemu("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", top.name, cwd=tmp_path)
    rename_backing(base, b"top.qcow2")
    media, _ = opened([top, base])
    assert any("leads back to 'top.qcow2'" in note for note in media.notes)
    assert [(start, stop) for start, stop, _ in media.lost] == [(0, 1 << 20)]
    rename_backing(top, b"top.qcow2")
    assert opened([top])[0].lost


def test_a_chain_ends_at_32_images(tmp_path) -> None:
    paths = [tmp_path / f"{number}.qcow2" for number in range(40)]
    qemu("create", "-q", "-f", "qcow2", paths[0], "1M")
    for path, below in zip(paths[1:], paths, strict=False):
        shutil.copy(paths[0], path)
        rename_backing(path, below.name.encode())
    media, _ = opened(paths[::-1])
    assert any("more than 32" in note for note in media.notes)
    assert media.lost
    media, _ = opened(paths[31::-1])
    assert not media.lost


def test_a_backing_file_that_is_something_else_is_lost(tmp_path) -> None:
    base, top = tmp_path / "base", tmp_path / "top.qcow2"
    qemu("create", "-q", "-f", "vmdk", base, "1M")
    qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "vmdk", top.name, cwd=tmp_path)
    assert opened([top, base])[0].lost
    data = top.read_bytes()
    at = data.index(struct.pack(">II", 0xE2792ACA, 4))
    for claim, lost in ((b"raw\0", False), (b"qcow", True)):
        patch(top, at + 4, struct.pack(">I", 3 if claim == b"raw\0" else 4) + claim)
        assert bool(opened([top, base])[0].lost) == lost
    patch(top, at, struct.pack(">I", 0x12345678))  # no format is said
    assert opened([top, base])[0].lost
    assert opened([top, base])[0].notes


def test_the_contract_holds_on_damaged_chains(tmp_path) -> None:
    paths, truth = chain(tmp_path, 2, 2)
    check_media("qcow2", {path.name: path.read_bytes() for path in paths}, truth, seeds=20)


async def mounted(image: Path) -> tuple[object, bytes | None, int]:
    """Return the outermost layer, the bytes of the disk as far as they can be read, and the open files."""
    async with open_session([image], Settings()) as session:
        await session.resolve()
        layer = next(iter(session.layers))
        disk = await session.find([image.name.encode(), b"disk.raw"])
        file = await session.open(disk)
        read = bytearray()
        for at in range(0, file.size, 65536):
            try:
                read += await file.read(at, 65536)
            except EvidenceError:
                read += b"?" * min(65536, file.size - at)
        return layer, bytes(read), len(session.evidence[0].files)


def test_files_beside_the_image_are_brought_by_the_session(tmp_path) -> None:
    paths, truth = chain(tmp_path, 1, 3)
    layer, data, files = trio.run(mounted, paths[0])
    assert (layer.state, data) == ("open", truth)
    assert files == len(paths)
    assert sorted(layer.members) == sorted(path.name for path in paths)
    paths[1].unlink()
    layer, data, files = trio.run(mounted, paths[0])
    assert layer.state == "incomplete"
    assert files == 1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_raw_disk_that_begins_like_an_image_stays_readable(version, tmp_path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"QFI\xfb" + version.to_bytes(4, "big") + media_bytes(1 << 18)[8:])
    layer, data, _ = trio.run(mounted, image)
    assert layer.state in {"damaged", "unsupported"}
    assert data == image.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        b"/CANARY",
        b"../secret/canary",
        b"../canary",
        b"./canary-link",
        b"canary-link",
        b"canary-dir",
        b"canary-fifo",
        b"secret/../../canary",
        b"/dev/zero",
        b"/proc/self/mem",
        b'json:{"driver":"file","filename":"../canary"}',
        b"file:../canary",
        b"nbd://127.0.0.1/canary",
        b"..",
        b".",
        b"",
        b"canary-link\0.qcow2",
        b"\xff\xfe",
        b"a" * 1023,
    ],
)
@pytest.mark.parametrize("kind", ["", "data"])
def test_names_that_lead_elsewhere_bring_nothing(name, kind, tmp_path) -> None:
    folder = tmp_path / "evidence"
    (folder / "secret").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for place in (tmp_path / "canary", tmp_path / "secret" / "canary"):
        place.write_bytes(CANARY)
    (folder / "canary-link").symlink_to("../canary")
    (folder / "canary-dir").mkdir()
    os.mkfifo(folder / "canary-fifo")
    name = str(tmp_path / "canary").encode() if name == b"/CANARY" else name
    image = folder / "image.qcow2"
    if kind:
        qemu("create", "-q", "-f", "qcow2", "-o", "data_file=image.data", image.name, "128k", cwd=folder)
        io(image, "write -P 1 0 64k")
        (folder / "image.data").unlink()
        data = image.read_bytes()
        at = data.index(struct.pack(">II", 0x44415441, 10))
        rest = data[at + 24 : at + 1024]
        patch(image, at + 4, struct.pack(">I", len(name)) + name + bytes(-len(name) % 8) + rest)
    else:
        qemu("create", "-q", "-f", "qcow2", image, "128k")
        rename_backing(image, name)
    layer, read, files = trio.run(mounted, image)
    assert files == 1
    assert b"CANARY" not in read
    assert layer.state in {"incomplete", "damaged"}
    if layer.state == "incomplete":
        assert read.startswith(b"?" * 65536)
        assert layer.notes


@pytest.mark.parametrize("place", [(0x8000, 0xFFFF_FFFF), (0x8000, 1024), (1 << 60, 10), (2**64 - 1, 1)])
def test_a_name_that_cannot_be_is_refused(place, tmp_path) -> None:
    image = tmp_path / "image.qcow2"
    qemu("create", "-q", "-f", "qcow2", image, "128k")
    patch(image, 8, struct.pack(">QI", *place))
    media, _ = opened([image])
    assert media.lost == ((0, 128 << 10, "the backing file '' is not at hand"),)
    assert not media.wants
