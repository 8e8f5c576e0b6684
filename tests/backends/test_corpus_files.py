"""Real images against what independent readers saw; where the truth is at fault, the reason stands here."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import content, open_files, walk

CORPUS = Path(os.environ.get("IMGFS_SHARED", Path(__file__).parents[2].parent / "shared")) / "corpus"
BACKENDS = {
    "ntfs": "ntfs",
    "vfat": "fat",
    "exfat": "exfat",
    "hfsplus": "hfs",
    "iso9660": "iso9660",
    "ufs": "ufs",
    "yaffs2": "yaffs2",
}
UNPACK = {".xz": lzma.decompress, ".gz": gzip.decompress, ".bz2": bz2.decompress}
TYPES = {"d": Kind.DIR, "f": Kind.REG, "l": Kind.LNK}
LARGEST = 128 << 20
SHORT_NAMES = "the truth has ISO 9660 names, the image Rock Ridge names"
AT_FAULT = {  # how many files differ, and why
    "libcdio_libcdio/copying-rr.iso.xz": (7, SHORT_NAMES),
    "libarchive_libarchive/test_read_format_iso_rockridge.iso.xz": (9, SHORT_NAMES),
    "libarchive_libarchive/test_read_format_iso_rockridge_rr_moved.iso.xz": (6, "7-Zip keeps rr_moved"),
    "libarchive_libarchive/test_read_format_iso_joliet.iso.xz": (1, "Joliet has no links, Rock Ridge has"),
    "penguin359_hfsplus-rs/hfsp-small.img.xz": (
        2,
        "7-Zip shows hard links as empty files, TSK resolves them",
    ),
    "fox-it_dissect.ffs/ffs_symlink_test2.bin.gz": (
        2,
        "fls and icat read a link target of zeros from block 0",
    ),
}


def cases() -> list[Any]:
    index = CORPUS / "INDEX.json"
    if not index.exists():
        return [pytest.param({}, marks=pytest.mark.skip("the corpus is not here"))]
    found = []
    for entry in json.loads(index.read_text()):
        if entry["hostile"] or not entry.get("truth") or entry["container"] != "raw":
            continue
        truth = json.loads((CORPUS / entry["truth"]).read_text())
        volumes = [v for v in truth.get("volumes") or [] if v.get("fstype") in BACKENDS and v.get("files")]
        if volumes and truth.get("media_size", 0) <= LARGEST:
            found.append(pytest.param({"volumes": volumes, **entry}, id=entry["image"]))
    return found


def differences(volume: dict[str, Any], reader: MemoryReader) -> list[str]:
    files = open_files(BACKENDS[volume["fstype"]], reader)
    tree, wrong = walk(files), []
    for name, wanted in volume["files"].items():
        if "error" in wanted or not wanted.get("type") or "(Volume Label Entry)" in name:
            continue
        entry = tree.get(os.fsencode(name))
        if entry is None or entry.attr.kind != TYPES[wanted["type"]]:
            wrong.append(f"{name}: {entry and entry.attr.kind!r}")
        elif wanted["type"] == "f" and wanted.get("sha256"):
            if hashlib.sha256(content(files, reader, 0, entry)).hexdigest() != wanted["sha256"]:
                wrong.append(f"{name}: content")
        elif wanted["type"] == "l" and files.link(0, entry.attr.inum) != os.fsencode(
            wanted.get("target") or ""
        ):
            wrong.append(f"{name}: target")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("entry", cases())
def test_tree_agrees_with_the_independent_reader(entry: dict[str, Any]) -> None:
    packed = CORPUS / entry["image"]
    data = UNPACK.get(packed.suffix, bytes)(packed.read_bytes())
    for volume in entry["volumes"]:
        start = volume.get("start") or 0
        stop = start + (volume.get("size") or len(data) - start)
        wrong = differences(volume, MemoryReader(data[start:stop]))
        if entry["image"] in AT_FAULT:
            count, why = AT_FAULT[entry["image"]]
            assert len(wrong) == count, (why, wrong)
        else:
            assert not wrong
