"""Internal snapshots of QCOW2: each reads as qemu-img reads it, and is a disk of its own in the mount."""

from __future__ import annotations

import random
import shutil
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from imgfs.backends import Options
from imgfs.errors import LostBytes, Malformed
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.media import check_media, contents
from tests.backends.qcowimages import convert, io, media_bytes, needs_qemu, patch, qemu
from tests.backends.test_qcow2 import opened
from tests.mounts import tree
from tests.peers import layers, watched
from tests.recipes import MIB, fat

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), needs_qemu]


def truth(image: Path, name: str) -> bytes:
    """Return what qemu-img reads of a snapshot, and of a copy that is put back to it."""
    out, copy = image.parent / "snapshot.raw", image.parent / "copy.qcow2"
    qemu("convert", "-l", f"snapshot.name={name}", "-O", "raw", image.name, out, cwd=image.parent)
    beside = out.read_bytes()
    shutil.copy(image, copy)
    qemu("snapshot", "-a", name, copy)
    qemu("convert", "-O", "raw", copy.name, out, cwd=image.parent)
    data = out.read_bytes()
    copy.unlink()
    common = min(len(data), len(beside))  # beside: in the size that the disk has now
    assert data[:common] == beside[:common]
    return data


def taken(folder: Path, seed: int) -> tuple[list[Path], list[str]]:
    """Return an image with the files below it, and the names of its snapshots."""
    rng = random.Random(seed)
    size = 2 * MIB
    base = folder / "base.raw"
    base.write_bytes(media_bytes(size, seed))
    image = folder / "image.qcow2"
    options = ["compat=0.10", "", "extended_l2=on", "cluster_size=4k"][seed % 4]
    paths = [image]
    if seed % 2:
        convert(base, image, packed=rng.random() < 0.5, options=options)
    else:
        words = ["-o", options] if options else []
        qemu("create", "-q", "-f", "qcow2", *words, "-b", base.name, "-F", "raw", image.name, cwd=folder)
        paths.append(base)
    names = []
    for number in range(4):
        names.append(f"state {number}")
        qemu("snapshot", "-c", names[-1], image.name, cwd=folder)
        spots = [(rng.randrange(0, size, 512), rng.randrange(1, 200) * 512) for _ in range(6)]
        io(image, *(f"{rng.choice(('write -P 5', 'write -z'))} {at} {min(n, size - at)}" for at, n in spots))
        if number == 1 and "0.10" not in options:
            size += rng.choice((-1, 1)) * 300 * 512
            qemu("resize", "-q", "--shrink", "-f", "qcow2", image.name, size, cwd=folder)
    return paths, names


@pytest.mark.parametrize("seed", range(6))
def test_every_snapshot_reads_as_qemu_reads_it(seed, tmp_path) -> None:
    paths, names = taken(tmp_path, seed)
    media, _ = opened(paths)
    assert [state.name for state in media.states] == [f"{n}-{name}" for n, name in enumerate(names, 1)]
    files = {path.name: path.read_bytes() for path in paths}
    for state, name in zip(media.states, names, strict=True):
        assert contents("qcow2", files, options=Options(state=state.key)) == truth(paths[0], name)
    qemu("convert", "-O", "raw", paths[0].name, "active.raw", cwd=tmp_path)
    assert contents("qcow2", files) == (tmp_path / "active.raw").read_bytes()


def test_the_contract_holds_for_a_snapshot(tmp_path) -> None:
    paths, names = taken(tmp_path, 3)
    files = {path.name: path.read_bytes() for path in paths}
    data = truth(paths[0], names[1])
    check_media("qcow2", files, data, seeds=200, options=Options(state="2"))


def test_a_list_that_is_cut_short_keeps_what_it_names(tmp_path) -> None:
    paths, names = taken(tmp_path, 1)
    image = bytearray(paths[0].read_bytes())
    count, at = struct.unpack_from(">IQ", image, 60)
    assert count == len(names)
    struct.pack_into(">I", image, 60, 2**32 - 1)
    paths[0].write_bytes(image)
    media, _ = opened(paths)
    assert [state.name for state in media.states][: len(names)] == [
        f"{n}-{name}" for n, name in enumerate(names, 1)
    ]
    assert len(media.states) <= 1024
    assert any("cut short" in note or "which are not shown" in note for note in media.notes)
    struct.pack_into(">Q", image, 64, len(image) - 8)
    paths[0].write_bytes(image)
    media, _ = opened(paths)
    assert not media.states
    with pytest.raises(Malformed, match="no internal snapshot"):
        contents("qcow2", {"image.qcow2": bytes(image)}, options=Options(state="1"))
    assert at


