"""What probing finds first in every image of the corpus, and that named formats are named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs import limits
from imgfs.backends import Options, Role, discover
from imgfs.errors import EvidenceError, ImgfsError, NotMine, NotSupported
from imgfs.opening.probe import Window, candidates
from imgfs.testing.fakes import MemoryReader
from tests.images import gpt

if TYPE_CHECKING:
    from pathlib import Path

_OPEN = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_LARGEST = 40 << 20  # bytes of an unpacked image looked at here
_CONTAINERS = {"nero nrg": "nrg", "android sparse": "simg"}
_TABLES = {"dos": "mbr", "mac": "apm", "sgi": "sgilabel"}
_FILES = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), "ext"),
    **dict.fromkeys(("fat12", "fat16", "fat32", "vfat"), "fat"),
    **dict.fromkeys(("adaptec_raid_member", "hpt45x_raid_member", "jmicron_raid_member"), "hostraid"),
    "hfsplus": "hfs",
    "squashfs3": "squashfs",
    "BitLocker": "bitlocker",
    "crypto_LUKS": "luks",
    "LVM2_member": "lvm2",
    "linux_raid_member": "mdmirror",
    "ddf_raid_member": "ddf",
    "xfs_external_log": "xfslog",
    "vxfs": "vxfsbe",
    "VMFS": "vmfs",
}
# What blkid or a file says and nothing at a fixed place near the ends of the media does.
_UNSEEN = {"yaffs2", "jbd"}
_LOGICAL = {"SecurityRonin_4n6mount/aff4-logical.aff4", "aff4_pyaff4/dream.aff4"}  # files, no disk
_BRIDGES = (
    "util-linux_blkid_fs/udf.img.xz",
    "util-linux_blkid_fs/udf-cd-nero-6.img.xz",
)  # ISO 9660 reads them
_OTHERS = {"avm_be.sqfs4": "squashfs", "erofs-minix-magic.img": "erofs", "bcachefs-3.img": "bcachefs"}


def unpacked(path: Path) -> bytes:
    opener = _OPEN.get(path.suffix)
    if opener is None:
        return path.read_bytes()[: _LARGEST + 1]
    with opener(path) as file:
        return file.read(_LARGEST + 1)


def first(data: bytes, roles: tuple[Role, ...], name: str) -> tuple[str, object]:
    """Return the first back-end that is not mistaken, and what it says."""
    reader = MemoryReader(data, name=name)
    head = min(limits.WINDOW, len(data))
    far = {
        at: data[at : at + limits.FAR_BYTES] for at in limits.FAR if head <= at < len(data) - limits.WINDOW
    }
    window = Window(len(data), data[:head], data[max(head, len(data) - limits.WINDOW) :], far)
    for backend in candidates(window, roles, name=name):
        try:
            return backend.name, backend.open(reader, Options())
        except (NotMine, EvidenceError):
            continue
        except ImgfsError as why:
            return backend.name, why
    return "", None


def expected(row: dict[str, object], name: str) -> str:
    container, table = str(row["container"]), str(row["pttype"])
    if row["image"] in _LOGICAL:
        return "aff4l"
    if container != "raw":
        return _CONTAINERS.get(container, container)
    if name in _OTHERS:
        return _OTHERS[name]
    if table != "-":
        return _TABLES.get(table, table)
    systems = [str(system) for system in row["filesystems"]]  # type: ignore[attr-defined]
    system = systems[0].split("(")[0].split(">")[0] if systems else "?"
    return "iso9660" if row["image"] in _BRIDGES else _FILES.get(system, system)


@pytest.mark.slow
def test_probing_finds_what_is_there_in_every_image_of_the_corpus(corpus: Path) -> None:
    folder = corpus / "corpus"
    wrong, looked = [], 0
    for row in json.loads((folder / "INDEX.json").read_text()):
        path = folder / row["image"]
        if row["hostile"] or row["bytes"] > 400_000 or path.suffix == ".zst" or len(row["files"]) > 1:
            continue
        name = path.stem if path.suffix in _OPEN else path.name
        want = expected(row, name)
        known = want in discover()
        if want in {"?", "tcrypt"} or want in _UNSEEN or (row["container"] == "raw" and not known):
            continue
        data = unpacked(path)
        if len(data) > _LARGEST:
            continue
        looked += 1
        got, _ = first(data, (Role.MEDIA,), name)
        if got in {"", "raw"}:
            got, _ = first(data, (Role.VOLUMES, Role.FILES), "")
        if got != want:
            wrong.append((row["image"], want, got))
    assert not wrong
    assert looked > 100


def test_a_named_format_says_what_it_is_and_what_it_needs() -> None:
    lvm = b"HM\1\0".ljust(1 << 20, b"\0")
    name, why = first(lvm, (Role.VOLUMES, Role.FILES), "")
    assert (name, type(why)) == ("lvm1", NotSupported)
    assert str(why).startswith("LVM1 physical volume: imgfs cannot read it yet; ")


@pytest.mark.parametrize("name", [name for name, backend in discover().items() if backend.recognised])
def test_a_named_format_claims_nothing_else(name: str) -> None:
    backend = discover()[name]
    for data in (b"", bytes(512), bytes(1 << 18), random.Random(name).randbytes(1 << 18)):
        with pytest.raises((NotMine, EvidenceError)):
            backend.open(MemoryReader(data), Options())


def test_compressed_files_are_containers_by_their_name_only() -> None:
    data = gzip.compress(bytes(4096))
    assert first(data, (Role.MEDIA,), "disk.dd.gz")[0] == "gzip"
    assert first(data, (Role.MEDIA,), "")[0] == ""


def test_a_table_wins_over_leftovers_behind_it() -> None:
    image = bytearray(gpt(128, used=2, length=64)[0])
    image[4086:4096] = b"SWAPSPACE2"
    assert first(bytes(image), (Role.VOLUMES, Role.FILES), "")[0] == "gpt"


MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "size", "command"),
    [
        ("f2fs", 64 * MIB, ("mkfs.f2fs", "-q", "-l", "a label")),
        ("jfs", 32 * MIB, ("mkfs.jfs", "-q", "-L", "a label")),
        ("reiserfs", 64 * MIB, ("mkfs.reiserfs", "-q", "-f", "-f", "-l", "a label")),
        ("nilfs2", 160 * MIB, ("mkfs.nilfs2", "-q", "-L", "a label")),
        ("swap", MIB, ("mkswap", "-q", "-L", "a label")),
    ],
)
def test_a_file_system_that_is_not_read_is_said_with_version_and_label(
    name: str, size: int, command: tuple[str, ...], tmp_path: Path
) -> None:
    """As its own tool wrote them, and as blkid reads them."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(size)
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    subprocess.run([*command, str(image)], check=True, capture_output=True, env=os.environ | {"PATH": path})
    said = subprocess.run(
        ["blkid", "-p", "-o", "export", str(image)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    ).stdout
    facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    got, why = first(image.read_bytes(), (Role.VOLUMES, Role.FILES), "")
    assert got == name
    assert f'"{facts["LABEL"]}"'.replace("\\", "") in str(why)
    version = {"JR": "3.6"}.get(facts.get("VERSION", ""), facts.get("VERSION", ""))
    assert f"version {version}" in str(why)


def test_a_pool_and_a_datastore_are_said_by_name() -> None:
    """Composed as their specifications have them: nothing free makes a VMFS, and ZFS has no tool here."""

    def pair(key: str, kind: int, value: bytes) -> bytes:
        name = key.encode()
        body = struct.pack(">I", len(name)) + name.ljust(-(-len(name) // 4) * 4, b"\0")
        body += struct.pack(">II", kind, 1) + value
        return struct.pack(">II", len(body) + 8, 0) + body

    listed = b"\1\1\0\0\0\0\0\0\0\0\0\1" + pair("version", 8, struct.pack(">Q", 5000))
    listed += pair("name", 9, struct.pack(">I", 4) + b"tank")
    pool = bytes(16384) + listed + bytes(4096)
    assert str(first(pool, (Role.FILES,), "")[1]).startswith('ZFS version 5000 "tank": ')
    info = struct.pack("<IIB", 0x2FABF15E, 14, 81).ljust(0x1D, b"\0") + b"datastore1\0"
    alone = bytes(2 * MIB) + info.ljust(4096, b"\0")
    member = bytes(MIB) + struct.pack("<II", 0xC001D00D, 5).ljust(17 * MIB, b"\0") + info.ljust(4096, b"\0")
    assert str(first(alone, (Role.FILES,), "")[1]).startswith("VMFS volume version 14, version 81 ")
    assert '"datastore1"' in str(first(member, (Role.FILES,), "")[1])
    assert first(member, (Role.FILES,), "")[0] == "vmfslvm"
