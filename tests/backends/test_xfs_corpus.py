"""Images of others: what the tests of their projects assert of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.errors import Truncated
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.test_corpus_files import CORPUS
from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path


class FirstSlot(FileReader):
    """What lies behind the first MiB of a disk: the image is much larger than what is in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size -= 1 << 20

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``backends.Reader``."""
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("read outside the source", start=start, stop=start + length)
        return os.pread(self._fd, length, start + (1 << 20))


def asserts(name: str) -> dict[str, Any]:
    path = CORPUS / f"{name}.truth.json"
    if not path.exists():
        pytest.skip("the corpus is not here")
    found: dict[str, Any] = json.loads(path.read_text()).get("origin_asserts") or {}
    return found


def test_fact_extractor_finds_its_files() -> None:
    name = "fkie-cad_fact_extractor/xfs.img.xz"
    wanted = asserts(name)["files"]
    reader = MemoryReader(lzma.decompress((CORPUS / name).read_bytes()))
    files = open_files("xfs", reader)
    tree = {path.decode(): entry for path, entry in walk(files).items() if entry.attr.kind == Kind.REG}
    assert len(tree) == len(wanted)
    for path, told in wanted.items():
        entry = tree[path]
        assert entry.attr.size == told["size"]
        assert hashlib.sha256(content(files, reader, 0, entry)).hexdigest() == told["sha256"]


@pytest.mark.slow
def test_discutils_finds_its_files(tmp_path: Path) -> None:
    name = "LTRData_DiscUtils/xfs.vhdx.gz"
    wanted = asserts(name)
    need("qemu-img")
    (tmp_path / "xfs.vhdx").write_bytes(gzip.decompress((CORPUS / name).read_bytes()))
    raw = tmp_path / "xfs.raw"
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", tmp_path / "xfs.vhdx", raw)  # with its holes
    reader = FirstSlot(raw)
    files = open_files("xfs", reader)
    tree = {path.decode(): entry for path, entry in walk(files).items()}
    assert set(tree) >= {*wanted["present"], *wanted["dirs"]}
    assert all(tree[path].attr.kind == Kind.DIR for path in wanted["dirs"])
    for path, digest in wanted["md5"].items():
        data = content(files, reader, 0, tree[path])
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == digest
    reader.close()


def test_blkid_names_what_we_name() -> None:
    name = "util-linux_blkid_fs/xfs.img.xz"
    asserts(name)
    files = open_files("xfs", MemoryReader(lzma.decompress((CORPUS / name).read_bytes())))
    assert (files.info.type, files.info.label) == ("xfs", "test-xfs")
    assert walk(files) == {}
