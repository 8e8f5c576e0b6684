"""VDI: what qemu-img writes reads as what was converted; what it cannot write is composed here."""

from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.media import check_media
from tests.backends.diskimages import MIB, contents, convert, holes, media, needs_qemu, run_count, sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
FREE, ZERO = 0xFFFF_FFFF, 0xFFFF_FFFE


def composed(
    table: Sequence[int],
    data: bytes,
    *,
    size: int,
    block: int,
    kind: int = 1,
    extra: int = 0,
    parent: bytes = b"",
    own: bytes = bytes(range(16)),
    state: bytes = b"",
    parents_state: bytes = b"",
) -> bytes:
    """Return a disk with its blocks at 4 KiB-aligned places behind the map."""
    at = (512 + 4 * len(table) + 4095) // 4096 * 4096
    raw = b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0")
    raw += struct.pack("<IIIII", 0xBEDA107F, 0x10001, 400, kind, 0) + b"a comment".ljust(256, b"\0")
    raw += struct.pack("<IIIIIII", 512, at, 0, 0, 0, 512, 0)
    stored = sum(entry < ZERO for entry in table)
    raw += struct.pack("<QIIII", size, block, extra, len(table), stored)
    raw += own + b"".join(uuid.ljust(16, b"\0") for uuid in (state, parent, parents_state))
    assert len(raw) == 456
    return (raw.ljust(512, b"\0") + struct.pack(f"<{len(table)}I", *table)).ljust(at, b"\0") + data


def naive(image: bytes) -> bytes:
    """Read sector by sector by the documented formula; ``?`` where only a parent holds them."""
    (kind,) = struct.unpack_from("<I", image, 76)
    table, data = struct.unpack_from("<II", image, 340)
    size, block, extra = struct.unpack_from("<QII", image, 368)
    out = b""
    for at in range(0, size, 512):
        (entry,) = struct.unpack_from("<I", image, table + at // block * 4)
        if entry >= ZERO:
            out += (b"?" if entry == FREE and kind == 4 else b"\0") * 512
        else:
            start = data + entry * (block + extra) + extra + at % block
            out += image[start : start + 512]
    return out[:size]


@needs_qemu
@pytest.mark.parametrize("static", ["on", "off"])
@pytest.mark.parametrize("size", [512, 3 * MIB + 512, 33 * MIB])
def test_what_qemu_writes_reads_as_what_was_converted(static, size, tmp_path) -> None:
    data = sparse(size)
    image = convert(tmp_path, data, "vdi", f"static={static}")
    assert contents("vdi", image) == data
    claim = media("vdi", image)
    assert not claim.lost
    assert not claim.notes
    assert claim.version == f"VDI 1.1 {'fixed' if static == 'on' else 'dynamic'}"
    assert (holes(claim) > 0) == (static == "off" and size > 4 * MIB)
    if static == "on":
        assert run_count(claim) == 1


@needs_qemu
@pytest.mark.parametrize("static", ["on", "off"])
def test_the_contract_of_media(static, tmp_path) -> None:
    data = sparse(5 * MIB + 512)
    image = convert(tmp_path, data, "vdi", f"static={static}")
    check_media("vdi", {"disk.vdi": image.read_bytes()}, data, seeds=200)


@pytest.mark.parametrize("kind", [1, 2, 4])
@pytest.mark.parametrize("extra", [0, 512])
def test_any_map_reads_as_a_naive_reader_reads_it(kind, extra) -> None:
    rng = random.Random(kind)
    table = [3, FREE, ZERO, 0, FREE, FREE, 1, 2, ZERO, 4]
    image = composed(
        table, rng.randbytes(5 * (8192 + extra)), size=10 * 8192 - 512, block=8192, kind=kind, extra=extra
    )
    assert contents("vdi", image) == naive(image)
    claim = media("vdi", image)
    assert bool(claim.lost) == (kind == 4)
    assert claim.metadata["comment"] == "a comment"


def test_the_parent_of_a_differencing_disk_is_named_and_what_it_holds_is_lost() -> None:
    parent = bytes(range(16, 32))
    image = composed([FREE, 0], b"x" * 4096, size=8192, block=4096, kind=4, parent=parent)
    claim = media("vdi", image)
    assert contents("vdi", image) == b"?" * 4096 + b"x" * 4096
    assert [(start, stop) for start, stop, _ in claim.lost] == [(0, 4096)]
    assert any("13121110-1514-1716-1819-1a1b1c1d1e1f" in note for note in claim.notes)


def test_blocks_behind_the_end_are_lost_and_their_neighbours_read() -> None:
    image = composed([0, 7, 1], b"a" * 4096 + b"b" * 1024, size=12288, block=4096)
    assert contents("vdi", image) == b"a" * 4096 + b"?" * 4096 + b"b" * 1024 + b"?" * 3072
    image = composed([0, 1], b"a" * 8192, size=16384, block=4096)  # the map ends early
    assert contents("vdi", image) == b"a" * 8192 + b"?" * 8192


def test_headers_that_cannot_be_are_refused() -> None:
    image = composed([0], b"a" * 4096, size=4096, block=4096)
    assert contents("vdi", image) == b"a" * 4096
    for at, form, value, error in (
        (70, "<H", 0, NotSupported),
        (64, "<I", 0, NotMine),
        (376, "<I", 0, Malformed),
        (376, "<I", 1000, Malformed),
        (368, "<Q", 2**63, Malformed),
        (76, "<I", 9, Malformed),
        (344, "<I", 8, Malformed),
    ):
        bad = bytearray(image)
        struct.pack_into(form, bad, at, value)
        with pytest.raises(error):
            media("vdi", bytes(bad))


def test_sixteen_tebibytes_open_at_once(tmp_path) -> None:
    count = 1 << 24
    head = bytearray(composed([FREE], b"", size=count * MIB, block=MIB)[:512])
    struct.pack_into("<II", head, 340, 512, 512 + 4 * count)
    struct.pack_into("<II", head, 384, count, 0)
    image = tmp_path / "large.vdi"
    with image.open("wb") as file:
        file.write(head)
        for _ in range(64):
            file.write(b"\xff" * MIB)
    begin = time.process_time()
    claim = media("vdi", image)
    assert time.process_time() - begin < 1
    assert (run_count(claim), holes(claim)) == (1, 16 << 40)
