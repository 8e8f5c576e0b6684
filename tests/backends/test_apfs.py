"""APFS as Apple's reference describes it, composed; libfsapfs reads the same."""

from __future__ import annotations

import os
import random
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyfsapfs
import pytest

from imgfs.errors import EvidenceError, Malformed, NeedKey, NotFound, NotMine, NotSupported
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends import apfscompose
from tests.backends.apfscompose import (
    AREA,
    BLOCK,
    DIR,
    LNK,
    XID,
    Composer,
    File,
    Volume,
    fletcher,
    implanted,
    roots,
    summed,
)
from tests.backends.test_apfs_recorded import recorded
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from imgfs.backends import Files

SIZES = (1, 4095, 4096, 4097, 70_000)
CONTENTS = {f"size{size}".encode(): noise(size, size) for size in SIZES}
LARGE = noise(9000, 5)


def planted(more: int = 150) -> list[File]:
    """Return files of every kind, enough of them for a tree of two levels."""
    files = roots()
    files.append(File(16, 2, "dir", DIR, times=(-1, -(10**18), 2**62, 0)))
    files += [File(20 + n, 2, name.decode(), data=data) for n, (name, data) in enumerate(CONTENTS.items())]
    files.append(File(30, 2, "empty"))
    files.append(File(31, 2, "Ünïcode", data=b"named", xattrs={"small": b"1", "large": LARGE, "none": b""}))
    files.append(File(32, 2, "linked", data=b"twice", links=2, further=[(16, "again")]))
    files.append(File(33, 2, "link", LNK, xattrs={"com.apple.fs.symlink": b"dir/again\0"}))
    files.append(File(34, 2, "pipe", 0o10600))
    files.append(File(35, 2, "disk", 0o60640, fields={14: struct.pack("<I", 3 << 24 | 70_000)}))
    files.append(File(36, 2, "flags", flags=0x2 | 0x8000 | 1 << 20, owner=(99, 4_000_000_000)))
    files.append(File(37, 2, "document", fields={3: struct.pack("<I", 77), 7: bytes(32)}))
    files.append(File(38, 2, "clone", data=b"shared", private=500))
    holes = [(0, BLOCK, 0, 0), (BLOCK, 2 * BLOCK, 50, 50), (3 * BLOCK, 5 * BLOCK, 0, 0)]
    files.append(
        File(39, 2, "sparse", size=8 * BLOCK - 5, extents=holes, fields={13: struct.pack("<Q", 6 * BLOCK)})
    )
    files += [File(1000 + n, 16, f"file {n}", data=b"%d" % n) for n in range(more)]
    return files


def image_of(*volumes: Volume, **more: Any) -> bytes:
    made = Composer(volumes, **more)
    made.put(50, b"island".ljust(2 * BLOCK, b"."))
    return made.image()


def opened(image: bytes) -> Files:
    return open_files("apfs", MemoryReader(image))


def peer(image: Path, *, password: str = "") -> dict[str, Any]:
    """Return everything libfsapfs reads of the first volume, by path."""
    container = pyfsapfs.container()
    container.open(str(image))
    volume = container.get_volume(0)
    if password:
        volume.set_password(password)
        assert volume.unlock()
    found: dict[str, Any] = {}
    todo = [("", volume.root_directory)]
    while todo:
        path, folder = todo.pop()
        for entry in folder.sub_file_entries:
            name = f"{path}/{entry.name}" if path else entry.name
            found[name] = entry
            if entry.file_mode >> 12 == Kind.DIR:
                todo.append((name, entry))
    return found


