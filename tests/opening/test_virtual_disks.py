"""Virtual disks through a mount: what is in them, what only a parent holds, what merely looks like one."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from tests.backends import vhdximages as vhdx
from tests.backends.diskimages import convert, needs_qemu
from tests.backends.test_vdi import FREE, composed
from tests.backends.test_vhd import checksummed, dynamic, footer
from tests.peers import layers, watched
from tests.recipes import MIB, fat

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@needs_qemu
@pytest.mark.parametrize("form", ["vpc", "vhdx", "vdi", "vmdk"])
def test_files_in_virtual_disks_are_found(form, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("found")
    volume = fat(tmp_path / "volume", source, 12, 4 * MIB).read_bytes()
    image = convert(tmp_path, volume, form)
    with watched(image, at=tmp_path / "m") as point:
        raw = (point / image.name / "disk.raw").read_bytes()
        assert raw.startswith(volume)
        assert not any(raw[len(volume) :])  # what qemu-img adds to make a geometry
        assert [path.read_text() for path in point.glob("*/*/root/file")] == ["found"]


@pytest.mark.parametrize(
    ("name", "image", "held"),
    [
        ("vhd", dynamic(MIB, {1: b"c" * 4096}, block=4096, kind=4), 4096),
        ("vdi", composed([FREE, 0], b"c" * 4096, size=8192, block=4096, kind=4), 4096),
        ("vhdx", vhdx.compose(4 * MIB, {1: (vhdx.PRESENT, b"c" * MIB)}, parent="p.vhdx"), MIB),
    ],
)
def test_what_only_a_parent_holds_is_an_error_to_read(name, image, held, tmp_path: Path) -> None:
    path = tmp_path / f"child.{name}"
    path.write_bytes(image)
    with watched(path, at=tmp_path / "m") as point:
        (layer,) = layers(point, backend=name)
        assert layer["state"] == "incomplete"
        assert any("its parent is" in note for note in layer["notes"])
        with (point / path.name / "disk.raw").open("rb", buffering=0) as file:
            with pytest.raises(OSError, match="Input/output"):
                file.read(512)
            file.seek(held)
            assert file.read(512) == b"c" * 512


@pytest.mark.parametrize(
    ("at", "magic"),
    [
        (0, b"vhdxfile"),
        (0, b"conectix"),
        (64, b"\x7f\x10\xda\xbe"),
        (MIB - 512, b"conectix"),
        (0, b"KDMV"),
        (0, b"COWD"),
        (0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    ],
)
def test_a_raw_disk_with_a_magic_in_it_stays_reachable(at, magic, tmp_path: Path) -> None:
    data = bytearray(random.Random(at).randbytes(MIB))
    data[at : at + len(magic)] = magic
    path = tmp_path / "disk.dd"
    path.write_bytes(data)
    for options in ((), ("--raw",)):
        with watched(path, at=tmp_path / "m", options=options) as point:
            assert (point / "disk.dd/disk.raw").read_bytes() == data


def test_a_disk_of_more_runs_than_a_reply_carries_is_read_whole(tmp_path: Path) -> None:
    count, block = 700_000, 512
    size, table, data_at = count * block, 1536, 1536 + (4 * count + 511) // 512 * 512
    header = bytearray(dynamic(512, {}, block=512)[512:1536])
    struct.pack_into(">I", header, 28, count)
    entries = struct.pack(f">{count}I", *range(data_at // 512, data_at // 512 + 2 * count, 2))
    path = tmp_path / "disk.vhd"
    marked = [0, 1, 400_000, 604_000, 604_944, 604_945, 604_946, 604_947, 655_360, 699_999]
    with path.open("wb") as file:
        file.write(footer(size, 3) + checksummed(bytes(header), 36) + entries)
        for number in marked:
            file.seek(data_at + 1024 * number + 512)
            file.write(b"%-512d" % number)
        file.seek(data_at + 1024 * count)
        file.write(footer(size, 3))
    assert table + len(entries) <= data_at
    with watched(path, at=tmp_path / "m") as point, (point / "disk.vhd/disk.raw").open("rb") as raw:
        (layer,) = layers(point, backend="vhd")
        assert layer["state"] == "open", layer["notes"]
        at = 0
        while piece := raw.read(MIB):
            inside = [number for number in marked if at <= number * block < at + len(piece)]
            wanted = bytearray(len(piece))
            for number in inside:
                wanted[number * block - at : number * block - at + 512] = b"%-512d" % number
            assert piece == wanted
            at += len(piece)
        assert at == size
