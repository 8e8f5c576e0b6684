"""VMDK: what qemu-img writes reads as what was converted; what it only reads is composed here."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Linear, Media, Packed
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import check_media
from tests.backends import vmdkimages as vmdk
from tests.backends.diskimages import read
from tests.backends.qcowimages import io, media_bytes, needs_qemu, number, patch, qemu, raw_bytes
from tests.backends.test_ewf import read_all

if TYPE_CHECKING:
    from imgfs.backends import Reader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]
SIZE = (3 << 20) + 5 * 512
KINDS = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
KINDS += ["streamOptimized", "monolithicSparse,zeroed_grain=on", "monolithicSparse,adapter_type=lsilogic"]


def members(first: Path) -> list[Path]:
    """Return an image and every other file beside it."""
    return [first, *sorted(path for path in first.parent.iterdir() if path != first and path.is_file())]


def opened(first: Path) -> tuple[Media, bytes]:
    readers = [FileReader(path) for path in members(first)]
    readers[0].others = cast("list[Reader]", readers[1:])
    media = discover()["vmdk"].open(readers[0], Options())
    assert isinstance(media, Media)
    return media, readers[0].table


def content(first: Path, *, lost_zero: bool = False) -> bytes:
    media, table = opened(first)
    return read_all(members(first), media, lost_zero=lost_zero, table=table)


def convert(folder: Path, data: bytes, kind: str) -> Path:
    raw = folder.parent / f"{folder.name}.raw"
    raw.write_bytes(data)
    folder.mkdir(exist_ok=True)
    image = folder / "disk.vmdk"
    qemu("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, image)
    return image


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / next(iter(files))


def masked(truth: bytes, media: Media) -> bytes:
    """Return what may be read of a disk, zeros elsewhere."""
    held = bytearray(truth)
    for start, stop, _ in media.lost:
        held[start:stop] = bytes(stop - start)
    return bytes(held)


@pytest.mark.parametrize("kind", KINDS)
def test_what_qemu_writes_reads_as_what_was_converted(kind, tmp_path) -> None:
    truth = media_bytes(SIZE)
    image = convert(tmp_path / "disk", truth, kind)
    media, _ = opened(image)
    assert content(image) == truth
    assert (media.lost, media.notes, media.wants) == ((), (), ())
    assert [type(layout) for layout in media.layouts] == [Packed, Linear][kind != "streamOptimized" :]
    assert media.metadata["type"] == kind.partition(",")[0]


@pytest.mark.parametrize("seed", range(10))
def test_random_writes_read_as_qemu_reads_them(seed, tmp_path) -> None:
    rng = random.Random(seed)
    size = rng.randrange(1, 90_000) * 512
    kind = rng.choice(("monolithicSparse", "twoGbMaxExtentSparse"))
    image = tmp_path / "disk" / "disk.vmdk"
    image.parent.mkdir()
    qemu(
        "create",
        "-f",
        "vmdk",
        "-o",
        f"subformat={kind},zeroed_grain={rng.choice(('on', 'off'))}",
        image,
        size,
    )
    commands = []
    for number_ in range(rng.randrange(1, 30)):
        at = rng.randrange(0, size, 512)
        length = min(rng.randrange(1, 900) * 512, size - at)
        verb = rng.choice(("write -P 7{n}", "write -P 1{n}", "write -z"))
        commands.append(f"{verb.format(n=number_ % 10)} {at} {length}")
    io(image, *commands)
    media, _ = opened(image)
    assert not media.lost
    assert content(image) == raw_bytes(image, tmp_path)


def test_a_disk_in_extents_of_two_gibibytes(tmp_path) -> None:
    image = tmp_path / "disk" / "disk.vmdk"
    image.parent.mkdir()
    qemu("create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", image, 5 << 30)
    places = [0, (2 << 30) - 4096, (4 << 30) - 512, (5 << 30) - 8192]
    io(image, *(f"write -P {step + 1} {at} 8k" for step, at in enumerate(places)))
    media, _ = opened(image)
    (layout,) = media.layouts[-1:]
    assert isinstance(layout, Linear)
    assert layout.size == 5 << 30
    assert len(members(image)) == 4
    truth = tmp_path / "truth.raw"
    qemu("convert", "-O", "raw", image, truth)
    with truth.open("rb") as file:
        for at in places:
            file.seek(at - at % 4096)
            assert _read(media, members(image), at - at % 4096, 4096) == file.read(4096)
    (image.parent / "disk-s002.vmdk").unlink()
    media, _ = opened(image)
    assert media.wants == ("disk-s002.vmdk",)
    assert [row[:2] for row in media.lost] == [(2 << 30, 4 << 30)]


def _read(media: Media, paths: list[Path], start: int, length: int) -> bytes:
    source = build(media.layouts, [Memory(path.read_bytes()) for path in paths], "vmdk")
    return read(source, start, start + length)


def grains(size: int, grain: int, seed: int, *, every: int = 3) -> dict[int, bytes]:
    """Return content of some grains: runs of neighbours, single ones, text and noise."""
    rng = random.Random(seed)
    chosen = [index for index in range(-(-size // grain)) if rng.randrange(every) == 0 or index % 7 < 2]
    words = b"".join(b"line %d of a log\n" % rng.randrange(10**4) for _ in range(grain // 12))
    return {index: (words, rng.randbytes(grain))[rng.randrange(2)][:grain] for index in chosen}


def test_a_stream_with_its_directory_at_the_end(tmp_path) -> None:
    size = 70 * (1 << 20) + 3 * 512
    held = grains(size, vmdk.GRAIN, 1)
    image = written(tmp_path / "disk", {"disk.vmdk": vmdk.stream(size, held)})
    truth = vmdk.laid(size, held, vmdk.GRAIN)
    assert raw_bytes(image, tmp_path) == truth
    media, _ = opened(image)
    assert (media.lost, media.notes) == ((), ())
    assert content(image) == truth


@pytest.mark.parametrize("how", ["footer", "directory", "nothing", "table", "entry", "wiped", "end"])
def test_a_damaged_stream_is_read_by_its_markers(how, tmp_path) -> None:
    size = 70 * (1 << 20) + 3 * 512
    held = grains(size, vmdk.GRAIN, 2)
    data = bytearray(vmdk.stream(size, held))
    footer = len(data) - 1024
    directory = struct.unpack_from("<Q", data, footer + 56)[0] * 512
    table = struct.unpack_from("<I", data, directory)[0] * 512
    if how == "footer":
        data[footer : footer + 512] = bytes(512)
    elif how == "directory":
        data[directory : directory + 12] = b"\xee" * 12
    elif how == "table":
        data[directory : directory + 4] = b"\xff\xff\xff\x7f"
    elif how == "nothing":
        data[directory : directory + 12] = bytes(12)
    elif how == "wiped":
        data[table : table + 2048] = bytes(2048)
    elif how == "entry":
        data[table + 400 : table + 900] = b"\x7f" * 500
    else:  # cut behind two thirds of the grains
        del data[len(data) * 2 // 3 :]
    image = written(tmp_path / "disk", {"disk.vmdk": bytes(data)})
    truth = vmdk.laid(size, held, vmdk.GRAIN)
    media, _ = opened(image)
    assert any("found by their markers" in note for note in media.notes)
    assert content(image, lost_zero=True) == masked(truth, media)
    if how != "end":
        assert not media.lost
    else:
        found = [index for index in held if not any(a <= index * vmdk.GRAIN < b for a, b, _ in media.lost)]
        assert len(found) > len(held) // 2


def test_a_marker_that_is_damaged_costs_its_grain(tmp_path) -> None:
    size = 8 << 20
    held = grains(size, vmdk.GRAIN, 3)
    data = bytearray(vmdk.stream(size, held))
    data[len(data) - 1024 : len(data) - 512] = bytes(512)
    lost = sorted(held)[5]
    at = 21 * 512
    for index in sorted(held)[:5]:
        lba, length = struct.unpack_from("<QI", data, at)
        assert lba == index * 128
        at += (12 + length + 511) // 512 * 512
    data[at : at + 12] = b"\xff" * 12
    image = written(tmp_path / "disk", {"disk.vmdk": bytes(data)})
    media, _ = opened(image)
    spans = [(a, b) for a, b, _ in media.lost]
    assert any(a <= lost * vmdk.GRAIN < b for a, b in spans)
    assert not any(a <= index * vmdk.GRAIN < b for index in held if index != lost for a, b in spans)
    assert content(image, lost_zero=True) == masked(vmdk.laid(size, held, vmdk.GRAIN), media)


def places(image: Path) -> tuple[int, int]:
    """Return where the first tables of both copies are."""
    first, second = number(image, 56, "<Q") * 512, number(image, 48, "<Q") * 512
    return number(image, first, "<I") * 512, number(image, second, "<I") * 512


@pytest.mark.parametrize("how", ["wiped", "noise", "directory", "copy"])
def test_a_damaged_grain_table_is_replaced_by_its_copy(how, tmp_path) -> None:
    truth = media_bytes(SIZE)
    image = convert(tmp_path / "disk", truth, "monolithicSparse")
    table, copy = places(image)
    if how == "wiped":
        patch(image, table, bytes(2048))
    elif how == "noise":
        patch(image, table, b"\xf7" * 2048)
    elif how == "directory":
        patch(image, number(image, 56, "<Q") * 512, b"\xff\xff\xff\x7f")
    else:
        patch(image, copy, b"\xf7" * 1000)
    media, _ = opened(image)
    assert not media.lost
    assert content(image) == truth
    assert any("differ from their copies" in note for note in media.notes) == (how != "directory")


def test_copies_that_contradict_each_other_are_lost(tmp_path) -> None:
    truth = media_bytes(SIZE, seed=9)
    image = convert(tmp_path / "disk", truth, "monolithicSparse")
    table, copy = places(image)
    held = [index for index in range(40) if number(image, table + 4 * index, "<I")]
    patch(image, copy + 4 * held[3], struct.pack("<I", number(image, table + 4 * held[4], "<I")))
    media, _ = opened(image)
    ((start, stop, why),) = media.lost
    assert (start, stop) == (held[3] * 65536, held[3] * 65536 + 65536)
    assert "contradict" in why
    assert content(image, lost_zero=True) == masked(truth, media)


@pytest.mark.parametrize("grain", [512, 4096, 65536])
def test_an_extent_of_an_esx_server(grain, tmp_path) -> None:
    size = (5 << 20) + 512 * 3
    held = grains(size, grain, 4, every=20)
    lines = [f'RW {size // 512} VMFSSPARSE "disk-delta.vmdk"']
    files = {
        "disk.vmdk": vmdk.descriptor("vmfsSparse", lines),
        "disk-delta.vmdk": vmdk.cowd(size, held, grain=grain),
    }
    image = written(tmp_path / "disk", files)
    truth = vmdk.laid(size, held, grain)
    assert content(image) == truth == raw_bytes(image, tmp_path)
    media, _ = opened(image)
    assert (media.lost, media.notes, media.version) == ((), (), "vmfsSparse")


def se_grains(size: int) -> dict[int, bytes | str]:
    held: dict[int, bytes | str] = dict(grains(size, 4096, 5))
    order = list(held)
    random.Random(6).shuffle(order)  # ESXi lets grains follow each other as they were written
    mixed = {index: held[index] for index in [*sorted(order[:2000]), *order[2000:]]}
    for step, index in enumerate(list(mixed)[::50]):
        mixed[index] = (vmdk.ZERO, vmdk.UNMAPPED)[step % 2]
    return mixed


def test_sesparse(tmp_path) -> None:
    size = 40 << 20
    held = se_grains(size)
    lines = [f'RW {size // 512} SESPARSE "disk-sesparse.vmdk"']
    files = {"disk.vmdk": vmdk.descriptor("seSparse", lines), "disk-sesparse.vmdk": vmdk.sesparse(size, held)}
    image = written(tmp_path / "disk", files)
    truth = vmdk.laid(size, held, 4096)
    assert content(image) == truth == raw_bytes(image, tmp_path)
    assert len({entry for entry in held.values() if isinstance(entry, bytes)}) > 1000


def test_a_sesparse_journal_is_not_ignored(tmp_path) -> None:
    data = vmdk.sesparse(1 << 20, {3: b"x"}, replay=1)
    with pytest.raises(NotSupported, match="journal"):
        discover()["vmdk"].open(MemoryReader(data), Options())
    lines = ['RW 2048 SESPARSE "e.vmdk"', "RW 8 ZERO"]
    image = written(tmp_path / "d", {"d.vmdk": vmdk.descriptor("seSparse", lines), "e.vmdk": data})
    media, _ = opened(image)
    assert [(a, b) for a, b, _ in media.lost] == [(0, 1 << 20)]
    assert "journal" in media.lost[0][2]


def test_an_extent_without_its_descriptor_says_only_what_it_holds(tmp_path) -> None:
    size = 4 << 20
    held = grains(size, 4096, 8)
    image = written(tmp_path / "d", {"d-delta.vmdk": vmdk.cowd(size, held, grain=4096)})
    media, _ = opened(image)
    assert sum(b - a for a, b, _ in media.lost) == size - 4096 * len(held)
    assert content(image, lost_zero=True) == vmdk.laid(size, held, 4096)
    assert any("without a descriptor" in note for note in media.notes)


def test_a_tebibyte_and_more_stay_sparse(tmp_path) -> None:
    image = tmp_path / "disk" / "disk.vmdk"
    image.parent.mkdir()
    qemu("create", "-f", "vmdk", image, 1 << 40)
    io(image, f"write -P 9 {(600 << 30) + 4096} 64k")
    begin = time.process_time()
    media, _ = opened(image)
    assert time.process_time() - begin < 2
    (layout,) = media.layouts
    assert isinstance(layout, Linear)
    assert layout.size == 1 << 40
    assert len(layout.logical) // 8 <= 3
    huge = bytearray(vmdk.hosted_header((1 << 63) - 512, 21, flags=3, overhead=128) + bytes(128 * 512))
    huge[512:1536] = vmdk.descriptor("monolithicSparse", ['RW 18014398509481983 SPARSE "h.vmdk"']).ljust(
        1024, b"\0"
    )
    media, _ = opened(written(tmp_path / "huge", {"h.vmdk": bytes(huge)}))
    assert media.layouts[-1].size == (1 << 63) - 512
    assert media.lost


def test_a_terabyte_that_is_written_opens_in_time(tmp_path) -> None:
    """Half of its tables are runs, half are shuffled: 16 million grains."""
    tables, per = 16_384, 512
    path = tmp_path / "d" / "disk.vmdk"
    path.parent.mkdir()
    rng = random.Random(1)
    size = tables * per * 65536
    first = 64
    at = first + -(-4 * tables // 512)
    text = vmdk.descriptor("monolithicSparse", [f'RW {size // 512} SPARSE "disk.vmdk"'])
    with path.open("wb") as file:
        head = bytearray(vmdk.hosted_header(size, first, flags=1, overhead=at))
        file.write(head + text.ljust(20 * 512, b"\0"))
        file.seek(first * 512)
        file.write(struct.pack(f"<{tables}I", *(at + 4 * step for step in range(tables))))
        data = at + 4 * tables
        shuffled = list(range(per))
        rng.shuffle(shuffled)
        for step in range(tables):
            base = (data + step * per * 128) & 0xFFFF_0000
            order = shuffled if step % 64 == 0 else range(per)
            file.write(struct.pack(f"<{per}I", *(base + 128 * index for index in order)))
        file.truncate((data + tables * per * 128 + 65536) * 512)
    begin = time.process_time()
    media, _ = opened(path)
    assert time.process_time() - begin < 5
    assert not media.lost


def image_of(kind: str, folder: Path) -> tuple[dict[str, bytes], bytes]:
    """Return a small image of a kind and what is in it."""
    size = 700 * 512
    if kind in ("stream", "cowd", "sesparse"):
        grain = {"stream": 65536, "cowd": 512, "sesparse": 4096}[kind]
        held = grains(size, grain, 11)
        truth = vmdk.laid(size, held, grain)
        if kind == "stream":
            return {"disk.vmdk": vmdk.stream(size, held)}, truth
        line = f'RW {size // 512} {"VMFSSPARSE" if kind == "cowd" else "SESPARSE"} "e.vmdk"'
        data = vmdk.cowd(size, held) if kind == "cowd" else vmdk.sesparse(size, held)
        return {"disk.vmdk": vmdk.descriptor(kind, [line]), "e.vmdk": data}, truth
    truth = media_bytes(size, seed=3)
    image = convert(folder, truth, kind)
    return {path.name: path.read_bytes() for path in members(image)}, truth


@pytest.mark.parametrize("kind", ["stream", "cowd", "sesparse", *KINDS[:6]])
def test_the_contract_of_containers_holds_on_damaged_images(kind, tmp_path) -> None:
    files, truth = image_of(kind, tmp_path / "disk")
    check_media("vmdk", files, truth, seeds=200)


def test_what_is_no_vmdk_or_an_unknown_one_is_said() -> None:
    open_vmdk = discover()["vmdk"].open
    head = vmdk.hosted_header(1 << 20, 21, flags=1, overhead=128)
    for data, error in (
        (b"", NotMine),
        (b"KDM", NotMine),
        (b"# Disk", NotMine),
        (head[:4] + b"\x04" + head[5:] + bytes(4096), NotSupported),
        (head[:77] + b"\x02" + head[78:] + bytes(4096), NotSupported),
        (head[:20] + bytes(8) + head[28:] + bytes(4096), Malformed),
        (head[:20] + b"\x90" + head[21:] + bytes(4096), Malformed),
        (head[:44] + b"\x01" + head[45:] + bytes(4096), Malformed),
        (head[:12] + b"\xff" * 8 + head[20:] + bytes(4096), Malformed),
        (head[:12] + bytes(8) + head[20:] + bytes(40960), Malformed),
        (b"COWD\x02" + bytes(2048), NotSupported),
        (b"# Disk DescriptorFile\nversion=1\n", Malformed),
        (b'# Disk DescriptorFile\nRW 99999999999999999999 FLAT "a" 0\n', Malformed),
        (b'# Disk DescriptorFile\nRW 9223372036854775807 FLAT "a" 0\n', Malformed),
        (b'# Disk DescriptorFile\nRW 12 "a" 0\n', Malformed),
    ):
        with pytest.raises(error):
            open_vmdk(MemoryReader(data), Options())


def test_a_stream_whose_method_was_wiped_is_no_verbatim_one(tmp_path) -> None:
    truth = media_bytes(SIZE)
    image = convert(tmp_path / "disk", truth, "streamOptimized")
    patch(image, 77, b"\0\0")
    media, _ = opened(image)
    assert any("by no method" in note for note in media.notes)
    assert content(image) == truth


def test_a_damaged_descriptor_costs_no_grain(tmp_path) -> None:
    truth = media_bytes(SIZE)
    image = convert(tmp_path / "disk", truth, "monolithicSparse")
    whole = image.read_bytes()
    for old, new in ((b"RW 6149", b"RW x149"), (b"# Disk", b"# Dusk"), (b"parentCID", b"parentXID")):
        image.write_bytes(whole.replace(old, new, 1))
        media, _ = opened(image)
        assert media.lost
        assert media.notes
        assert content(image, lost_zero=True) == masked(truth, media) == truth


def test_marks_in_the_header_are_said(tmp_path) -> None:
    truth = media_bytes(SIZE)
    image = convert(tmp_path / "disk", truth, "monolithicSparse")
    patch(image, 72, b"\x01\n\r\n\n")
    media, _ = opened(image)
    assert any("not closed cleanly" in note for note in media.notes)
    assert any("transfer of text" in note for note in media.notes)
    assert content(image) == truth


def test_more_than_a_message_holds_travels_in_the_memory_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imgfs.limits.TABLE_INLINE", 10)
    truth = media_bytes(SIZE)
    for kind in ("streamOptimized", "twoGbMaxExtentSparse", "monolithicSparse"):
        image = convert(tmp_path / kind, truth, kind)
        _, table = opened(image)
        assert table
        assert content(image) == truth
