"""Encrypted volumes of APFS, composed; libfsapfs unlocks the same. And what is compressed, in both."""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from imgfs.backends import Options
from imgfs.errors import EvidenceError, NeedKey, NotSupported
from imgfs.model import Enciphered, Foreign, Packed, Secret
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.apfscompose import BLOCK, DIR, PERSONAL, Composer, File, Volume, roots, summed
from tests.backends.hfsimages import decmpfs, lzvn_resource, zlib_resource
from tests.backends.test_apfs import CONTENTS, LARGE, compare, planted
from tests.backends.test_corestorage import key_file
from tests.backends.tskimages import noise
from tests.mounts import imgfs, mounted

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files, Reader

USER = UUID("c0ffee00-0000-0000-0000-000000000001").bytes
PASSWORD, RECOVERY = "pässword", "AAAA-BBBB-CCCC-DDDD-EEEE-FFFF"
USERS = [(USER, PASSWORD, "what it is"), (PERSONAL, RECOVERY, "")]
VEK = bytes(range(100, 132))
GIVEN = {
    "password": Secret("password", PASSWORD.encode()),
    "recovery": Secret("recovery", RECOVERY.encode()),
    "volume-key": Secret("volume-key", VEK),
}


def files_of() -> list[File]:
    """Return files without holes that are laid over blocks in the clear."""
    return [file for file in planted() if file.name != "sparse"]


def secret(name: str = "Secret", **more: object) -> Volume:
    return Volume(name, files_of(), **{"vek": VEK, "users": USERS, **more})  # type: ignore[arg-type]


def opened(image: bytes, *keys: Secret, keyless: bool = False) -> tuple[Files, Reader]:
    reader = MemoryReader(image)
    return open_files("apfs", reader, Options(keys=keys, keyless=keyless)), reader


def right(files: Files, reader: Reader, tree: int = 0) -> None:
    shown = walk(files, tree)
    assert not any(entry.attr.damaged for entry in shown.values())
    for name, data in CONTENTS.items():
        assert content(files, reader, tree, shown[name]) == data
    assert content(files, reader, tree, shown["Ünïcode:large".encode()]) == LARGE
    assert files.xattrs(tree, shown["Ünïcode".encode()].attr.inum)[b"large"] == LARGE


@pytest.mark.parametrize("moved", [0, 7, -3])
@pytest.mark.parametrize("kind", GIVEN)
def test_a_key_opens_a_volume(kind: str, moved: int) -> None:
    files, reader = opened(Composer([secret(moved=moved)]).image(), GIVEN[kind])
    right(files, reader)
    assert files.xattrs(0, 2)[b"user.imgfs.volume.encryption"] == b"one key"
    layouts = files.layout(0, walk(files)[b"size70000"].attr.inum, 0)
    assert isinstance(layouts[0], Enciphered)
    assert "key" not in repr(layouts[0].codec)


