"""ZIP archives read as other tools wrote them; sizes that lie cost nothing."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from imgfs.backends._aff4_zip import Archive
from imgfs.errors import EvidenceError, Malformed
from imgfs.testing.fakes import MemoryReader
from tests.backends.aff4images import _Pipe

LIMIT = 1 << 20


def files() -> dict[str, bytes]:
    rng = random.Random(9)
    made = {f"folder/{n:04d} \u00e9": rng.randbytes(n) + bytes(n) for n in range(0, 3000, 37)}
    return made | {"PK": b"PK\x03\x04PK\x07\x08PK\x01\x02PK\x05\x06" * 50, "empty": b""}


def archive(*, piped: bool = False, wide: bool = False, method: int = zipfile.ZIP_STORED) -> bytes:
    pipe, buffer = _Pipe(), io.BytesIO()
    with zipfile.ZipFile(pipe if piped else buffer, "w", method) as made:  # type: ignore[call-overload]
        for name, data in files().items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with made.open(info, "w", force_zip64=wide) as segment:
                segment.write(data)
        made.comment = b"PK\x05\x06 a comment"
    return bytes(pipe.data) if piped else buffer.getvalue()


def contents(image: bytes) -> dict[str, bytes]:
    found = Archive(MemoryReader(image))
    return {name: found.read(segment, LIMIT) for name, segment in found.segments.items()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_archives_of_every_form(piped, wide, method) -> None:
    image = archive(piped=piped, wide=wide, method=method)
    assert contents(image) == files()
    cut = image[: image.rindex(b"PK\x01\x02")]  # one header of the directory is missing, and its end
    assert contents(cut) == files()


@pytest.mark.skipif(not shutil.which("7z"), reason="no 7z")
@pytest.mark.parametrize("option", ["-mm=Copy", "-mm=Deflate"])
def test_archives_of_7zip(option, tmp_path: Path) -> None:
    for name, data in files().items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    subprocess.run(
        ["7z", "a", "-tzip", option, "../out.zip", "."], cwd=tmp_path / "in", check=True, capture_output=True
    )
    found = {k: v for k, v in contents((tmp_path / "out.zip").read_bytes()).items() if not k.endswith("/")}
    assert found == files()


def test_a_second_file_of_one_name_is_the_one() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("name", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("name", b"second")
    assert contents(buffer.getvalue()) == {"name": b"second"}


def test_bombs_and_lies_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb", bytes(64 << 20))
    image = buffer.getvalue()
    found = Archive(MemoryReader(image))
    with pytest.raises(Malformed, match="67108864 bytes"):
        found.read(found.segments["bomb"], LIMIT)
    lying = found.segments["bomb"]._replace(size=1000)
    with pytest.raises(Malformed, match="another size"):
        found.read(lying, LIMIT)
    with pytest.raises(Malformed, match="checksum"):
        found.read(found.segments["bomb"]._replace(crc=1), 64 << 20)
    secret = found.segments["bomb"]._replace(flags=1)
    with pytest.raises(Malformed, match="encrypted"):
        found.read(secret, 64 << 20)
    with pytest.raises(EvidenceError):
        found.read(found.segments["bomb"]._replace(header=len(image) - 10), 64 << 20)


def test_an_end_record_cannot_ask_for_much() -> None:
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 0xFFFFFFFE, 0, 0)
    with pytest.raises(EvidenceError):
        Archive(MemoryReader(bytes(30) + end))
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 62, 1 << 62, 1 << 62, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 1)
    with pytest.raises(EvidenceError):
        Archive(MemoryReader(end64 + locator + end))


@pytest.mark.slow
def test_damage_gives_the_stored_bytes_or_an_error() -> None:
    wanted = files()
    image = archive(method=zipfile.ZIP_DEFLATED)
    for seed in range(300):
        rng = random.Random(seed)
        damaged = bytearray(image)
        for _ in range(1 << rng.randrange(6)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = Archive(
                MemoryReader(bytes(damaged[: rng.randrange(len(damaged))] if seed % 5 == 0 else damaged))
            )
        except EvidenceError:
            continue
        for name, segment in found.segments.items():
            try:
                data = found.read(segment, LIMIT)
            except EvidenceError:
                continue
            if name in wanted and segment.crc == zlib.crc32(wanted[name]):
                assert data == wanted[name]