def test_the_state_of_a_machine_is_said_and_not_shown(tmp_path) -> None:
    paths, names = taken(tmp_path, 1)
    image = paths[0].read_bytes()
    at = int.from_bytes(image[64:72], "big")
    patch(paths[0], at + 32, struct.pack(">II", 70_000, 24))
    patch(paths[0], at + 40, struct.pack(">Q", 70_000))
    media, _ = opened(paths)
    (note,) = [note for note in media.notes if "state of the machine" in note]
    assert note.startswith(f"internal snapshot 1 {names[0]!r} of 20")
    data = contents("qcow2", {"image.qcow2": paths[0].read_bytes()}, options=Options(state="1"))
    assert data == truth(paths[0], names[0])


def test_snapshots_are_disks_beside_the_volumes(tmp_path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    volumes = []
    for number in range(3):
        (source / "file").write_text(f"state {number}")
        volumes.append(fat(tmp_path / f"volume{number}", source, 12, 4 * MIB))
    image = tmp_path / "disk.qcow2"
    convert(volumes[0], image)
    for number in (1, 2):
        qemu("snapshot", "-c", "../evil" if number == 2 else "clean", image)
        io(image, f"write -s {volumes[number]} 0 4M")
    with watched(image, at=tmp_path / "m") as point:
        disk = point / "disk.qcow2"
        assert [layer["spec"] for layer in layers(point, kind="container")] == ["disk.qcow2|qcow2"]
        names = sorted(path.name for path in disk.iterdir())
        assert names == ["00-fat12", "disk.raw", "snapshot-1-clean", "snapshot-2-.._evil"]
        assert (disk / "00-fat12/root/file").read_text() == "state 2"
        for number, name in ((0, "snapshot-1-clean"), (1, "snapshot-2-.._evil")):
            folder = disk / name
            assert sorted(path.name for path in folder.iterdir()) == ["00-fat12", "disk.raw"]
            assert (folder / "00-fat12/root/file").read_text() == f"state {number}"
            assert (folder / "disk.raw").read_bytes() == volumes[number].read_bytes()
        specs = [layer["spec"] for layer in layers(point, kind="container")]
        assert specs == ["disk.qcow2|qcow2", "disk.qcow2|qcow2:snapshot-1", "disk.qcow2|qcow2:snapshot-2"]
        (files,) = layers(point, kind="files", path="disk.qcow2/snapshot-1-clean/00-fat12")
        assert files["spec"] == "disk.qcow2|qcow2:snapshot-1|fat"
        assert len(tree(disk)) == 3 * len(tree(disk / "snapshot-1-clean")) + 2


def test_a_snapshot_that_cannot_be_read_is_an_error_and_no_empty_folder(tmp_path) -> None:
    paths, _ = taken(tmp_path, 1)
    at = int.from_bytes(paths[0].read_bytes()[64:72], "big")
    patch(paths[0], at, struct.pack(">Q", 12345))
    with watched(paths[0], at=tmp_path / "m") as point:
        disk = point / "image.qcow2"
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                list((disk / "snapshot-1-state 0").iterdir())
        assert (disk / "snapshot-2-state 1/disk.raw").read_bytes() == truth(paths[0], "state 1")
        found = {layer["spec"]: layer["state"] for layer in layers(point)}
        name = "image.qcow2|qcow2"
        assert found == {name: "open", f"{name}:snapshot-1": "damaged", f"{name}:snapshot-2": "open"}
        assert len(layers(point)) == len(found)


def test_files_below_an_image_are_below_its_snapshots(tmp_path) -> None:
    paths, names = taken(tmp_path, 2)
    assert len(paths) == 2

    async def read() -> list[bytes]:
        async with open_session([paths[0]], Settings()) as session:
            await session.resolve()
            found = []
            for number, name in enumerate(names, 1):
                place = [b"image.qcow2", f"snapshot-{number}-{name}".encode(), b"disk.raw"]
                file = await session.open(await session.find(place))
                try:
                    found.append(bytes(await file.read(0, file.size)))
                except LostBytes:
                    found.append(b"lost")
            return found

    assert trio.run(read) == [truth(paths[0], name) for name in names]
    paths[1].unlink()
    assert trio.run(read)[0] == b"lost"


def test_an_image_inside_the_evidence_has_its_snapshots(tmp_path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    paths, names = taken(tmp_path, 1)
    (source / "inner.qcow2").write_bytes(paths[0].read_bytes())
    outer = fat(tmp_path / "outer.dd", source, 16, 32 * MIB)
    with watched(outer, at=tmp_path / "m") as point:
        (file,) = point.glob("outer.dd/*/root/inner.qcow2")
        disk = file.with_name("inner.qcow2@")
        assert (disk / f"snapshot-2-{names[1]}" / "disk.raw").read_bytes() == truth(paths[0], names[1])
