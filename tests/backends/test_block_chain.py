"""VHD, VHDX and VDI over their parents: names are claims, ids decide, what is missing is lost."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import trio

from imgfs.backends import Options, discover
from imgfs.model import Media
from imgfs.opening.place import Overrule
from imgfs.session import open_session
from imgfs.settings import Settings
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends.chainimages import FORMS, SECTOR, chain, compose, own, written
from tests.backends.test_qcow_chain import mounted
from tests.backends.test_vhd import checksummed, dynamic, footer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CANARY = b"CANARY" * 4000


def media(form: str, files: Mapping[str, bytes]) -> Media:
    """Open the first file; the others are at hand."""
    first, *others = [MemoryReader(data, name=name) for name, data in files.items()]
    first.others = others
    opened = discover()[form].open(first, Options())
    assert isinstance(opened, Media)
    return opened


def said(form: str, files: Mapping[str, bytes]) -> str:
    return "\n".join(media(form, files).notes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_a_chain_reads_as_what_was_written(form, seed) -> None:
    files, disk = chain(form, seed, 2 + seed)
    assert contents(form, files) == disk
    claim = media(form, files)
    assert (claim.lost, claim.kin) == ((), False)
    assert claim.metadata["parent"]
    assert f"differencing disk: its parent is {claim.metadata['parent']}" in claim.notes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.skipif(shutil.which("7z") is None, reason="7z is missing")
def test_7_zip_reads_the_same_disk_of_a_vhd(seed, tmp_path: Path) -> None:
    # libvhdi is no peer here: it gives a child the rest of a byte of bitmap behind a sector that is its own.
    files, disk = chain("vhd", seed, 2 + seed)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = ["7z", "x", "-y", f"-o{tmp_path / 'out'}", str(tmp_path / next(iter(files)))]
    subprocess.run(words, check=True, capture_output=True)
    (found,) = (tmp_path / "out").iterdir()
    assert found.read_bytes() == disk


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.skipif(shutil.which("vhdimount") is None, reason="vhdimount is missing")
def test_libvhdi_reads_the_same_disk_of_a_vhdx(seed, tmp_path: Path) -> None:
    files, disk = chain("vhdx", seed, 2 + seed)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    point = tmp_path / "m"
    point.mkdir()
    subprocess.run(["vhdimount", tmp_path / next(iter(files)), point], check=True, capture_output=True)
    try:
        # libvhdi numbers the images of a chain from the lowest one on
        assert (point / f"vhdi{len(files)}").read_bytes() == disk
    finally:
        subprocess.run(
            ["fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", point], check=True
        )


@pytest.mark.parametrize("form", FORMS)
def test_what_a_missing_parent_holds_is_lost_and_the_rest_reads(form) -> None:
    files, disk = chain(form, 2, 4)
    names = list(files)
    for missing in names[1:]:
        held = {name: data for name, data in files.items() if name != missing}
        data = contents(form, held, lost=b"?")
        assert len(data) == len(disk)
        for at in range(0, len(disk), SECTOR):
            assert data[at : at + SECTOR] in (disk[at : at + SECTOR], b"?" * SECTOR)
        claim = media(form, held)
        lost = sum(stop - start for start, stop, _ in claim.lost)
        assert data.count(b"?" * SECTOR) * SECTOR >= lost > 0
        if form == "vdi":
            number = names.index(missing)
            assert claim.kin
            assert claim.wants == tuple(names[1:number])  # those of its kin that belong to it
            assert any(str(UUID(bytes_le=own(3 - number))) in note for note in claim.notes)
        else:
            assert claim.wants == (missing,)
            assert any("is no regular file" in why for _, _, why in claim.lost)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_another_id_is_no_parent(form) -> None:
    files, disk = chain(form, 1, 2)
    child, parent = files
    other = chain(form, 7, 3)[0]
    held = {child: files[child], parent: other[f"2.{form}"]}
    data = contents(form, held, lost=b"?")
    assert data == contents(form, {child: files[child]}, lost=b"?")
    assert b"?" * SECTOR in data
    assert data != disk
    if form != "vdi":
        assert "is not the parent: its id is" in said(form, held)
    held[parent] = b"nothing of the kind"
    assert contents(form, held, lost=b"?") == data


@pytest.mark.parametrize("form", FORMS)
def test_chains_end(form) -> None:
    block = 1 << 20 if form == "vhdx" else 64 << 10
    levels, _ = written(form, 2 * block, block, 3, 2)
    endless = {f"{n}.{form}": compose(form, levels[1], n, 2 * block, block) for n in range(40, 0, -1)}
    assert "more than 32 images build upon each other" in said(form, endless)
    one, two = compose(form, levels[1], 1, 2 * block, block), compose(form, levels[1], 2, 2 * block, block)
    if form == "vhd":
        one = dynamic(2 * block, {}, block=block, kind=4, own=own(1), below=(own(2), 0), parent="2.vhd")
    elif form == "vhdx":
        old, new = (
            f"{UUID(bytes_le=own(0))}".encode("utf-16-le"),
            f"{UUID(bytes_le=own(2))}".encode("utf-16-le"),
        )
        one = one.replace(old, new).replace("0.vhdx".encode("utf-16-le"), "2.vhdx".encode("utf-16-le"))
    else:
        one = one.replace(own(0), own(2))
    circle = {f"2.{form}": two, f"1.{form}": one}
    assert f"the chain of parents leads back to '2.{form}'" in said(form, circle)
    assert b"?" in contents(form, circle, lost=b"?")


@pytest.mark.parametrize("form", FORMS)
def test_the_contract_holds_on_damaged_chains(form) -> None:
    if form == "vhdx":  # three megabytes of structures an image: blocks of a few are enough
        levels, disk = written(form, 2 << 20, 1 << 20, 5, 2)
        files = {f"{n}.{form}": compose(form, levels[n], n, 2 << 20, 1 << 20) for n in (1, 0)}
    else:
        files, disk = chain(form, 5, 3)
    check_media(form, files, disk, seeds=200 // len(files))


@pytest.mark.parametrize("form", FORMS)
def test_a_parent_that_is_smaller_than_its_child_leaves_the_rest_lost(form) -> None:
    block = 1 << 20 if form == "vhdx" else 64 << 10
    levels, disk = written(form, 4 * block, block, 8, 1)
    small = compose(form, levels[0], 0, 4 * block, block)
    empty = {f"1.{form}": compose(form, type(levels[0])({}, {}), 1, 6 * block, block), f"0.{form}": small}
    assert contents(form, empty, lost=b"?") == disk + b"?" * 2 * block
    assert media(form, empty).lost == ((4 * block, 6 * block, "the parent ends before it"),)
    large = {f"1.{form}": compose(form, type(levels[0])({}, {}), 1, 2 * block, block), f"0.{form}": small}
    assert contents(form, large) == disk[: 2 * block]


# --- what each format says of its parent --------------------------------------------------------------
@pytest.mark.parametrize(
    ("platform", "path"),
    [
        (b"W2ru", ".\\0.vhd".encode("utf-16-le")),
        (b"W2ru", "..\\base\\0.vhd".encode("utf-16-le")),
        (b"W2ku", "C:\\Users\\Public\\0.vhd".encode("utf-16-le")),
        (b"W2ku", "\\\\server\\share\\0.vhd".encode("utf-16-le")),
        (b"MacX", b"file://localhost/Volumes/My%20Disk/%30.vhd\0"),
    ],
)
def test_every_locator_of_a_vhd_leads_to_the_file_of_that_name(platform, path) -> None:
    files, disk = chain("vhd", 1, 1)
    child = dynamic(
        len(disk), {}, block=65536, kind=4, own=own(1), below=(own(0), 0), locators={platform: path}
    )
    assert media("vhd", {"1.vhd": child}).wants == ("0.vhd",)
    assert contents("vhd", {"1.vhd": child, **files}) == disk


def test_a_vhd_may_build_upon_a_fixed_one_and_the_time_of_that_is_compared() -> None:
    disk = b"".join(b"%-512d" % number for number in range(256))
    for created, wrong in ((50, False), (51, True)):
        base = disk + footer(len(disk), 2, own=own(0), created=created)
        child = dynamic(len(disk), {}, block=65536, kind=4, own=own(1), below=(own(0), 50), parent="0.vhd")
        files = {"1.vhd": child, "0.vhd": base}
        assert contents("vhd", files) == disk
        assert ("the parent '0.vhd' was created 2000-01-01T00:00:51" in said("vhd", files)) == wrong


def test_a_relative_path_counts_from_the_image_that_names_it() -> None:
    levels, disk = written("vhd", 4 * 65536, 65536, 4, 3)
    names = {2: "sub\\1.vhd", 1: ".\\deep\\0.vhd", 0: ""}
    images = [compose("vhd", levels[n], n, 4 * 65536, 65536, names[n]) for n in (2, 1, 0)]
    assert media("vhd", {"2.vhd": images[0]}).wants == ("sub/1.vhd", "1.vhd")
    claim = media("vhd", {"2.vhd": images[0], "sub/1.vhd": images[1]})
    assert set(claim.wants) == {"1.vhd", "sub/deep/0.vhd", "sub/0.vhd", "0.vhd"}
    files = dict(zip(("2.vhd", "sub/1.vhd", "sub/deep/0.vhd"), images, strict=True))
    assert contents("vhd", files) == disk


@pytest.mark.parametrize("key", ["parent_linkage", "parent_linkage2"])
@pytest.mark.parametrize(
    "path",
    [
        ("relative_path", "..\\..\\path2\\sub3\\0.vhdx"),
        ("volume_path", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\path2\\0.vhdx"),
        ("absolute_win32_path", "\\\\?\\d:\\path2\\sub3\\0.vhdx"),
    ],
)
def test_every_path_and_linkage_of_a_vhdx_counts(key, path) -> None:
    from tests.backends import vhdximages as vhdx

    files, disk = chain("vhdx", 1, 1)
    keys = {key: f"{{{UUID(bytes_le=own(0))}}}".upper(), path[0]: path[1]}
    child = vhdx.compose(len(disk), {}, parent=keys, own=own(1))
    assert media("vhdx", {"1.vhdx": child}).wants == ("0.vhdx",)
    assert contents("vhdx", {"1.vhdx": child, **files}) == disk
    without = vhdx.compose(len(disk), {}, parent={path[0]: path[1]}, own=own(1))
    assert media("vhdx", {"1.vhdx": without, **files}).lost[0][2].endswith("which id its parent has")


def test_a_vdi_whose_parent_was_changed_since_says_so() -> None:
    files, disk = chain("vdi", 3, 2)
    assert "was changed since" not in said("vdi", files)
    files["0.vdi"] = files["0.vdi"].replace(own(100), own(77))
    assert contents("vdi", files) == disk
    assert f"was changed since: its last change has id {UUID(bytes_le=own(77))}" in said("vdi", files)
    twice = {**files, "copy.vdi": files["0.vdi"]}
    assert "2 files have the id of the parent: '0.vdi' is taken" in said("vdi", twice)


# --- what the session brings ---------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_parents_are_brought_by_the_session_and_nothing_else_stays_open(form, tmp_path: Path) -> None:
    files, disk = chain(form, 6, 3)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for number in range(3):  # kin of nobody
        (tmp_path / f"a{number}.{form}").write_bytes(
            chain(form, 9, 1)[0][f"0.{form}"].replace(own(0), own(60))
        )
    (tmp_path / f"b.{form.upper()}").write_bytes(b"nothing")
    top = tmp_path / next(iter(files))
    layer, data, opened = trio.run(mounted, top)
    assert (layer.state, data, opened) == ("open", disk, 3)
    assert sorted(layer.members) == sorted(files)
    (tmp_path / f"0.{form}").unlink()
    layer, data, opened = trio.run(mounted, top)
    assert (layer.state, opened) == ("incomplete", 2)
    assert sorted(layer.members) == sorted([*files][:2])
    assert b"?" * SECTOR in data


def test_a_vdi_among_many_kin_is_found_where_look_in_points(tmp_path: Path) -> None:
    files, disk = chain("vdi", 6, 2)
    snapshots, machine = tmp_path / "Snapshots", tmp_path
    snapshots.mkdir()
    (snapshots / "{1}.vdi").write_bytes(files["1.vdi"])
    (machine / "My Machine.vdi").write_bytes(files["0.vdi"])

    async def read() -> tuple[str, bytes]:
        settings = Settings(overrule=Overrule(look_in=(str(machine),)))
        async with open_session([snapshots / "{1}.vdi"], settings) as session:
            await session.resolve()
            file = await session.open(await session.find([b"{1}.vdi", b"disk.raw"]))
            return next(iter(session.layers)).state, await file.read(0, file.size)

    assert trio.run(read) == ("open", disk)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    ["canary-link", "canary-dir", "canary-fifo", "/dev/zero", "..\\canary", "\\\\.\\PhysicalDrive0", "."],
)
def test_names_that_lead_elsewhere_bring_nothing(form, name, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    (tmp_path / "canary").write_bytes(CANARY)
    (folder / "canary-link").symlink_to("../canary")
    (folder / "linked.vdi").symlink_to("../canary")
    (folder / "canary-dir").mkdir()
    os.mkfifo(folder / "canary-fifo")
    os.mkfifo(folder / "fifo.vdi")
    image = folder / f"1.{form}"
    image.write_bytes(chain(form, 1, 2, name)[0][f"1.{form}"])
    layer, data, opened = trio.run(mounted, image)
    assert (layer.state, opened) == ("incomplete", 1)
    assert b"CANARY" not in data
    assert b"?" * SECTOR in data


def test_locators_that_leave_the_file_cost_nothing_else() -> None:
    files, disk = chain("vhd", 1, 2)
    image = bytearray(files["1.vhd"])
    for at, form, value in ((8, ">I", 1 << 30), (16, ">Q", 1 << 62)):
        bad = bytearray(image)
        struct.pack_into(form, bad, 512 + 576 + at, value)
        bad[512:1536] = checksummed(bytes(bad[512:1536]), 36)
        assert contents("vhd", {"1.vhd": bytes(bad), "0.vhd": files["0.vhd"]}) == disk  # its name is left
