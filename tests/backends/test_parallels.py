"""Parallels: what qemu-img writes reads as what was converted; bundles are composed here."""

from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING, cast

import pytest
import trio

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Linear, Media
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import check_media
from tests.backends.qcowimages import convert, io, media_bytes, needs_qemu, patch, qemu, raw_bytes
from tests.backends.test_ewf import read_all
from tests.backends.test_vmdk import masked, members, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from imgfs.backends import Reader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]
MIB = 1 << 20
BLOCK = 63 * 512
GUIDS = [f"{number:08x}-1111-2222-3333-444444444444" for number in range(1, 60)]
NOBODY = "00000000-0000-0000-0000-000000000000"
DESCRIPTOR = "DiskDescriptor.xml"


def expandable(size: int, blocks: Mapping[int, bytes], *, block: int = BLOCK, old: bool = True) -> bytes:
    """Return an image whose blocks are stored in the order given."""
    count = -(-size // block)
    magic = b"WithoutFreeSpace" if old else b"WithouFreSpacExt"
    at = -(-(64 + 4 * count) // (512 if old else block)) * (512 if old else block)
    table = [0] * count
    data = b""
    for index, content in blocks.items():
        table[index] = (at + len(data)) // (512 if old else block)
        data += content.ljust(block, b"\0")
    fields = (2, 16, 100, block // 512, count, size // 512, 0x312E3276, at // 512, 0, 0)
    head = struct.pack("<16sIIIIIQIIIQ", magic, *fields) + struct.pack(f"<{count}I", *table)
    return head.ljust(at, b"\0") + data


def bundle(
    storages: Sequence[tuple[int, int, Sequence[tuple[str, str, str]]]],
    shots: Sequence[tuple[str, str]],
    top: str,
    extra: str = "",
) -> bytes:
    """Return a descriptor of storages (start, stop, images (guid, type, file)) and snapshots."""
    text = "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n"
    text += f"<Disk_Parameters><Disk_size>{storages[-1][1] // 512}</Disk_size><Heads>16</Heads>{extra}"
    text += f"<Encryption><Engine>{{{NOBODY}}}</Engine><Data></Data></Encryption><Name>d &amp; e</Name>"
    text += "</Disk_Parameters><!-- nothing <Storage> here -->\n<StorageData>"
    for start, stop, images in storages:
        text += f"<Storage><Start>{start // 512}</Start><End>{stop // 512}</End><Blocksize>63</Blocksize>"
        for guid, kind, name in images:
            text += f"<Image><GUID>{{{guid}}}</GUID><Type>{kind}</Type><File>{name}</File></Image>"
        text += "</Storage>"
    text += f"</StorageData>\n<Snapshots><TopGUID>{{{top}}}</TopGUID>"
    for guid, parent in shots:
        text += f"<Shot><GUID>{{{guid}}}</GUID><ParentGUID>{{{parent}}}</ParentGUID></Shot>"
    return (text + "</Snapshots><Empty/></Parallels_disk_image>\n").encode()


def opened(first: Path) -> tuple[Media, bytes]:
    readers = [FileReader(path) for path in members(first)]
    readers[0].others = cast("list[Reader]", readers[1:])
    media = discover()["parallels"].open(readers[0], Options())
    assert isinstance(media, Media)
    return media, readers[0].table


def content(first: Path, *, lost_zero: bool = False) -> bytes:
    media, table = opened(first)
    return read_all(members(first), media, lost_zero=lost_zero, table=table)


@pytest.mark.parametrize("options", ["", "cluster_size=64k", "cluster_size=4M"])
def test_what_qemu_writes_reads_as_what_was_converted(options, tmp_path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(media_bytes(5 * MIB))
    (tmp_path / "d").mkdir()
    image = convert(raw, tmp_path / "d" / "disk.hds", kind="parallels", options=options)
    media, _ = opened(image)
    assert (media.lost, media.notes, media.wants) == ((), (), (DESCRIPTOR,))
    truth = raw_bytes(image, tmp_path)
    assert truth.startswith(raw.read_bytes())
    assert content(image) == truth


@pytest.mark.parametrize("seed", range(6))
def test_random_writes_read_as_qemu_reads_them(seed, tmp_path) -> None:
    rng = random.Random(seed)
    size = rng.randrange(1, 40) * MIB
    image = tmp_path / "d" / "disk.hdd"
    image.parent.mkdir()
    qemu(
        "create",
        "-q",
        "-f",
        "parallels",
        "-o",
        f"cluster_size={rng.choice(('64k', '1M', '256k'))}",
        image,
        size,
    )
    spots = [(rng.randrange(0, size, 512), rng.randrange(1, 900) * 512) for _ in range(20)]
    io(image, *(f"write -P {step + 1} {at} {min(n, size - at)}" for step, (at, n) in enumerate(spots)))
    assert content(image) == raw_bytes(image, tmp_path)


@pytest.mark.parametrize("old", [True, False])
def test_blocks_of_63_sectors_in_any_order(old, tmp_path) -> None:
    size = 100 * BLOCK - 7 * 512
    order = random.Random(3).sample(range(100), 60)
    blocks = {index: random.Random(index).randbytes(BLOCK) for index in order}
    image = written(tmp_path / "d", {"d.hdd": expandable(size, blocks, old=old)})
    expected = bytearray(size)
    for index, data in blocks.items():
        expected[index * BLOCK : (index + 1) * BLOCK] = data[: size - index * BLOCK]
    assert content(image) == expected == raw_bytes(image, tmp_path)


def snapshots(folder: Path, *, depth: int = 3, seed: int = 1) -> tuple[Path, list[bytes]]:
    """Return a bundle of two storages with snapshots, and its disk at each, the oldest first."""
    rng = random.Random(seed)
    half = 40 * BLOCK
    files: dict[str, bytes] = {}
    states = [bytes(2 * half)]
    storages: list[tuple[int, int, list[tuple[str, str, str]]]] = [(0, half, []), (half, 2 * half, [])]
    for level in range(depth):
        disk = bytearray(states[-1])
        for part, (start, _, images) in enumerate(storages):
            blocks = {index: rng.randbytes(BLOCK) for index in rng.sample(range(40), 20 if level else 30)}
            name = f"d.hdd.{part}.{{{GUIDS[level]}}}.hds"
            if not level and part:
                files[name], kind = rng.randbytes(half), "Plain"
                disk[start : start + half] = files[name]
            else:
                files[name], kind = expandable(half, blocks, old=bool(level % 2)), "Compressed"
                for index, data in blocks.items():
                    disk[start + index * BLOCK : start + (index + 1) * BLOCK] = data
            images.append((GUIDS[level], kind, name))
        states.append(bytes(disk))
    shots = [(GUIDS[level], GUIDS[level - 1] if level else NOBODY) for level in range(depth)]
    text = bundle(storages, shots, GUIDS[depth - 1])
    return written(folder, {DESCRIPTOR: text, **files}), states[1:]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_bundle_with_snapshots(depth, tmp_path) -> None:
    image, states = snapshots(tmp_path / "d.hdd", depth=depth)
    media, _ = opened(image)
    assert (media.lost, media.notes, media.wants) == ((), (), ())
    assert media.metadata["name"] == "d & e"
    assert content(image) == states[-1]


def test_an_image_of_a_snapshot_is_read_with_those_below(tmp_path) -> None:
    image, states = snapshots(tmp_path / "d.hdd", depth=3)
    for level, state in enumerate(states):
        named = image.parent / f"d.hdd.0.{{{GUIDS[level]}}}.hds"
        assert content(named) == state[: 40 * BLOCK]


def test_what_a_missing_image_held_is_lost_and_the_rest_is_right(tmp_path) -> None:
    image, states = snapshots(tmp_path / "d.hdd", depth=3)
    for path in members(image)[1:]:
        hidden = path.rename(tmp_path / "hidden")
        media, _ = opened(image)
        assert media.wants == (path.name,)
        assert media.lost
        assert content(image, lost_zero=True) == masked(states[-1], media)
        hidden.rename(path)


def test_names_that_lead_elsewhere_are_refused_and_said(tmp_path) -> None:
    (tmp_path / "secret").write_bytes(b"CANARY" * 1000)
    names = ["/etc/passwd", "../secret", "", "a/../b", ".."]
    storages = [
        (step * 4096, (step + 1) * 4096, [(GUIDS[0], "Plain", name)]) for step, name in enumerate(names)
    ]
    media, _ = opened(written(tmp_path / "d", {DESCRIPTOR: bundle(storages, [], GUIDS[0])}))
    assert [row[:2] for row in media.lost] == [row[:2] for row in storages]
    assert not media.wants
    assert len(media.notes) == len(names)


def test_cycles_and_long_chains_end(tmp_path) -> None:
    size = 4 * BLOCK
    image = expandable(size, {0: b"a"})
    storages = [(0, size, [(GUIDS[0], "Compressed", "a.hds"), (GUIDS[1], "Compressed", "b.hds")])]
    text = bundle(storages, [(GUIDS[0], GUIDS[1]), (GUIDS[1], GUIDS[0])], GUIDS[0])
    media, _ = opened(written(tmp_path / "cycle", {DESCRIPTOR: text, "a.hds": image, "b.hds": image}))
    assert any("builds upon itself" in why for _, _, why in media.lost)
    files = {f"{step}.hds": image for step in range(40)}
    storages = [(0, size, [(GUIDS[step], "Compressed", f"{step}.hds") for step in range(40)])]
    text = bundle(storages, [(GUIDS[step], GUIDS[step + 1]) for step in range(40)], GUIDS[0])
    media, _ = opened(written(tmp_path / "long", {DESCRIPTOR: text, **files}))
    assert any("more than 32" in why for _, _, why in media.lost)


@pytest.mark.parametrize(
    "part", [b"<!--", b"<?", b"<Storage", b"<a>", b"<a/>", b"&amp;", b"</a>", b"<!DOCTYPE"]
)
def test_a_hostile_descriptor_takes_no_time(part) -> None:
    data = b"<Parallels_disk_image>" + part * ((MIB - 100) // len(part))
    begin = time.process_time()
    with pytest.raises((Malformed, NotMine)):
        discover()["parallels"].open(MemoryReader(data, name=DESCRIPTOR), Options())
    assert time.process_time() - begin < 2


def test_what_cannot_be_read_is_said(tmp_path) -> None:
    open_parallels = discover()["parallels"].open
    image = expandable(10 * BLOCK, {1: b"x"})
    for at, value, error in (
        (0, b"x", NotMine),
        (16, b"\x03", NotSupported),
        (28, bytes(4), Malformed),
        (36, bytes(8), Malformed),
    ):
        changed = image[:at] + value + image[at + len(value) :]
        with pytest.raises(error):
            open_parallels(MemoryReader(changed), Options())
    extra = f"<Encryption><Engine>{{{GUIDS[3]}}}</Engine></Encryption>"
    text = bundle([(0, 4096, [(GUIDS[0], "Plain", "a")])], [], GUIDS[0], extra)
    with pytest.raises(NotSupported, match="encrypted"):
        open_parallels(MemoryReader(text, name=DESCRIPTOR), Options())
    path = written(tmp_path / "d", {"d.hdd": image})
    patch(path, 44, b"Ynot")
    media, _ = opened(path)
    assert any("open for writing" in note for note in media.notes)


def test_what_the_table_says_wrong_costs_its_range(tmp_path) -> None:
    blocks = {index: bytes([index + 1]) * BLOCK for index in range(10)}
    path = written(tmp_path / "d", {"d.hdd": expandable(10 * BLOCK, blocks)})
    patch(path, 64 + 4 * 2, b"\xff\xff\xff\x7f")
    patch(path, 64 + 4 * 5, struct.pack("<I", 0x10000000))
    patch(path, 64 + 4 * 7, b"\0\0\0\0")
    media, _ = opened(path)
    assert [row[:2] for row in media.lost] == [(2 * BLOCK, 3 * BLOCK), (5 * BLOCK, 6 * BLOCK)]
    truth = bytearray(b"".join(blocks.values()))
    truth[7 * BLOCK : 8 * BLOCK] = bytes(BLOCK)
    assert content(path, lost_zero=True) == masked(bytes(truth), media)


def test_a_disk_of_16_tib_opens_at_once(tmp_path) -> None:
    image = tmp_path / "d" / "disk.hdd"
    image.parent.mkdir()
    qemu("create", "-q", "-f", "parallels", image, 16 << 40)
    io(image, f"write -P 9 {15 << 40} 64k")
    begin = time.process_time()
    media, _ = opened(image)
    assert time.process_time() - begin < 1
    (layout,) = media.layouts
    assert isinstance(layout, Linear)
    assert layout.size == 16 << 40
    assert len(layout.logical) // 8 <= 4


@pytest.mark.parametrize("kind", ["old", "new", "bundle"])
def test_the_contract_of_containers_holds_on_damaged_images(kind, tmp_path) -> None:
    if kind == "bundle":
        image, states = snapshots(tmp_path / "d.hdd", depth=2)
        check_media(
            "parallels", {path.name: path.read_bytes() for path in members(image)}, states[-1], seeds=200
        )
        return
    size = 20 * BLOCK - 512
    blocks = {index: random.Random(index).randbytes(BLOCK) for index in (3, 4, 5, 9, 1, 19)}
    truth = bytearray(20 * BLOCK)
    for index, data in blocks.items():
        truth[index * BLOCK : (index + 1) * BLOCK] = data
    files = {"d.hdd": expandable(size, blocks, old=kind == "old")}
    check_media("parallels", files, bytes(truth[:size]), seeds=200)


def test_a_bundle_is_opened_by_its_descriptor_or_an_image(tmp_path) -> None:
    image, states = snapshots(tmp_path / "d.hdd", depth=2)
    live = image.parent / f"d.hdd.0.{{{GUIDS[1]}}}.hds"

    async def run() -> None:
        for path, truth in ((image, states[-1]), (live, states[-1][: 40 * BLOCK])):
            async with open_session([path], Settings()) as session:
                await session.resolve()
                layer = next(layer for layer in session.layers if layer.backend == "parallels")
                assert (layer.state, layer.notes, layer.lost) == ("open", [], [])
                file = await session.open(await session.find([path.name.encode(), b"disk.raw"]))
                assert bytes(await file.read(0, len(truth))) == truth

    trio.run(run)
