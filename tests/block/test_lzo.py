"""LZO1X against streams whose meaning the description of the format tells, and against the two of us."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from imgfs.block import lzo
from imgfs.block.codecs import decode
from imgfs.block.lzo import decompress, decompress_slowly
from imgfs.errors import BadUnit
from imgfs.model import Codec
from tests.block.lzolibrary import compressed

END = b"\x11\0\0"
LINES = b"".join(b"%d lines of text, %d\n" % (n % 77, n * n % 1009) for n in range(9000))[:131_072]
SANITIZED = ("-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-static-libasan")
WAYS = ("lzo1x_1", "lzo1x_1_15", "lzo1x_999")


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (END, b""),
        (b"\x15abcd" + END, b"abcd"),  # a first byte of 17 and the number of literals
        (b"\x12a" + END, b"a"),
        (b"\x01abcd" + END, b"abcd"),  # four literals of a long run
        (b"\x00\x01" + b"x" * 19 + END, b"x" * 19),
        (b"\x15abcd" + b"\x4c\x00" + END, b"abcdabc"),  # three bytes from four back
        (b"\x15abcd" + b"\x4d\x00e" + END, b"abcdabce"),  # and a literal
        (b"\x15abcd" + b"\xe0\x00" + END, b"abcd" + b"d" * 8),  # a copy of itself
        (b"\x15abcd" + b"\x21\x0c\x00" + END, b"abcdabc"),
        (b"\x15abcd" + b"\x20\x03\x0c\x00" + END, b"abcd" * 10),
        (b"\x12a\x00\x00" + END, b"aaa"),  # two bytes, behind few literals
    ],
)
def test_streams_decode_to_what_the_description_says(stored: bytes, wanted: bytes) -> None:
    assert decompress(stored, 4096) == decompress_slowly(stored, 4096) == wanted
    assert decompress(stored + b"behind", len(wanted)) == wanted


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x15abcd",
        b"\x15abc",
        b"\x00",
        b"\x00\x00\x00",
        b"\x15abcd\x60",
        b"\x15abcd\x20",
        b"\x15abcd\x60\x01" + END,  # from before the beginning
        b"\x15abcd\x18\0\0" + END,
        b"\x15abcd" + b"\x20\x00\x00\x00\x01\x0c\x00" + END,  # longer than there is room for
    ],
)
def test_what_is_no_stream_is_refused(stored: bytes) -> None:
    with pytest.raises(BadUnit):
        decompress(stored, 200)
    with pytest.raises(ValueError, match=r"."):
        decompress_slowly(stored, 200)


def test_both_ways_agree_on_anything() -> None:
    """Random instructions: the same bytes, or both refuse. What is decoded never exceeds the room."""
    assert lzo._quick is not None, "no compiler: only one way is here"
    rng = random.Random(7)
    good = 0
    for seed in range(20_000):
        stored = b"\x1dabcdefghijkl" + rng.randbytes(rng.randrange(40)) + END * (seed % 2)
        most = rng.randrange(1, 2000)
        try:
            fast: bytes | None = lzo._quick(stored, most)
        except ValueError:
            fast = None
        try:
            slow: bytes | None = decompress_slowly(stored, most)
        except ValueError:
            slow = None
        assert fast == slow, stored
        if fast is not None:
            good += 1
            assert len(fast) <= most
    assert good > 100


def test_without_the_extension_the_same_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lzo, "_quick", None)
    assert decompress(b"\x15abcd" + b"\xe0\x00" + END, 100) == b"abcd" + b"d" * 8
    with pytest.raises(BadUnit):
        decompress(b"\x15abcd", 100)


@pytest.mark.parametrize("way", WAYS)
def test_a_unit_decodes_to_exactly_its_bytes(way: str) -> None:
    """Distances and lengths around copies of 8 and 16 bytes, in rooms without a byte to spare."""
    rng = random.Random(3)
    for distance in range(1, 41):
        part = rng.randbytes(distance)
        data = b"".join(part * rng.randrange(1, 9) + rng.randbytes(rng.randrange(20)) for _ in range(40))
        for length in (len(data), len(data) - 1, len(data) - 17):
            stored = compressed(data[:length], way)
            unit = decode(Codec("lzo"), memoryview(stored + b"behind"), True, length)
            assert bytes(unit) == decompress_slowly(stored, length) == data[:length]
            for wrong in (length - 1, length + 1):
                with pytest.raises(BadUnit):
                    decode(Codec("lzo"), memoryview(stored), True, wrong)


@pytest.mark.slow
def test_no_damaged_stream_makes_it_touch_a_byte_outside(tmp_path: Path) -> None:
    """200,000 damaged streams under the sanitizers of the compiler, in buffers of exactly their sizes."""
    if shutil.which("gcc") is None:
        pytest.skip("not installed: gcc")
    program, source = tmp_path / "lzofuzz", Path(__file__).with_name("lzofuzz.c")
    built = subprocess.run(["gcc", *SANITIZED, "-o", program, source], check=False, capture_output=True)
    if built.returncode:
        pytest.skip("the compiler has no sanitizers")
    seeds = []
    rng = random.Random(5)
    for number, data in enumerate((LINES[:3000], rng.randbytes(200) * 9, bytes(4000), rng.randbytes(700))):
        for way in WAYS:
            seeds.append(tmp_path / f"{number}-{way}")
            seeds[-1].write_bytes(compressed(data, way))
    turns = 200_000 // len(seeds) + 1
    done = subprocess.run([program, "1", str(turns), *seeds], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    good, wrong = map(int, done.stdout.split())
    assert good > 10_000
    assert wrong > 10_000


@pytest.mark.slow
def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    """Every algorithm mksquashfs has, taken out of its images: data blocks lie from byte 96 on."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("not installed: mksquashfs")
    text = LINES
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(text)
    for name in ("lzo1x_1", "lzo1x_1_11", "lzo1x_1_12", "lzo1x_1_15", "lzo1x_999"):
        image = tmp_path / name
        command = ["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress", "-comp", "lzo"]
        subprocess.run([*command, "-Xalgorithm", name], check=True, capture_output=True)
        data = image.read_bytes()
        flags = int.from_bytes(data[24:26], "little")
        at = 96 + (2 + (int.from_bytes(data[96:98], "little") & 0x7FFF) if flags & 0x400 else 0)
        assert decompress(data[at:], len(text)) == decompress_slowly(data[at:], len(text)) == text
