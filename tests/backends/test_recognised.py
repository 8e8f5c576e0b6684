"""What probing finds first in every image of the corpus, and that named formats are named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
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
}
# What blkid or a file says and nothing at a fixed place near the ends of the media does.
_UNSEEN = {"yaffs2", "VMFS", "jbd"}
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
    window = Window(len(data), data[:head], data[max(head, len(data) - limits.WINDOW) :])
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
