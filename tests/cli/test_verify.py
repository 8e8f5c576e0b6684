"""``imgfs verify``: what is sound, what is not, and which bytes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zlib
from pathlib import Path

import pytest

from tests.backends import dmgimages as dmg
from tests.mounts import imgfs

pytestmark = pytest.mark.slow


def test_a_sound_image_confirms_every_stored_digest(laptop: Path) -> None:
    data = (laptop / "laptop.dd").read_bytes()
    lines = imgfs("verify", laptop / "laptop.E01").stdout.splitlines()
    assert lines == [
        f"md5  {hashlib.md5(data, usedforsecurity=False).hexdigest()}  as stored",
        f"sha1  {hashlib.sha1(data, usedforsecurity=False).hexdigest()}  as stored",
    ]


def test_without_a_stored_digest_sha256_is_told(laptop: Path) -> None:
    data = (laptop / "laptop.dd").read_bytes()
    said = imgfs("verify", laptop / "laptop.dd").stdout
    assert said == f"sha256  {hashlib.sha256(data).hexdigest()}  no digest is stored\n"


def test_the_checksum_of_an_apple_disk_image_is_compared(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(40_000).ljust(300 * 512, b"\0")
    made = dmg.image([dmg.Part(data, [(100, dmg.ZLIB), (100, dmg.LZFSE), (100, dmg.BZIP2)])])
    image = tmp_path / "disk.dmg"
    image.write_bytes(dmg.whole(made))
    assert imgfs("verify", image).stdout == f"crc32  {zlib.crc32(data):08x}  as stored\n"
    image.write_bytes(dmg.whole(made).replace(data[:64], data[64:128]))
    assert imgfs("verify", image, check=False).returncode == 6


def copied(laptop: Path, folder: Path) -> Path:
    for part in laptop.glob("laptop.E0?"):
        shutil.copyfile(part, folder / part.name)
    return folder / "laptop.E01"


def test_a_flipped_byte_is_found_and_its_range_told(laptop: Path, tmp_path: Path) -> None:
    image = copied(laptop, tmp_path)
    plain = (laptop / "laptop.dd").read_bytes()
    with image.open("r+b") as file:
        at = image.stat().st_size // 2  # amid compressed chunks
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    done = imgfs("verify", image, check=False)
    assert done.returncode == 6
    assert "unreadable [" in done.stdout
    assert "cannot be compared" in done.stdout
    assert done.stderr == f"imgfs: {image} is not what was acquired\n"
    outcome = json.loads(imgfs("verify", "--json", image, check=False).stdout)
    assert not outcome["sound"]
    ((start, stop, _),) = outcome["bad"]
    assert 0 < stop - start <= 65536
    assert 0 <= start < stop <= len(plain)


def test_a_missing_segment_is_named_as_the_reason(laptop: Path, tmp_path: Path) -> None:
    image = copied(laptop, tmp_path)
    (tmp_path / "laptop.E03").unlink()
    done = imgfs("verify", image, check=False)
    assert done.returncode == 6
    assert "segments from 3 on are missing" in done.stdout
    shown = imgfs("info", image).stdout
    assert "incomplete" in shown
    assert "segments from 3 on are missing" in shown


def test_a_terminal_less_verify_shows_no_bar(laptop: Path) -> None:
    assert imgfs("verify", laptop / "laptop.E01").stderr == ""