def compare(image: Path, files: Files, tree: int = 0, *, password: str = "") -> None:
    """Assert that a tree is what libfsapfs reads."""
    reader = MemoryReader(image.read_bytes())
    theirs = peer(image, password=password)
    ours = {path.decode(): entry for path, entry in walk(files, tree).items() if not entry.stream}
    assert ours.keys() - {"$private-dir"} == theirs.keys()
    for path, entry in theirs.items():
        attr = ours[path].attr
        assert (attr.inum, attr.kind << 12 | attr.mode) == (entry.identifier, entry.file_mode), path
        assert (attr.uid, attr.gid) == (entry.owner_identifier, entry.group_identifier), path
        stamps = [  # libfsapfs takes the first two for each other, also in what macOS wrote
            entry.get_modification_time_as_integer(),
            entry.get_creation_time_as_integer(),
            entry.get_inode_change_time_as_integer(),
            entry.get_access_time_as_integer(),
        ]
        assert [attr.b_ns, attr.m_ns, attr.c_ns, attr.a_ns] == stamps, path
        if attr.kind == Kind.REG and path != "sparse":  # there it reads block 0 for a hole
            assert attr.size == entry.size, path
            data = entry.read_buffer(entry.size) if entry.size else b""
            assert content(files, reader, tree, ours[path]) == data, path
        if attr.kind == Kind.LNK:
            assert files.link(tree, attr.inum).decode() == entry.symbolic_link_target
        held = {x.name: x.read_buffer(x.size) if x.size else b"" for x in entry.extended_attributes}
        found = {
            k.decode(): v for k, v in files.xattrs(tree, attr.inum).items() if not k.startswith(b"user.imgfs")
        }
        assert {name: held[name] for name in found} == found, path


