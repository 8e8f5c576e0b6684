"""VMDK images that build upon others, and hostile descriptors: names are claims, what is missing is lost."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import trio

from imgfs.backends import Options, discover
from imgfs.errors import EvidenceError
from imgfs.model import Media
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media
from tests.backends import vmdkimages as vmdk
from tests.backends.qcowimages import io, media_bytes, needs_qemu, number, qemu, raw_bytes
from tests.backends.test_vmdk import content, convert, grains, masked, members, opened, written

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]
CANARY = b"CANARY" * 4000


def chain(folder: Path, seed: int, depth: int) -> tuple[Path, bytes]:
    """Return the active image of a chain that qemu-img made, and what qemu-img reads of it."""
    rng = random.Random(seed)
    size = 5 << 20
    convert(folder, media_bytes(size, seed), rng.choice(("monolithicSparse", "streamOptimized")))
    name = "disk.vmdk"
    for level in range(depth):
        child = f"level{level}.vmdk"
        zeroed = rng.choice(("on", "off"))
        options = f"subformat=monolithicSparse,zeroed_grain={zeroed}"
        qemu("create", "-q", "-f", "vmdk", "-o", options, "-b", name, "-F", "vmdk", child, cwd=folder)
        spots = [(rng.randrange(0, size, 512), rng.randrange(1, 200) * 512) for _ in range(6)]
        io(
            folder / child,
            *(f"write {rng.choice(('-P 5', '-z'))} {at} {min(n, size - at)}" for at, n in spots),
        )
        name = child
    return folder / name, raw_bytes(folder / name, folder.parent)


def set_text(image: Path, old: bytes, new: bytes) -> None:
    """Replace a part of the descriptor that is embedded in an image."""
    with image.open("r+b") as file:
        head = file.read(21 * 512)
        assert head.count(old) == 1
        file.seek(0)
        file.write(head.replace(old, new)[: 21 * 512].ljust(21 * 512, b"\0"))


@pytest.mark.parametrize("seed", range(8))
def test_a_chain_reads_as_qemu_reads_it(seed, tmp_path) -> None:
    image, truth = chain(tmp_path / "d", seed, 1 + seed % 4)
    media, _ = opened(image)
    assert (media.lost, media.notes) == ((), ())
    assert content(image) == truth


@pytest.mark.parametrize("seed", range(4))
def test_what_a_missing_parent_held_is_lost_and_the_rest_is_right(seed, tmp_path) -> None:
    image, truth = chain(tmp_path / "d", seed, 3)
    for name in ("disk.vmdk", "level0.vmdk", "level1.vmdk"):
        hidden = (tmp_path / "d" / name).rename(tmp_path / name)
        media, _ = opened(image)
        assert media.wants == (name,)
        assert media.lost
        assert all(name in why for _, _, why in media.lost)
        assert content(image, lost_zero=True) == masked(truth, media)
        hidden.rename(tmp_path / "d" / name)


def delta(folder: Path, *, cid: int = 7, hint: str = "disk.vmdk", kind: str = "cowd") -> tuple[Path, bytes]:
    """Return a snapshot as ESXi lays it out, over a flat disk, and what its disk holds."""
    size = 3 << 20
    base = media_bytes(size, 21)
    grain = 512 if kind == "cowd" else 4096
    held = grains(size, grain, 22, every=40)
    data = vmdk.cowd(size, held) if kind == "cowd" else vmdk.sesparse(size, held)
    word, name = ("VMFSSPARSE", "vmfsSparse") if kind == "cowd" else ("SESPARSE", "seSparse")
    top = vmdk.descriptor(
        name, [f'RW {size // 512} {word} "d-000001-{kind}.vmdk"'], cid=8, parent_cid=7, parent=hint
    )
    files = {
        "d-000001.vmdk": top,
        f"d-000001-{kind}.vmdk": data,
        "disk.vmdk": vmdk.descriptor("vmfs", [f'RW {size // 512} VMFS "disk-flat.vmdk"'], cid=cid),
        "disk-flat.vmdk": base,
    }
    return written(folder, files), vmdk.laid(size, held, grain, base)


@pytest.mark.parametrize("kind", ["cowd", "sesparse"])
def test_a_snapshot_of_an_esx_server(kind, tmp_path) -> None:
    image, truth = delta(tmp_path / "d", kind=kind)
    media, _ = opened(image)
    assert (media.lost, media.notes) == ((), ())
    assert content(image) == truth == raw_bytes(image, tmp_path)
    (tmp_path / "d" / "disk-flat.vmdk").unlink()
    media, _ = opened(image)
    assert media.wants == ("disk-flat.vmdk",)
    assert content(image, lost_zero=True) == masked(truth, media)


def test_a_parent_with_another_content_id_is_said(tmp_path) -> None:
    image, truth = delta(tmp_path / "d", cid=0x99)
    media, _ = opened(image)
    assert any("content id 00000099, 00000007 was built upon" in note for note in media.notes)
    assert content(image) == truth


@pytest.mark.parametrize(
    "hint", ["C:\\\\vm\\\\base\\\\disk.vmdk", "../base/disk.vmdk", "/vmfs/volumes/x/disk.vmdk"]
)
def test_of_a_path_to_a_parent_only_the_last_name_counts_and_only_with_its_content_id(hint, tmp_path) -> None:
    image, truth = delta(tmp_path / "right", hint=hint)
    assert content(image) == truth
    image, truth = delta(tmp_path / "wrong", hint=hint, cid=0x99)
    media, _ = opened(image)
    assert all("it is another image" in why for _, _, why in media.lost)
    assert media.lost
    assert content(image, lost_zero=True) == masked(truth, media)


def test_a_parent_without_a_name_or_smaller_is_lost(tmp_path) -> None:
    image, truth = delta(tmp_path / "d", hint="")
    media, _ = opened(image)
    assert all("has no name" in why for _, _, why in media.lost)
    assert content(image, lost_zero=True) == masked(truth, media)
    image, truth = delta(tmp_path / "e")
    text = vmdk.descriptor("vmfs", ['RW 2048 VMFS "disk-flat.vmdk"'], cid=7)
    (tmp_path / "e" / "disk.vmdk").write_bytes(text)
    media, _ = opened(image)
    assert all(start >= 1 << 20 and "ends before" in why for start, _, why in media.lost)
    assert content(image, lost_zero=True) == masked(truth, media)


def link(number_: int, parent: str) -> bytes:
    cid = number_ + 1
    lines = ['RW 8 SPARSE "nothing"'] if number_ else [f'RW 8 VMFSSPARSE "{number_}.cowd"']
    return vmdk.descriptor("custom", lines, cid=cid, parent_cid=cid + 1, parent=parent)


def test_chains_end_and_cycles_are_found(tmp_path) -> None:
    files = {"c0.vmdk": link(0, "c0.vmdk"), "0.cowd": vmdk.cowd(4096, {2: b"x"})}
    media, _ = opened(written(tmp_path / "self", files))
    assert any("leads back to 'c0.vmdk'" in why for _, _, why in media.lost)
    files = {}
    for step in range(40):
        line = f'RW 8 VMFSSPARSE "{step}.cowd"'
        hint = f"c{step + 1}.vmdk"
        files[f"c{step}.vmdk"] = vmdk.descriptor("x", [line], cid=step, parent_cid=step + 1, parent=hint)
        files[f"{step}.cowd"] = vmdk.cowd(4096, {step % 8: bytes([step]) * 512} if step < 6 else {})
    image = written(tmp_path / "long", files)
    media, _ = opened(image)
    assert any("more than 32 images" in why for _, _, why in media.lost)
    assert content(image, lost_zero=True) == b"".join(bytes([step]) * 512 for step in range(6)) + bytes(1024)


def test_names_that_lead_elsewhere_are_refused_and_said(tmp_path) -> None:
    names = [
        "/etc/passwd",
        "../secret",
        "sub/secret",
        "..",
        ".",
        "",
        "\\\\.\\PhysicalDrive0",
        "x" * 300,
        "a\x1bb",
    ]
    lines = [f'RW 8 FLAT "{name}" 0' for name in names]
    lines += ['NOACCESS 8 FLAT "here" 0', 'RW 8 VMFSRDM "here"', 'RW 8 SPARSE "here"', 'RW 8 FLAT "here" 1']
    lines += ['RW 8 FLAT "here" 99999999', 'RDONLY 8 FLAT "here" 0', "RW 8 ZERO"]
    (tmp_path / "secret").write_bytes(CANARY)
    image = written(
        tmp_path / "d", {"d.vmdk": vmdk.descriptor("custom", lines), "here": bytes(range(256)) * 18}
    )
    media, _ = opened(image)
    here = bytes(range(256)) * 18
    count = len(names)
    held = content(image, lost_zero=True)
    assert len(held) == 4096 * len(lines)
    assert sum(b - a for a, b, _ in media.lost) == 4096 * (count + 4)
    at = 4096 * (count + 3)
    assert held[at : at + 4096] == here[512:4608]
    assert held[at + 8192 : at + 12288] == here[:4096]
    assert held[at + 12288 :] == bytes(4096)
    assert CANARY[:64] not in held
    # both could lie beneath the folder, and are no files
    assert set(media.wants) == {"\\\\.\\PhysicalDrive0", "sub/secret"}
    assert len(media.notes) == count + 4


def test_ten_thousand_extents_are_bounded(tmp_path) -> None:
    for lines in (
        [f'RW 8 SPARSE "e{step}.vmdk"' for step in range(10_000)],
        ['RW 8 SPARSE "e.vmdk"'] * 10_000,
        ['RW 8 FLAT "e.vmdk" 3'] * 10_000,
    ):
        text = vmdk.descriptor("custom", lines)
        sparse = MemoryReader(vmdk.cowd(4096, {1: b"x"}), name="e.vmdk")
        begin = time.process_time()
        media = discover()["vmdk"].open(MemoryReader(text, name="d.vmdk", others=[sparse]), Options())
        assert time.process_time() - begin < 2
        assert isinstance(media, Media)
        assert media.layouts[-1].size == 4096 * 10_000
        assert len(media.wants) <= 512
        assert len(media.lost) <= 1000
        assert len(media.notes) <= 1025


def test_a_descriptor_of_another_encoding_or_case(tmp_path) -> None:
    name = "Büro-flat.vmdk"
    text = f'\n# disk DescriptorFile\r\nversion=1\r\nencoding="windows-1252"\r\nRW 8 FLAT "{name}" 0\r\n'
    image = written(tmp_path / "d", {"d.vmdk": text.encode("cp1252"), name: b"u" * 4096})
    media, _ = opened(image)
    assert not media.lost
    assert content(image) == b"u" * 4096


@pytest.mark.parametrize("kind", ["cowd", "sesparse"])
def test_the_contract_of_containers_holds_for_snapshots(kind, tmp_path) -> None:
    image, truth = delta(tmp_path / "d", kind=kind)
    files = {path.name: path.read_bytes() for path in members(image)}
    check_media("vmdk", files, truth, seeds=200)


def in_a_session(image: Path) -> tuple[dict[str, object], bytes | str]:
    """Open an image as the analyst does; returns the state of its container and its disk, or why not."""

    async def run() -> tuple[dict[str, object], bytes | str]:
        async with open_session([image], Settings()) as session:
            await session.resolve()
            layer = next(layer for layer in session.layers if layer.backend == "vmdk")
            said = {"state": layer.state, "notes": list(layer.notes), "lost": list(layer.lost)}
            file = await session.open(await session.find([image.name.encode(), b"disk.raw"]))
            try:
                return said, bytes(await file.read(0, 16 << 20))
            except EvidenceError as why:
                return said, str(why)

    return trio.run(run)


def test_members_beside_the_image_are_brought_and_no_others(tmp_path) -> None:
    image, truth = delta(tmp_path / "d")
    said, data = in_a_session(image)
    assert (said["state"], said["notes"], said["lost"]) == ("open", [], [])
    assert data == truth
    flat = tmp_path / "d" / "disk-flat.vmdk"
    flat.rename(tmp_path / "elsewhere")
    flat.symlink_to(tmp_path / "elsewhere")
    said, data = in_a_session(image)
    assert said["state"] == "incomplete"
    assert isinstance(data, str)
    flat.unlink()
    os.mkfifo(flat)
    said, data = in_a_session(image)
    assert said["state"] == "incomplete"


def test_three_hundred_extents_are_brought(tmp_path) -> None:
    """A disk in more extents than a worker is handed descriptors for."""
    lines = [f'RW 8 FLAT "d-f{step:03}.vmdk" 0' for step in range(300)]
    files = {"d.vmdk": vmdk.descriptor("twoGbMaxExtentFlat", lines)}
    files |= {f"d-f{step:03}.vmdk": b"%4096d" % step for step in range(300)}
    said, data = in_a_session(written(tmp_path / "d", files))
    assert said["state"] == "open"
    assert data == b"".join(b"%4096d" % step for step in range(300))


def test_the_descriptor_of_qemu_is_what_is_edited_here(tmp_path) -> None:
    image, truth = chain(tmp_path / "d", 1, 1)
    assert number(image, 28, "<Q") == 1
    set_text(image, b'parentFileNameHint="disk.vmdk"', b'parentFileNameHint="/x/disk.vmdk"')
    assert content(image) == truth


def test_what_it_is_does_not_hang_on_its_name(tmp_path) -> None:
    truth = media_bytes(3 << 20, 5)
    image = convert(tmp_path / "d", truth, "streamOptimized").rename(tmp_path / "d" / "holiday.jpg")
    said, data = in_a_session(image)
    assert said["state"] == "open"
    assert data == truth
    raw = written(tmp_path / "e", {"disk-flat.vmdk": truth})

    async def run() -> None:
        async with open_session([raw], Settings()) as session:
            await session.resolve()
            file = await session.open(await session.find([raw.name.encode(), b"disk.raw"]))
            assert bytes(await file.read(0, 16 << 20)) == truth
            assert not any(layer.backend == "vmdk" and layer.state == "open" for layer in session.layers)

    trio.run(run)
