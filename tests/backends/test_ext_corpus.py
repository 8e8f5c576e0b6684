"""Images nobody of this project made, against what an independent reader saw of them."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import json
import lzma
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.tskimages import need
from tests.conftest import shared

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "d": Kind.DIR,
    "f": Kind.REG,
    "l": Kind.LNK,
    "p": Kind.FIFO,
    "c": Kind.CHR,
    "b": Kind.BLK,
    "s": Kind.SOCK,
}
# icat reads the blocks of this link, which has none: debugfs shows the target inside the inode, as we do
WRONG_TRUTH = {("vstinner_hachoir/bsize-2048-isize-512.ext2.xz", "target")}


def images() -> list[str]:
    folder = shared()
    if folder is None:
        return []
    rows = json.loads((folder / "corpus" / "INDEX.json").read_text())
    return [
        row["image"]
        for row in rows
        if not row["hostile"]
        and row.get("container") == "raw"
        and len(row["files"]) == 1
        and any("ext" in str(name) and "xfs" not in str(name) for name in row.get("filesystems") or ())
    ]


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".bz2":
            return bz2.decompress(data)
        case ".zst":
            need("zstd")
            return subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
        case _:
            return data


@pytest.mark.slow
@pytest.mark.parametrize("image", images())
def test_corpus_is_read_as_others_read_it(corpus: Path, image: str) -> None:
    data = unpacked(corpus / "corpus" / image)
    truth = json.loads((corpus / "corpus" / f"{image}.truth.json").read_text())
    volumes = [volume for volume in truth["volumes"] if str(volume.get("fstype")).startswith("ext")]
    assert volumes
    for volume in volumes:
        start = volume.get("start") or 0
        reader = MemoryReader(data[start : start + (volume.get("size") or len(data))])
        files = open_files("ext", reader)
        assert files.info.type == volume["fstype"]
        assert files.info.label == (volume.get("label") or "")
        assert volume.get("uuid") in (None, files.info.uuid)
        tree = walk(files)
        for name, row in (volume.get("files") or {}).items():
            entry = tree[name.encode("utf-8", "surrogateescape")]
            attr = entry.attr
            assert attr.kind == KINDS[row["type"]], name
            for key, ours in (
                ("uid", attr.uid),
                ("gid", attr.gid),
                ("nlink", attr.nlink),
                ("ino", attr.inum),
            ):
                assert key not in row or int(row[key]) == ours, (name, key)
            assert "mode" not in row or int(row["mode"], 8) & 0o7777 == attr.mode, name
            assert "mtime" not in row or int(row["mtime"]) == (attr.m_ns or 0) // 10**9, name
            assert row["type"] != "f" or row["size"] == attr.size, name
            if "sha256" in row:
                assert hashlib.sha256(content(files, reader, 0, entry)).hexdigest() == row["sha256"], name
            if "target" in row and (image, name) not in WRONG_TRUTH:
                assert files.link(0, attr.inum).decode("utf-8", "surrogateescape") == row["target"], name
            stored = files.xattrs(0, attr.inum)
            for key, value in (row.get("xattrs") or {}).items():
                assert stored[key.encode()] == base64.b64decode(value), (name, key)