def test_what_was_composed_is_shown(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(image_of(Volume("Data", planted())))
    truth: dict[bytes, bytes | None] = {b"dir": None, b"empty": b"", **CONTENTS}
    truth |= {b"linked": b"twice", b"dir/again": b"twice", b"clone": b"shared"}
    truth |= {"Ünïcode:large".encode(): LARGE, "Ünïcode:small".encode(): b"1", "Ünïcode:none".encode(): b""}
    truth[b"sparse"] = (bytes(BLOCK) + b"island".ljust(2 * BLOCK, b".")).ljust(8 * BLOCK - 5, b"\0")
    tree = check_files("apfs", image, truth)
    files = opened(image.read_bytes())
    assert files.info.notes == (
        "volume Data, uuid aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee, case-insensitive, encryption: none",
    )
    assert (tree[b"disk"].attr.rdev, tree[b"linked"].attr.nlink) == (os.makedev(3, 70_000), 2)
    assert tree[b"sparse"].attr.allocated == 2 * BLOCK
    assert tree[b"dir"].attr.m_ns == -(10**18)
    assert files.link(0, tree[b"link"].attr.inum) == b"dir/again"
    said = files.xattrs(0, tree[b"flags"].attr.inum)
    assert said[b"user.imgfs.flags"] == b"immutable hidden system-no-unlink"
    assert files.xattrs(0, tree[b"document"].attr.inum)[b"user.imgfs.document-id"] == b"77"
    assert files.xattrs(0, tree[b"clone"].attr.inum)[b"user.imgfs.private-id"] == b"500"


@pytest.mark.parametrize("incompatible", [0, 1, 8])
def test_libfsapfs_reads_the_same(tmp_path: Path, incompatible: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(image_of(Volume("Data", planted(), incompatible=incompatible)))
    compare(image, opened(image.read_bytes()))


@pytest.mark.parametrize("block", [8192, 16384, 65536])
def test_blocks_may_be_larger(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(apfscompose, "BLOCK", block)
    files = [file for file in planted(400) if file.name != "sparse"]
    image = Composer([Volume("Data", files)], blocks=600).image()
    reader = MemoryReader(image)
    shown = open_files("apfs", reader)
    tree = walk(shown)
    assert len([path for path in tree if path.startswith(b"dir/file ")]) == 400
    for name, data in CONTENTS.items():
        assert content(shown, reader, 0, tree[name]) == data


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-s",), ("-s", "-z")])
def test_empty_containers_of_mkapfs(tmp_path: Path, options: tuple[str, ...]) -> None:
    if shutil.which("mkapfs") is None:
        pytest.skip("mkapfs is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(600 << 20)
    ids = ["12345678-1234-1234-1234-123456789abc", "87654321-4321-4321-4321-cba987654321"]
    run("mkapfs", *options, "-L", "Übung", "-U", ids[0], "-u", ids[1], image)
    tree = check_files("apfs", image, {})
    assert list(tree) == [b"$private-dir"]
    reader = FileReader(image)
    files = open_files("apfs", reader)
    assert (files.info.label, files.info.uuid, files.info.size) == ("Übung", ids[0], 600 << 20)
    said = files.xattrs(0, 2)
    assert said[b"user.imgfs.volume.uuid"].decode() == ids[1]
    assert said[b"user.imgfs.volume.case"] == (b"sensitive" if options else b"insensitive")
    reader.close()


def test_trees_of_several_levels_are_read(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(image_of(Volume("Data", planted(8000)), blocks=20_000))
    compare(image, opened(image.read_bytes()))


def test_where_a_firmlink_leads_is_said() -> None:
    link = File(50, 2, "Users", DIR, xattrs={"com.apple.fs.firmlink": b"Users\0"}, flags=1 << 23)
    files = opened(image_of(Volume("System", [*planted(0), link])))
    (entry,) = (e for name, e in walk(files).items() if name == b"Users")
    said = files.xattrs(0, entry.attr.inum)
    assert entry.attr.kind == Kind.DIR
    assert said[b"user.imgfs.firmlink"] == b"Users"
    assert said[b"user.imgfs.flags"] == b"firmlink"
    assert said[b"com.apple.fs.firmlink"] == b"Users\0"


def test_several_volumes_are_trees_of_their_own() -> None:
    volumes = [Volume(name, [*roots(), File(9, 2, f"in {name}")]) for name in ("Data", "a/b", "Data")]
    files = opened(image_of(*volumes))
    assert [tree.name for tree in files.info.trees] == ["Data", "a/b", "Data"]
    assert [b"in " + tree.name.encode() in walk(files, n) for n, tree in enumerate(files.info.trees)] == [
        True
    ] * 3


def test_roles_are_said() -> None:
    files = opened(image_of(Volume("Boot", planted(0), role=16), Volume("Home", planted(0), role=64)))
    assert [files.xattrs(tree, 2)[b"user.imgfs.volume.role"] for tree in (0, 1)] == [b"preboot", b"data"]


def changed(image: bytes, at: int, patch: bytes, where: int, *, resum: bool = True) -> bytes:
    """Return an image with bytes of a block changed, and its checksum made right again."""
    copy = bytearray(image)
    data = bytearray(copy[at * BLOCK : (at + 1) * BLOCK])
    data[where : where + len(patch)] = patch
    copy[at * BLOCK : (at + 1) * BLOCK] = summed(bytes(data)) if resum else data
    return bytes(copy)


def test_a_damaged_superblock_gives_way_to_the_one_before() -> None:
    good = image_of(Volume("Data", planted(0)))
    image = changed(changed(good, 0, b"\1", 2000, resum=False), AREA + 3, b"\1", 2000, resum=False)
    with pytest.raises(Malformed):  # the map knows the volume of the newest transaction alone
        opened(image)
    made = Composer([Volume("Data", planted(0))])
    made.omap = made._omap([(1026, XID - 1, 0, made.places[0][3])])
    image = changed(changed(made.image(), 0, b"\1", 2000, resum=False), AREA + 3, b"\1", 2000, resum=False)
    notes = opened(image).info.notes
    assert notes[0].startswith("the superblock at the start: block 0: checksum")
    assert "block 4: checksum" in notes[1]
    assert notes[2] == f"read in an older state, of transaction {XID - 1}"
    assert not [note for note in opened(made.image()).info.notes if "older" in note]


def test_what_is_laid_out_otherwise_is_refused_by_name() -> None:
    made = Composer([Volume("Data", planted(0))])
    for features, said in ((0x102, "Fusion"), (1, "before its release"), (0x402, "0x400")):
        made.put(0, made.superblock(XID + 1, incompatible=features))
        image = b"".join(made.blocks.get(at, bytes(BLOCK)) for at in range(made.count))
        with pytest.raises(NotSupported, match=said):
            opened(image)
    with pytest.raises(NotMine):
        opened(bytes(1 << 16))
    for patch, where in (
        (struct.pack("<I", 5000), 36),
        (struct.pack("<Q", 0), 40),
        (struct.pack("<I", 1 << 20), 36),
    ):
        with pytest.raises(Malformed):
            opened(changed(made.image(), 0, patch, where))


def test_an_image_that_ends_early_loses_what_is_behind() -> None:
    made = Composer(
        [Volume("Data", [*roots(), File(9, 2, "here", data=b"x"), File(10, 2, "gone", data=noise(9000, 1))])]
    )
    image = made.image()
    at = image.index(noise(9000, 1)[:64])
    for file in (9, 10):
        assert file
    meta = max(n for n in range(len(image) // BLOCK) if any(image[n * BLOCK : (n + 1) * BLOCK]))
    assert meta * BLOCK > at  # records lie behind the data here: cut in the middle loses the volume
    with pytest.raises(EvidenceError):
        opened(image[: at + BLOCK])
    files = opened(image[: (meta + 1) * BLOCK])
    assert "the image ends after" in files.info.notes[0]


SEALED = {"role": 1, "sealed": True}


@pytest.mark.parametrize("virtual", [False, True])
def test_sealed_volumes_are_read(virtual: bool) -> None:  # noqa: FBT001  # a parameter of pytest
    plain = [file for file in planted(300) if file.name != "sparse"]
    volume = Volume("System", plain, virtual=virtual, **SEALED)  # type: ignore[arg-type]
    image = image_of(volume)
    reader = MemoryReader(image)
    files = open_files("apfs", reader)
    tree = walk(files)
    for name, data in CONTENTS.items():
        assert content(files, reader, 0, tree[name]) == data
    assert not any(entry.attr.damaged for entry in tree.values())
    assert files.xattrs(0, 2)[b"user.imgfs.volume.seal"] == b"sealed"
    assert "sealed" in files.info.notes[0]
    again = Volume("System", volume.files, broken=6, **SEALED)  # type: ignore[arg-type]
    said = opened(image_of(again))
    walk(said)
    assert said.xattrs(0, 2)[b"user.imgfs.volume.seal"] == b"its seal is broken, by transaction 6"


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
def test_7z_reads_the_same(tmp_path: Path, sealed: bool) -> None:  # noqa: FBT001  # a parameter of pytest
    """7-Zip compares the hashes of a sealed volume, and wants everything else a container has."""
    need("7z")
    left = ("sparse", "clone")  # 7-Zip wants more of these than there is here
    plain = [file for file in planted(300) if file.mode >> 12 in (4, 8) and file.name not in left]
    more: dict[str, Any] = SEALED if sealed else {}
    made = Composer([Volume("System", plain, **more)], blocks=16384, first=8192)
    image = implanted(recorded("small")[0], made)
    (tmp_path / "image").write_bytes(image)
    run("7z", "x", "-y", f"-o{tmp_path / 'out'}", tmp_path / "image")
    reader = MemoryReader(image)
    files = open_files("apfs", reader)
    shown = {path: entry for path, entry in walk(files).items() if not entry.stream}
    out = os.fsencode(tmp_path / "out")
    for path, entry in shown.items():
        if entry.attr.kind == Kind.REG:
            assert Path(os.fsdecode(out + b"/" + path)).read_bytes() == content(files, reader, 0, entry), path
    theirs = {os.fsencode(found.relative_to(tmp_path / "out")) for found in (tmp_path / "out").rglob("*")}
    assert shown.keys() - theirs <= {b"$private-dir", b"empty"}


def test_what_a_seal_does_not_know_is_not_shown() -> None:
    volume = Volume("System", planted(300), **SEALED)  # type: ignore[arg-type]
    image = image_of(volume)
    at = image.index(b"file 77\0") // BLOCK
    forged = (
        image[: at * BLOCK]
        + image[at * BLOCK : (at + 1) * BLOCK].replace(b"file 77\0", b"file XX\0")
        + image[(at + 1) * BLOCK :]
    )
    files = opened(forged)
    names = walk(files)
    assert b"dir/file XX" not in names
    assert names.keys() < walk(opened(image)).keys()
    page = files.list(0, 16, 0, 10_000)
    assert "its hash is not what the seal says" in page.damaged
    broken = image_of(Volume("System", planted(300), broken=6, **SEALED))  # type: ignore[arg-type]
    forged = broken.replace(b"file 77\0", b"file XX\0")
    assert b"dir/file XX" in walk(opened(forged))


def test_a_record_that_lies_costs_itself() -> None:
    files = planted(0)
    files.append(File(60, 2, "whiteout", 0o160000))
    files.append(
        File(61, 2, "overlap", size=3 * BLOCK, extents=[(0, 2 * BLOCK, 50, 0), (BLOCK, 2 * BLOCK, 50, 0)])
    )
    files.append(File(62, 2, "short", size=3 * BLOCK, extents=[(0, BLOCK, 50, 0)]))
    files.append(File(63, 2, "outside", size=BLOCK, extents=[(0, BLOCK, 1 << 40, 0)]))
    files.append(File(64, 2, "nowhere", LNK))
    files.append(File(65, 2, "loop", DIR, further=[(65, "self")]))
    files.append(File(66, 2, "huge", size=1 << 63, extents=[(0, BLOCK, 50, 0)]))
    image = image_of(Volume("Data", files))
    shown = opened(image)
    tree = walk(shown)
    reader = MemoryReader(image)
    assert tree[b"whiteout"].attr.damaged
    assert tree[b"huge"].attr.damaged
    for name in (b"overlap", b"short", b"outside"):
        with pytest.raises((EvidenceError, OSError)):
            content(shown, reader, 0, tree[name])
    with pytest.raises(Malformed):
        shown.link(0, 64)
    assert tree[b"loop/self"].attr.inum == 65
    assert content(shown, reader, 0, tree[b"size1"]) == CONTENTS[b"size1"]


def test_a_name_without_an_inode_is_shown_as_damaged() -> None:
    files = planted(0)
    files.append(File(70, 2, "ghost", LNK))
    image = image_of(Volume("Data", files))
    found = image.index(struct.pack("<Q", 70 | 3 << 60))
    shown = opened(changed(image, found // BLOCK, struct.pack("<Q", 71 | 3 << 60), found % BLOCK))
    entry = walk(shown)[b"ghost"]
    assert entry.attr.kind == Kind.LNK
    assert entry.attr.damaged == "inode 70"
    with pytest.raises(NotFound):
        shown.list(0, 70, 0, 10)


def test_trees_that_go_in_circles_end() -> None:
    image = image_of(Volume("Data", planted(300)))
    root = next(
        at
        for at in range(len(image) // BLOCK)
        if image[at * BLOCK + 24 : at * BLOCK + 32] == struct.pack("<II", 2, 14)
    )
    data = image[root * BLOCK : (root + 1) * BLOCK]
    (oid,) = struct.unpack_from("<Q", data, 8)
    values = [
        at for at in range(0, BLOCK - 40, 8) if oid < struct.unpack_from("<Q", data, at)[0] <= oid + 20
    ][-9:]
    assert len(values) > 3
    first = data[values[-1] : values[-1] + 8]
    for target in (first, struct.pack("<Q", oid)):  # all to one child, or to itself
        forged = image
        for where in values[:-1]:
            forged = changed(forged, root, target, where)
        names = walk(opened(forged))
        assert len(names) < 400


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    image = tmp_path / "image"
    made = [Volume("Data", planted(60)), Volume("System", planted(60)[:30], **SEALED)]  # type: ignore[arg-type]
    image.write_bytes(image_of(*made)[: 700 * BLOCK])
    check_hostile("apfs", image, tmp_path, seeds=200, seconds=400)


@pytest.mark.slow
def test_damage_with_right_checksums_stays_inside_the_contract() -> None:
    good = bytearray(image_of(Volume("Data", planted(60)), Volume("System", planted(60)[:30], **SEALED)))  # type: ignore[arg-type]
    blocks = [
        at
        for at in range(len(good) // BLOCK)
        if fletcher(bytes(good[at * BLOCK : (at + 1) * BLOCK]))
        == good[at * BLOCK : at * BLOCK + 8]
        != bytes(8)
    ]
    for seed in range(150):
        rng = random.Random(seed)
        copy = bytearray(good)
        for _ in range(1 << rng.randrange(4)):
            at = rng.choice(blocks) * BLOCK
            places = [at + n for n in range(32, BLOCK) if good[at + n]] or [at + 40]
            copy[rng.choice(places)] ^= 1 << rng.randrange(8)
            copy[at : at + BLOCK] = summed(bytes(copy[at : at + BLOCK]))
        _survives(bytes(copy))


def _survives(image: bytes) -> None:
    reader = MemoryReader(image)
    try:
        files = open_files("apfs", reader)
    except (EvidenceError, NotMine, NotSupported, NeedKey):
        return
    for tree in range(len(files.info.trees)):
        try:
            found = walk(files, tree)
        except (EvidenceError, NotFound):
            continue
        for entry in found.values():
            try:
                files.xattrs(tree, entry.attr.inum)
                if entry.attr.kind == Kind.LNK:
                    files.link(tree, entry.attr.inum)
                if entry.attr.size < 1 << 20:
                    content(files, reader, tree, entry)
            except (EvidenceError, NotFound, NotSupported, OSError):
                continue


def test_an_area_of_checkpoints_may_be_scattered() -> None:
    made = Composer([Volume("Data", planted(0))])
    key = struct.pack("<Q", 0)
    rows = [(0, key, struct.pack("<QQ", 45, 1)), (1, struct.pack("<Q", 1), struct.pack("<QQ", 47, 1))]
    tree = made.physical(rows, 10, fixed=(8, 16))

    def scattered(xid: int) -> bytes:
        data = bytearray(made.superblock(xid))
        struct.pack_into("<I", data, 104, 2 | 1 << 31)
        struct.pack_into("<Q", data, 112, tree)
        return summed(bytes(data))

    made.image()
    made.put(0, scattered(1))
    made.put(47, scattered(XID))
    image = b"".join(made.blocks.get(at, bytes(BLOCK)) for at in range(made.count))
    files = opened(image)
    assert b"size1" in walk(files)
    assert not files.info.notes[0].startswith("read in")


def test_long_names_of_attributes_cost_themselves() -> None:
    files = planted(0)
    held = {f"name {number:04}": b"x" for number in range(300)}
    files.append(File(80, 2, "many", data=b"1", xattrs=held))
    files.append(File(81, 2, "n" * 255, data=b"2", xattrs={"a" * 1500: b"x", "b": b"y"}))
    image = image_of(Volume("Data", files))
    shown = opened(image)
    tree = walk(shown)
    assert len([path for path in tree if path.startswith(b"many:")]) == 300
    assert {k for k in shown.xattrs(0, 80) if not k.startswith(b"user.imgfs")} == {k.encode() for k in held}
    assert "contradicts itself" in tree[b"n" * 255].attr.damaged
    assert shown.xattrs(0, 81)[b"b"] == b"y"
    assert content(shown, MemoryReader(image), 0, tree[b"n" * 255]) == b"2"
