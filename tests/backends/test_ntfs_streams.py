"""Streams of NTFS that hold little of what they promise: a journal with a hole before it, ciphertext."""

from __future__ import annotations

import errno
import os
import struct
import time
from array import array
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.ntfs.record import DATA, ENCRYPTED
from imgfs.errors import NotSupported
from imgfs.model import HOLE, Linear
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import open_files, walk
from tests.backends.tskimages import mounted, need, noise, run
from tests.peers import by_ntfs3g, watched

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.root]

FIRST = 30 << 30  # what a journal of an old volume has let go of
RECORDS = noise(2 << 20, 5)


def volume(folder: Path) -> Path:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    return image


def test_a_journal_is_the_sparse_stream_it_is(tmp_path: Path) -> None:
    image = volume(tmp_path)
    with mounted(["ntfs-3g", "-o", "streams_interface=windows", image], tmp_path / "mnt") as where:
        (where / "$UsnJrnl").touch()
        with (where / "$UsnJrnl:$J").open("wb") as file:
            for at in (FIRST, FIRST + (5 << 20)):
                file.seek(at)
                file.write(RECORDS)
        (where / "$UsnJrnl:$Max").write_bytes(noise(32))
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    entry = walk(files)[b"$UsnJrnl:$J"]
    assert (entry.attr.size, entry.attr.allocated) == (FIRST + (7 << 20), 4 << 20)
    layout = files.layout(0, entry.attr.inum, entry.stream)[-1]
    assert isinstance(layout, Linear)
    runs = zip(array("q", layout.logical), array("q", layout.length), array("q", layout.target), strict=True)
    kept = [(at, length) for at, length, target in runs if target != HOLE]
    assert sum(length for _, length in kept) == 4 << 20
    assert kept[0][0] == FIRST
    reader.close()
    with watched(image, at=tmp_path / "m") as point:
        path = point / "ntfs.img/00-ntfs/root/$UsnJrnl:$J"
        assert path.stat().st_blocks * 512 == 4 << 20
        assert os.getxattr(path, "user.imgfs.runs").startswith(b"0+%d@hole %d+" % (FIRST, FIRST))
        fd = os.open(path, os.O_RDONLY)
        begun = time.process_time()
        assert os.pread(fd, len(RECORDS), FIRST) == RECORDS
        assert os.pread(fd, 1 << 20, FIRST - (1 << 20)) == bytes(1 << 20)
        assert os.pread(fd, len(RECORDS) + 9, FIRST + (5 << 20)) == RECORDS
        assert time.process_time() - begun < 5
        os.close(fd)


def test_ciphertext_is_not_shown_as_content(tmp_path: Path) -> None:
    """The flag Windows sets is set by hand: ntfs-3g takes what it writes itself for encrypted just so."""
    image = volume(tmp_path)
    with mounted(["ntfs-3g", image], tmp_path / "mnt") as where:
        (where / "secret").write_bytes(noise(9000))
    data = bytearray(image.read_bytes())
    files = open_files("ntfs", MemoryReader(bytes(data)))
    number = walk(files)[b"secret"].attr.inum
    base = int.from_bytes(data[48:56], "little") * data[13] * 512 + 1024 * number
    at = base + struct.unpack_from("<H", data, base + 20)[0]
    while (kind := struct.unpack_from("<I", data, at)[0]) != 0xFFFFFFFF:
        if kind == 0x10:
            (bits,) = struct.unpack_from("<I", data, at + 24 + 32)
            struct.pack_into("<I", data, at + 24 + 32, bits | 0x4000)
        elif kind == DATA:
            struct.pack_into("<H", data, at + 12, ENCRYPTED)
        at += struct.unpack_from("<I", data, at + 4)[0]
    image.write_bytes(data)
    with by_ntfs3g(image, tmp_path / "peer", "ro") as peer, pytest.raises(OSError) as refused:
        (peer / "secret").read_bytes()
    assert refused.value.errno == errno.EACCES
    files = open_files("ntfs", MemoryReader(bytes(data)))
    entry = walk(files)[b"secret"]
    assert entry.layout is None
    assert "EFS" in entry.attr.damaged
    assert b"encrypted" in files.xattrs(0, number)[b"user.imgfs.ntfs.attributes"]
    with pytest.raises(NotSupported, match="EFS"):
        files.layout(0, number, 0)
    with watched(image, at=tmp_path / "m") as point:
        path = point / "ntfs.img/00-ntfs/root/secret"
        with pytest.raises(OSError) as refused:
            path.read_bytes()
        assert refused.value.errno == errno.ENOTSUP
        assert b"EFS" in os.getxattr(path, "user.imgfs.damaged")