@pytest.mark.parametrize("moved", [0, 7])
def test_libfsapfs_unlocks_the_same(tmp_path: Path, moved: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(Composer([secret(moved=moved)]).image())
    compare(image, opened(image.read_bytes(), GIVEN["password"])[0], password=PASSWORD)


def test_keys_that_corestorage_left_have_half_the_length() -> None:
    image = Composer([secret(vek=VEK[:16])]).image()
    for key in (GIVEN["password"], Secret("volume-key", VEK[:16])):
        right(*opened(image, key))


def test_a_locked_volume_says_what_opens_it() -> None:
    image = Composer([secret()]).image()
    for keys in ((), (Secret("password", b"wrong"),), (Secret("volume-key", bytes(32)),)):
        with pytest.raises(NeedKey, match="encrypted volume Secret") as why:
            opened(image, *keys)
        assert [row[1:] for row in why.value.protectors] == [
            ("password", str(UUID(bytes=USER)), "pbkdf2-sha256, 1000 iterations, hint: what it is"),
            ("recovery", str(UUID(bytes=PERSONAL)), "pbkdf2-sha256, 1000 iterations"),
        ]
    with pytest.raises(NeedKey):
        opened(image, keyless=True)


def test_other_volumes_need_no_key() -> None:
    image = Composer([Volume("Open", files_of()), secret(uuid=bytes(16))]).image()
    with pytest.raises(NeedKey):
        opened(image)
    files, reader = opened(image, keyless=True)
    assert [tree.name for tree in files.info.trees] == ["Open"]
    assert "volume Secret is locked: no key opens it" in files.info.notes
    right(files, reader)
    files, reader = opened(image, GIVEN["recovery"])
    assert [tree.name for tree in files.info.trees] == ["Open", "Secret"]
    for tree in (0, 1):
        right(files, reader, tree)


def test_one_of_two_locked_volumes_is_enough() -> None:
    other = secret("Other", uuid=bytes(16), users=[(USER, "another", "")])
    image = Composer([secret(), other]).image()
    files, reader = opened(image, GIVEN["password"])
    assert [tree.name for tree in files.info.trees] == ["Secret"]
    assert "volume Other is locked: no key opens it" in files.info.notes
    right(files, reader)
    files, reader = opened(image, GIVEN["password"], Secret("password", b"another"))
    right(files, reader, 1)


def test_keys_in_hardware_are_said() -> None:
    with pytest.raises(NotSupported, match="Secret: encrypted with keys in the machine's hardware"):
        opened(Composer([secret()], software=False).image())
    files, reader = opened(
        Composer([Volume("Open", files_of()), secret(uuid=bytes(16))], software=False).image()
    )
    right(files, reader)
    assert "volume Secret: encrypted with keys in the machine's hardware" in files.info.notes


def test_a_volume_that_was_decrypted_on_its_way_is_read() -> None:
    made = Composer([Volume("Data", files_of())])
    at = made.places[0][3]
    data = bytearray(made.blocks[at])
    struct.pack_into("<Q", data, 264, 8)
    made.put(at, summed(bytes(data)))
    files, reader = opened(made.image())
    assert "volume Data says that it is encrypted, and its records are not" in files.info.notes
    right(files, reader)


def test_runs_whose_cipher_nobody_knows_are_lost() -> None:
    volume = secret()
    volume.files.append(File(90, 2, "unsaid", size=BLOCK, extents=[(0, BLOCK, 60, 0)]))
    volume.files.append(File(91, 2, "own key", size=BLOCK, extents=[(0, BLOCK, 60, (1 << 64) - 1)]))
    volume.files.append(File(92, 2, "hole", size=BLOCK, extents=[(0, BLOCK, 0, 0)]))
    files, reader = opened(Composer([volume]).image(), GIVEN["password"])
    shown = walk(files)
    for name in (b"unsaid", b"own key"):
        with pytest.raises((OSError, EvidenceError)):
            content(files, reader, 0, shown[name])
    assert content(files, reader, 0, shown[b"hole"]) == bytes(BLOCK)
    right(files, reader)


def test_absurd_keybags_cost_their_volume() -> None:
    made = Composer([Volume("Open", files_of()), secret(uuid=bytes(16))])
    for patch in (b"\1" * 16, bytes(BLOCK)):
        made.put(made.locker[0], patch)
        with pytest.raises(NeedKey, match="keybag: none in block"):
            opened(made.image(), GIVEN["password"])
        right(*opened(made.image(), keyless=True))


def test_a_locked_volume_is_unlocked_while_it_is_mounted(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(Composer([Volume("Open", files_of()), secret(uuid=bytes(16))]).image())
    keys = key_file(tmp_path, ("password", PASSWORD))
    rows = json.loads(imgfs("info", "--json", image).stdout)["layers"]
    (locked,) = [row for row in rows if row["state"] == "locked"]
    assert [row[1] for row in locked["protectors"]] == ["password", "recovery"]
    (tmp_path / "m").mkdir()
    with mounted(image, at=tmp_path / "m") as root:
        os.listdir(root / "disk.img")
        (found,) = root.glob("disk.img/*/Open/size70000")
        assert found.read_bytes() == CONTENTS[b"size70000"]
        assert sorted(os.listdir(found.parent.parent)) == ["Open", "volume.raw"]
        (tmp_path / "bad").mkdir()
        wrong = key_file(tmp_path / "bad", ("password", "wrong"))
        for file, code in ((wrong, 7), (keys, 0), (keys, 2)):
            done = imgfs("unlock", root, "--keys", file, check=False)
            assert done.returncode == code, done.stdout + done.stderr
        (found,) = root.glob("disk.img/*/Secret/size70000")
        assert found.read_bytes() == CONTENTS[b"size70000"]
        assert sorted(os.listdir(found.parent.parent)) == ["Open", "Secret", "volume.raw"]
        notes = [row["notes"] for row in json.loads((root / ".imgfs/layers.json").read_text())["layers"]]
        assert notes[-1] == list(opened(image.read_bytes(), GIVEN["password"])[0].info.notes)
    with mounted(image, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        for name in ("Open", "Secret"):
            (found,) = root.glob(f"disk.img/*/{name}/size70000")
            assert found.read_bytes() == CONTENTS[b"size70000"]


LINES = b"".join(b"line %d\n" % number for number in range(30_000))
UNIT = 1 << 16


def stored_plainly(data: bytes) -> bytes:
    units = [b"\xff" + data[at : at + UNIT] for at in range(0, len(data), UNIT)]
    return lzvn_resource(units)


def mixed(data: bytes) -> bytes:
    """Return a fork of zlib whose second unit is stored as it is."""
    units = [zlib.compress(data[at : at + UNIT]) for at in range(0, len(data), UNIT)]
    units[1] = b"\xff" + data[UNIT : 2 * UNIT]
    whole = zlib_resource(data)
    first = int.from_bytes(whole[:4], "big") + 4
    head = struct.pack("<I", len(units))
    at = 4 + 8 * len(units)
    rows = b""
    for unit in units:
        rows += struct.pack("<II", at, len(unit))
        at += len(unit)
    return whole[:first] + head + rows + b"".join(units)


FORKS = {
    "zlib": (4, LINES, zlib_resource(LINES), Packed),
    "mixed": (4, LINES, mixed(LINES), Packed),
    "plain": (10, LINES, stored_plainly(LINES), Packed),
    "lzvn": (8, LINES[:900], lzvn_resource([b"\x06" + LINES[:900]]), Foreign),
}
HERE = {
    "zlib here": (3, LINES[:2000], zlib.compress(LINES[:2000])),
    "raw here": (3, b"small", b"\xffsmall"),
    "first": (1, b"small", b"small"),
    "plain here": (9, b"small", b"\xccsmall"),
    "nothing": (4, b"", b""),
}


def compressed() -> list[File]:
    files = [*roots(), File(9, 2, "dir", DIR)]
    for number, (name, (kind, data, fork, _)) in enumerate(FORKS.items(), 20):
        held = {"com.apple.decmpfs": decmpfs(kind, len(data)), "com.apple.ResourceFork": fork}
        files.append(File(number, 2, name, flags=0x20, xattrs=held))
    for number, (name, (kind, data, behind)) in enumerate(HERE.items(), 40):
        files.append(
            File(number, 2, name, flags=0x20, xattrs={"com.apple.decmpfs": decmpfs(kind, len(data), behind)})
        )
    files.append(File(60, 2, "bitmap", flags=0x20, xattrs={"com.apple.decmpfs": decmpfs(13, 100, b"ZBM")}))
    files.append(File(61, 2, "bare", flags=0x20, xattrs={"com.apple.decmpfs": b"fpm"}))
    files.append(File(62, 2, "forkless", flags=0x20, xattrs={"com.apple.decmpfs": decmpfs(4, 100)}))
    files.append(File(63, 2, "dataless", flags=1 << 30, size=5000, extents=[]))
    files.append(
        File(64, 2, "unflagged", data=b"as it is", xattrs={"com.apple.decmpfs": decmpfs(9, 5, b"small")})
    )
    files.append(File(65, 2, "random", data=noise(100_000, 2)))
    return files


@pytest.mark.parametrize("key", [b"", VEK])
def test_compressed_files_are_read(tmp_path: Path, key: bytes) -> None:
    image = Composer([Volume("Data", compressed(), vek=key, users=USERS)]).image()
    files, reader = opened(image, *([GIVEN["password"]] if key else []))
    shown = walk(files)
    for name, (_, data, _, kind) in FORKS.items():
        entry = shown[name.encode()]
        assert (entry.attr.size, entry.attr.damaged) == (len(data), ""), name
        assert content(files, reader, 0, entry) == data, name
        assert isinstance(files.layout(0, entry.attr.inum, 0)[-1], kind), name
    for name, (_, data, _) in HERE.items():
        assert content(files, reader, 0, shown[name.encode()]) == data, name
    assert "LZBITMAP" in shown[b"bitmap"].attr.damaged
    assert shown[b"bitmap"].attr.size == 100
    with pytest.raises(NotSupported):
        files.layout(0, 60, 0)
    for name in (b"bare", b"forkless", b"dataless"):
        assert shown[name].attr.damaged or name == b"forkless"
        with pytest.raises((EvidenceError, OSError)):
            content(files, reader, 0, shown[name])
    assert content(files, reader, 0, shown[b"unflagged"]) == b"as it is"


def test_libfsapfs_decompresses_the_same(tmp_path: Path) -> None:
    image = tmp_path / "image"
    known = {"zlib", "mixed", "lzvn", "zlib here", "raw here", "random"}
    files = [file for file in compressed() if file.mode == DIR or file.name in known]
    image.write_bytes(Composer([Volume("Data", files)]).image())
    compare(image, opened(image.read_bytes())[0])
