"""Files as the overlay filter compresses them: what wimlib writes into an archive is such a stream."""

from __future__ import annotations

import ctypes
import os
import random
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.backends.tskimages import need, noise, run, sparse_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TAG = 0x80000017


class Form(NamedTuple):
    """How chunks are kept: number in a reparse point, bytes a chunk stands for, wimlib's words for it."""

    number: int
    unit: int
    kind: str
    size: str


FORMS = {
    "xpress4k": Form(0, 4096, "XPRESS", "4K"),
    "lzx": Form(1, 32_768, "LZX", "32K"),
    "xpress8k": Form(2, 8192, "XPRESS", "8K"),
    "xpress16k": Form(3, 16_384, "XPRESS", "16K"),
}


def text(size: int, seed: int) -> bytes:
    """Return lines that repeat here and there."""
    rng, out = random.Random(seed), bytearray()
    while len(out) < size:
        out += b"line %d of %s\n" % (rng.randrange(1000), rng.choice((b"alpha", b"beta", b"gamma")))
    return bytes(out[:size])


def calls(size: int) -> bytes:
    """Return calls of x86 everywhere in a chunk: into the file, before it, and out of it."""
    rng, out = random.Random(size), bytearray()
    while len(out) < size:
        target = rng.choice((rng.randrange(-len(out) - 9, 40_000), 11_999_990, -(1 << 30), 0, -1))
        out += b"\xe8" + struct.pack("<i", target) + b"\x90" * rng.randrange(4)
    return bytes(out[:size])


def contents() -> dict[str, bytes]:
    """Return contents of all sorts, with sizes around those of chunks."""
    found = {
        "text": text(300_001, 1),
        "mixed": noise(50_000, 2) + text(90_000, 2) + bytes(70_000) + noise(10, 3),
        "calls": calls(100_000),
        "program": Path("/bin/ls").read_bytes(),
        "zeros": bytes(200_000),
    }
    for size in (300, 4095, 4096, 4097, 8193, 16_384, 32_767, 32_768, 32_769, 65_536):
        found[f"text{size}"] = text(size, size)
    return found


def streams(folder: Path, form: str, wanted: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the compressed streams of contents, those left out that wimlib keeps as they are."""
    need("wimcapture", "wimdir")
    source, archive = folder / f"source-{form}", folder / f"{form}.wim"
    source.mkdir()
    for name, data in wanted.items():
        (source / name).write_bytes(data)
    run("wimcapture", source, archive, f"--compress={FORMS[form].kind}", f"--chunk-size={FORMS[form].size}")
    stored, found = archive.read_bytes(), {}
    for part in run("wimdir", "--detailed", archive).split("-" * 76):
        said = {
            key: int(value)
            for key, value in re.findall(r"^\t?(\S+ size|Offset in WIM)\s*= (\d+)", part, re.MULTILINE)
        }
        name = re.search(r'^Full Path\s*= "/(.+)"', part, re.MULTILINE)
        if name and said["Compressed size"] < said["Uncompressed size"]:
            at = said["Offset in WIM"]
            found[name[1]] = stored[at : at + said["Compressed size"]]
    return found


def chunks(stream: bytes, plain: bytes, unit: int) -> list[tuple[bytes, bytes]]:
    """Return what the chunks of a stream are stored as and stand for, without those stored plainly."""
    count = -(-len(plain) // unit)
    places = [0, *struct.unpack_from(f"<{count - 1}I", stream), len(stream) - 4 * (count - 1)]
    found = []
    for index in range(count):
        stored = stream[4 * (count - 1) :][places[index] : places[index + 1]]
        wanted = plain[index * unit : (index + 1) * unit]
        if len(stored) < len(wanted):
            found.append((stored, wanted))
    return found


def by_wimlib(form: str) -> Callable[[bytes, int], bytes | None]:
    """Return what decompresses a chunk through wimlib, None: it refuses."""
    library = ctypes.CDLL("libwim.so.15")
    made = ctypes.c_void_p()
    unit = ctypes.c_size_t(FORMS[form].unit)
    kind = {"XPRESS": 1, "LZX": 2}[FORMS[form].kind]
    assert library.wimlib_create_decompressor(kind, unit, ctypes.byref(made)) == 0

    def decompress(data: bytes, size: int) -> bytes | None:
        out = ctypes.create_string_buffer(size)
        lengths = ctypes.c_size_t(len(data)), ctypes.c_size_t(size)
        failed = library.wimlib_decompress(data, lengths[0], out, lengths[1], made)
        return None if failed else out.raw

    return decompress


def put(where: Path, size: int, stream: bytes, number: int, *, provider: int = 2) -> None:
    """Make a file as the overlay filter leaves it, on a volume of ntfs-3g."""
    sparse_file(where, size, b"", 0)
    where.with_name(where.name + ":WofCompressedData").write_bytes(stream)
    point = struct.pack("<IHH4I", TAG, 16, 0, 1, provider, 1, number)
    os.setxattr(where, "system.ntfs_reparse_data", point)
