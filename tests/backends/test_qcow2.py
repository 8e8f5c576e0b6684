"""QCOW2 and QCOW: every variant qemu-img writes reads as what was converted; damage costs its range only."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest
import trio

from imgfs import limits
from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine, NotSupported, WorkerLied
from imgfs.model import Linear, Media, Packed
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import check_media
from imgfs.worker.checks import check_layouts
from tests.backends.qcowimages import convert, io, media_bytes, needs_qemu, number, patch, qemu, raw_bytes
from tests.backends.test_ewf import read_all

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]
SIZE = (3 << 20) + 5 * 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "media.raw"
    path.write_bytes(media_bytes(SIZE))
    return path


def opened(paths: list[Path], kind: str = "qcow2") -> tuple[Media, bytes]:
    """Return the media and the unit table that was not sent inline."""
    reader = FileReader(paths[0], others=[FileReader(path) for path in paths[1:]])
    media = discover()[kind].open(reader, Options())
    assert isinstance(media, Media)
    return media, reader.table


def content(paths: list[Path], kind: str = "qcow2", *, lost_zero: bool = False) -> bytes:
    media, table = opened(paths, kind)
    return read_all(paths, media, lost_zero=lost_zero, table=table)


PLAIN = [
    "",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "preallocation=metadata",
]
PLAIN += ["extended_l2=on", "extended_l2=on,cluster_size=16k", "preallocation=full", "lazy_refcounts=on"]
PACKED = ["", "compat=0.10", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "extended_l2=on"]
PACKED += ["compression_type=zstd", "compression_type=zstd,cluster_size=2M,extended_l2=on"]


@pytest.mark.parametrize("options", PLAIN)
def test_verbatim_clusters_are_runs_of_the_file(options, raw, tmp_path) -> None:
    image = convert(raw, tmp_path / "image.qcow2", options=options)
    media, _ = opened([image])
    assert content([image]) == raw.read_bytes()
    assert (media.lost, media.notes, media.wants) == ((), (), ())
    assert [type(layout) for layout in media.layouts] == [Linear]
    assert media.version == ("2" if "0.10" in options else "3")


@pytest.mark.parametrize("options", PACKED)
def test_compressed_clusters_are_units(options, raw, tmp_path) -> None:
    image = convert(raw, tmp_path / "image.qcow2", options=options, packed=True)
    media, _ = opened([image])
    assert content([image]) == raw.read_bytes()
    assert (media.lost, media.notes) == ((), ())
    assert [type(layout) for layout in media.layouts] == [Packed, Linear]
    assert media.metadata["compression"] == ("zstd" if "zstd" in options else "deflate")


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_version(packed, raw, tmp_path) -> None:
    even = tmp_path / "even.raw"  # qemu-img packs no last cluster that is not whole
    even.write_bytes(raw.read_bytes()[: 3 << 20])
    image = convert(even, tmp_path / "image.qcow", kind="qcow", packed=packed)
    media, _ = opened([image], "qcow")
    assert content([image], "qcow") == even.read_bytes()
    assert any(isinstance(layout, Packed) for layout in media.layouts) == packed
    with pytest.raises(NotMine):
        discover()["qcow2"].open(FileReader(image), Options())


@pytest.mark.parametrize("seed", range(12))
def test_random_writes_read_as_qemu_reads_them(seed, tmp_path) -> None:
    """Writes, zeros, discards and compressed clusters in random places, in random cluster sizes."""
    rng = random.Random(seed)
    extended = rng.random() < 0.4
    bits = rng.randrange(14 if extended else 9, 22)
    size = rng.randrange(1, 9000) * 512
    image = tmp_path / "image.qcow2"
    options = f"cluster_size={1 << bits},compat={'1.1' if extended else rng.choice(('0.10', '1.1'))}"
    qemu("create", "-f", "qcow2", "-o", options + (",extended_l2=on" if extended else ""), image, size)
    commands = []
    for number_ in range(rng.randrange(1, 30)):
        at = rng.randrange(0, size, 512)
        length = min(rng.randrange(1, 300) * 512, size - at)
        verb = rng.choice(
            ("write -P 7{n}", "write -P 1{n}", "write -z", "write -z -u", "discard", "write -c")
        )
        if verb == "write -c":
            at = at >> bits << bits
            length = min(1 << bits, size - at)
            verb += " -P 5"
        commands.append(f"{verb.format(n=number_ % 10)} {at} {length}")
    io(image, *commands)
    media, _ = opened([image])
    assert not media.lost
    assert content([image]) == raw_bytes(image, tmp_path)


def test_a_disk_of_64_tib_opens_at_once_and_stays_sparse(tmp_path) -> None:
    image = tmp_path / "image.qcow2"
    qemu("create", "-f", "qcow2", image, 64 << 40)
    io(image, f"write -P 9 {(50 << 40) + 4096} 64k")
    begin = time.perf_counter()
    media, _ = opened([image])
    assert time.perf_counter() - begin < 0.5
    (layout,) = media.layouts
    assert isinstance(layout, Linear)
    assert layout.size == 64 << 40
    assert len(layout.logical) // 8 <= 3


def test_tables_of_a_hundred_gibibytes_are_read_in_time(tmp_path) -> None:
    """Ten gibibytes of a hundred are written: in runs, in single clusters, compressed."""
    clusters, cluster = 100 << 14, 1 << 16
    rng = random.Random(5)
    first_at, second_at, data_at = 1 << 16, 1 << 17, 1 << 30
    tables = clusters // 8192
    path = tmp_path / "image.qcow2"
    with path.open("wb") as file:
        file.write(
            struct.pack(
                ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 100 << 30, 0, tables, first_at, 0, 0, 0, 0
            )
        )
        file.seek(first_at)
        file.write(struct.pack(f">{tables}Q", *(second_at + number_ * cluster for number_ in range(tables))))
        at = data_at
        for number_ in range(tables):
            entries = [0] * 8192
            for index in range(820):
                if number_ % 3 == 0:
                    entries[index] = at | 1 << 63
                elif number_ % 3 == 1:
                    entries[rng.randrange(8192)] = at | 1 << 63
                else:
                    entries[index] = at | 1 << 62 | 70 << 54
                at += cluster
            file.seek(second_at + number_ * cluster)
            file.write(struct.pack(">8192Q", *entries))
        file.truncate(at)
    begin = time.process_time()
    media, _ = opened([path])
    assert time.process_time() - begin < 2
    assert not media.lost


def test_marks_and_snapshots_are_said(raw, tmp_path) -> None:
    image = convert(raw, tmp_path / "image.qcow2")
    qemu("snapshot", "-c", "before the break-in", image)
    io(image, "write -P 3 0 1M")
    patch(image, 72 + 7, b"\x03")
    media, _ = opened([image])
    said = "\n".join(media.notes)
    assert "marked dirty" in said
    assert "marked corrupt" in said
    assert "internal snapshot 1 'before the break-in' of 20" in said
    assert content([image]) == b"\x03" * (1 << 20) + raw.read_bytes()[1 << 20 :]


@pytest.mark.parametrize("how", ["luks", "aes", "unknown", "compression"])
def test_what_cannot_be_read_is_said(how, raw, tmp_path) -> None:
    image = tmp_path / "image.qcow2"
    if how == "aes":
        form = "encrypt.format=aes,encrypt.key-secret=key"
        qemu("create", "-q", "--object", "secret,id=key,data=geheim", "-f", "qcow2", "-o", form, image, "1M")
    elif how == "luks":  # not every build of qemu-img can write one
        qemu("create", "-f", "qcow2", image, "1M")
        patch(image, 32, struct.pack(">I", 2))
    else:
        convert(raw, image)
        patch(image, 72 + (0 if how == "unknown" else 7), b"\x80" if how == "unknown" else b"\x08")
        patch(image, 104, b"\x07")
    with pytest.raises(
        NotSupported, match={"luks": "LUKS", "aes": "AES", "unknown": "bit 63"}.get(how, "type 7")
    ):
        opened([image])


def test_impossible_sizes_are_malformed() -> None:
    head = bytearray(
        struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 20, 0, 1, 1 << 16, 0, 0, 0, 0)
    )
    for at, value in (
        (20, struct.pack(">I", 8)),
        (20, struct.pack(">I", 22)),
        (24, b"\xff" * 8),
        (24, b"\x7f" * 8),
    ):
        changed = bytes(head[:at] + value + head[at + len(value) :])
        with pytest.raises(Malformed):
            discover()["qcow2"].open(MemoryReader(changed + bytes(1000)), Options())


def test_what_leaves_the_file_is_lost_and_the_rest_is_read(raw, tmp_path) -> None:
    image = convert(raw, tmp_path / "image.qcow2")
    with image.open("r+b") as file:
        file.truncate(image.stat().st_size * 2 // 3)
    media, _ = opened([image])
    assert media.lost
    assert all("beyond the end" in why for _, _, why in media.lost)
    expected = bytearray(raw.read_bytes())
    for start, stop, _ in media.lost:
        expected[start:stop] = bytes(stop - start)
    assert content([image], lost_zero=True) == expected


def test_second_tables_that_loop_or_lead_nowhere_cost_their_range(raw, tmp_path) -> None:
    image = convert(raw, tmp_path / "image.qcow2", options="cluster_size=4k")  # a table covers 2 MiB
    first = number(image, 40, ">Q")
    entry = number(image, first, ">Q")
    patch(image, first + 8, struct.pack(">Q", entry))
    media, _ = opened([image])
    assert [(a, b) for a, b, _ in media.lost] == [(2 << 20, SIZE)]
    assert "serves other clusters" in media.lost[0][2]
    expected = raw.read_bytes()[: 2 << 20] + bytes(SIZE - (2 << 20))
    assert content([image], lost_zero=True) == expected
    patch(image, first, struct.pack(">Q", 1 << 50))
    media, _ = opened([image])
    assert media.lost[0][:2] == (0, 2 << 20)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", ["cluster_size=4k", "extended_l2=on,cluster_size=16k"])
def test_the_contract_of_containers_holds_on_damaged_images(options, packed, raw, tmp_path) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(media_bytes(700 * 512, seed=3))
    image = convert(small, tmp_path / "image.qcow2", options=options, packed=packed)
    check_media("qcow2", {"image.qcow2": image.read_bytes()}, small.read_bytes(), seeds=50)


@pytest.mark.parametrize("packed", [False, True])
def test_the_contract_of_containers_holds_on_damaged_images_of_the_first_version(packed, tmp_path) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(media_bytes(700 * 512, seed=4))
    image = convert(small, tmp_path / "image.qcow", kind="qcow", packed=packed)
    check_media("qcow", {"image.qcow": image.read_bytes()}, small.read_bytes(), seeds=200)


@pytest.mark.parametrize("packed", [False, True])
def test_more_than_a_message_holds_travels_in_the_memory_file(packed, raw, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "TABLE_INLINE", 100)
    image = convert(raw, tmp_path / "image.qcow2", options="cluster_size=4k", packed=packed)
    media, table = opened([image])
    runs = media.layouts[-1]
    assert isinstance(runs, Linear)
    assert runs.rows > 4
    assert not runs.logical
    assert len(table) >= 26 * runs.rows
    check_layouts(media.layouts, [image.stat().st_size], table=len(table))
    assert content([image]) == raw.read_bytes()
    with pytest.raises(Malformed):
        read_all([image], media, table=table[:-1])
    with pytest.raises(Malformed):
        read_all([image], media)
    for length in (len(table) - 1, len(table) + 26, -1):
        with pytest.raises(WorkerLied):
            check_layouts(media.layouts, [image.stat().st_size], table=length)


def test_a_disk_in_too_many_pieces_is_read_as_far_as_they_are_counted(tmp_path, monkeypatch) -> None:
    image = tmp_path / "image.qcow2"
    qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", image, "1M")
    io(image, *(f"write -P {number_ + 1} {number_ * 2048} 512" for number_ in range(100)))
    truth = raw_bytes(image, tmp_path)
    monkeypatch.setattr("imgfs.backends._qcow_chain.MAX_RUNS", 50)
    media, _ = opened([image])
    ((start, stop, why),) = media.lost
    assert (start, stop) == (25 * 2048, 1 << 20)
    assert "more than 50 pieces" in why
    assert content([image], lost_zero=True) == truth[:start] + bytes(stop - start)


def test_an_image_in_a_million_pieces_opens_through_a_worker(tmp_path) -> None:
    """Clusters of a 64 GiB disk in an order of their own: their runs take more room than a message has."""
    tables, cluster = 128, 1 << 16
    path = tmp_path / "image.qcow2"
    with path.open("wb") as file:
        fields = (b"QFI\xfb", 2, 0, 0, 16, tables << 29, 0, tables, cluster, 0, 0, 0, 0)
        file.write(struct.pack(">4sIQIIQIIQQIIQ", *fields))
        file.seek(cluster)
        file.write(struct.pack(f">{tables}Q", *(2 * cluster + step * cluster for step in range(tables))))
        data_at = 1 << 30
        for step in range(tables):
            file.seek(2 * cluster + step * cluster)
            entries = [data_at + (step * 8192 + (index ^ 1)) * cluster for index in range(8192)]
            file.write(struct.pack(">8192Q", *entries))
        file.truncate(data_at + (tables << 29))
        file.seek(data_at + ((tables << 13) - 1) * cluster)
        file.write(b"last but one" * 100)

    async def run() -> None:
        async with open_session([path], Settings()) as session:
            await session.resolve()
            layer = next(iter(session.layers))
            assert (layer.state, layer.notes, layer.lost) == ("open", [], [])
            file = await session.open(await session.find([b"image.qcow2", b"disk.raw"]))
            assert bytes(await file.read((tables << 29) - 2 * cluster, 12)) == b"last but one"

    trio.run(run)
