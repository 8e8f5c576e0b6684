from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest

from imgfs.errors import NotMine
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, content, open_files, walk
from tests.backends.tskimages import noise

SHARED = Path(os.environ.get("IMGFS_SHARED", Path(__file__).parents[2].parent / "shared"))


def test_corpus_image_shows_the_files_its_origin_names(tmp_path: Path) -> None:
    packed = SHARED / "corpus" / "fkie-cad_fact_extractor" / "yaffs2_le.img.xz"
    if not packed.exists():
        pytest.skip("the corpus is not here")
    image = tmp_path / "yaffs2.img"
    image.write_bytes(lzma.decompress(packed.read_bytes()))
    truth = {b"generic folder": None, b"generic folder/test file 3_.txt": b"The third test file!"}
    check_files("yaffs2", image, truth)
    reader = FileReader(image)
    files = open_files("yaffs2", reader)
    tree = walk(files)
    assert {name for name, entry in tree.items() if content(files, reader, 0, entry)} == {
        b"testfile1",
        b"testfile2",
        b"generic folder/test file 3_.txt",
    }
    reader.close()


@pytest.mark.parametrize("data", [bytes(1 << 18), b"\xff" * (1 << 18), noise(1 << 18), b"text " * 50_000])
def test_other_bytes_are_not_yaffs2(data: bytes) -> None:
    with pytest.raises(NotMine):
        open_files("yaffs2", MemoryReader(data))
