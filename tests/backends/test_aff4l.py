"""AFF4-L: files of logical images with their paths, times and hashes, however they are stored."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from pathlib import Path

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._aff4_tree import nanoseconds, split
from imgfs.backends._inflated import Inflated
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Foreign
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends import aff4images as aff4
from tests.backends.aff4images import VOLUME, Volume
from tests.peers import layers, watched

pytestmark = pytest.mark.slow
TYPES = "aff4:FileImage , aff4:Image"
TIMES = {
    "lastWritten": '"2018-09-17T13:42:20.5+10:00"^^xsd:dateTime',
    "lastAccessed": '"2018-10-23T01:08:19Z"^^xsd:dateTime',
    "recordChanged": '"1969-12-31T23:59:59"^^xsd:dateTime',
    "birthTime": '"2018-09-17T13:42:20.123456789Z"^^xsd:dateTime',
}
BLOCKS = "aff4://00000000-0000-4000-8000-00000000000b"


def hexed(name: str, data: bytes) -> str:
    return hashlib.new(name, data).hexdigest()


def digest(data: bytes) -> str:
    return f'"{hexed("md5", data)}"^^aff4:MD5, "{hexed("sha1", data)}"^^aff4:SHA1'


def add(volume: Volume, path: str, data: bytes, kind: str = "segment", **said: str) -> None:
    """Add a file in one of the ways pyaff4 has."""
    escaped = path.replace("\\", "/").replace("%", "%25").replace(" ", "%20").lstrip("./")
    urn = f"{VOLUME}/{escaped}"
    literal = path.replace("\\", "\\\\").replace('"', '\\"')
    said = {"originalFileName": f'"{literal}"^^xsd:string', "hash": digest(data)} | said
    if kind == "stream":
        volume.stream(data, urn=urn, method=aff4.SNAPPY)
        volume.statements[-1] = volume.statements[-1].replace(
            "a aff4:ImageStream", f"a aff4:ImageStream , {TYPES}"
        )
        for name, value in said.items():
            volume.statements[-1] = volume.statements[-1].replace(" .\n", f" ;\n    aff4:{name} {value} .\n")
        return
    if kind == "map":
        chunks = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        names = [
            "aff4:sha512:" + base64.urlsafe_b64encode(hashlib.sha512(c).digest()).decode() for c in chunks
        ]
        held: dict[str, bytes] = dict(zip(names, chunks, strict=True))
        for number, (name, chunk) in enumerate(held.items()):
            volume.say(name, "aff4:Chunk", dataStream=f"<{BLOCKS}[0x{number * 4096:x}:0x{len(chunk):x}]>")
        volume.stream(b"".join(c.ljust(4096, b"\0") for c in held.values()), urn=BLOCKS)
        points = [(n * 4096, len(chunk), 0, n) for n, chunk in enumerate(chunks)]
        volume.map(points, names, len(data), urn=urn, kind=f"aff4:Map , {TYPES}", **said)
        return
    volume.put(urn, data, deflate=kind == "deflated")
    said = {"size": str(len(data)), "stored": f"<{VOLUME}>"} | said
    volume.say(urn, f"{TYPES} , aff4:zip_segment", **said)


def composed(files: dict[str, tuple[bytes, str]], **said: str) -> bytes:
    volume = Volume(version="major=1\nminor=1\ntool=composed\n")
    for path, (data, kind) in files.items():
        add(volume, path, data, kind, **said)
    return volume.bytes()


def data(length: int, seed: int = 3) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.choice((rng.randbytes(4096), bytes(4096))) for _ in range(-(-length // 4096)))[
        :length
    ]


FILES = {
    "./docs/plain.txt": (b"plain", "segment"),
    "/docs/deflated.txt": (b"deflated" * 5000, "deflated"),
    "./docs/empty": (b"", "segment"),
    "C:\\Users\\E V\\stream.bin": (data(100_000), "stream"),
    "./dedup 100%.bin": (data(50_000, seed=5), "map"),
}
SHOWN = {
    b"docs": None,
    b"docs/plain.txt": b"plain",
    b"docs/deflated.txt": b"deflated" * 5000,
    b"docs/empty": b"",
    b"C:/Users/E V/stream.bin": data(100_000),
    b"dedup 100%.bin": data(50_000, seed=5),
}


def test_files_read_as_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "logical.aff4"
    path.write_bytes(composed(FILES, **TIMES))
    tree = check_files("aff4l", path, SHOWN)
    attr = tree[b"docs/plain.txt"].attr
    assert attr.m_ns == 1537155740_500000000
    assert attr.a_ns == 1540256899_000000000
    assert attr.c_ns == -1_000000000
    assert attr.b_ns == 1537191740_123456789
    files = open_files("aff4l", FileReader(path))
    xattrs = files.xattrs(0, attr.inum)
    assert xattrs[b"user.imgfs.hash.md5"] == hexed("md5", b"plain").encode()
    assert xattrs[b"user.imgfs.hash.sha1"] == hexed("sha1", b"plain").encode()
    assert xattrs[b"user.imgfs.aff4.originalfilename"] == b"./docs/plain.txt"
    with pytest.raises(NotMine):
        discover()["aff4"].open(FileReader(path), Options())


def test_damage_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "logical.aff4"
    path.write_bytes(composed(FILES, **TIMES))
    assert "walked" in check_hostile("aff4l", path, tmp_path, seeds=200)


def test_a_mount_shows_the_files(tmp_path: Path) -> None:
    path = tmp_path / "logical.aff4"
    path.write_bytes(composed(FILES, **TIMES))
    with watched(path, at=tmp_path / "m") as point:
        (layer,) = layers(point, backend="aff4l")
        assert layer["type"] == "AFF4-L"
        (root,) = (point / path.name).glob("*/root")
        for name, wanted in SHOWN.items():
            if wanted is not None:
                assert (root / os.fsdecode(name)).read_bytes() == wanted
        plain = root / "docs/plain.txt"
        assert plain.stat().st_mtime_ns == 1537155740_500000000
        assert os.getxattr(plain, "user.imgfs.hash.md5") == hexed("md5", b"plain").encode()
        assert (point / path.name / "disk.raw").read_bytes() == path.read_bytes()


def test_paths_of_an_adversary_stay_below_the_root(tmp_path: Path) -> None:
    hostile = [
        "../../etc/passwd",
        "/../x",
        "a/./b//c",
        "..",
        "a\\..\\b",
        "\\\\server\\share\\f",
        "x/" * 50 + "y",
    ]
    image = composed(dict.fromkeys(hostile, (b"h", "segment")))
    path = tmp_path / "hostile.aff4"
    path.write_bytes(image)
    tree = walk(open_files("aff4l", FileReader(path)))
    assert b"%2E%2E/%2E%2E/etc/passwd" in tree
    assert b"a/b/c" in tree
    assert b"a/%2E%2E/b" in tree
    assert b"server/share/f" in tree
    with watched(path, at=tmp_path / "m") as point:
        found = [name for _, _, names in os.walk(point / path.name) for name in names]
        assert found.count("passwd") == 1


def test_what_is_missing_or_differs_is_said() -> None:
    volume = Volume()
    add(volume, "./gone", b"x" * 10)
    add(volume, "./other", b"x" * 10, size="11")
    add(volume, "./there", b"x" * 10)
    del volume.segments["gone"]
    reader = MemoryReader(volume.bytes())
    files = open_files("aff4l", reader)
    tree = walk(files)
    assert tree[b"gone"].attr.damaged
    assert "10" in tree[b"other"].attr.damaged
    assert content(files, reader, 0, tree[b"there"]) == b"x" * 10
    with pytest.raises(Malformed):
        files.layout(0, tree[b"gone"].attr.inum, 0)


def test_long_deflated_files_are_inflated_in_pieces(tmp_path: Path) -> None:
    wanted = data(40 << 20)
    path = tmp_path / "long.aff4"
    path.write_bytes(composed({"./long": (wanted, "deflated")}))
    reader = FileReader(path)
    files = open_files("aff4l", reader)
    entry = walk(files)[b"long"]
    (layout,) = files.layout(0, entry.attr.inum, 0)
    assert isinstance(layout, Foreign)
    assert content(files, reader, 0, entry) == wanted
    for at in (39 << 20, 17 << 20, 5, (16 << 20) - 3):
        assert files.read(0, entry.attr.inum, 0, at, 4096) == wanted[at : at + 4096]
    with watched(path, at=tmp_path / "m") as point:
        (shown,) = (point / path.name).glob("*/root/long")
        assert shown.read_bytes() == wanted


def test_a_deflated_stream_that_ends_early_is_an_error() -> None:
    packed = aff4.PACK[aff4.DEFLATE](bytes(1 << 20))
    with pytest.raises(EvidenceError):
        Inflated(MemoryReader(packed), 0, len(packed), 2 << 20).read(1 << 20, 10)
    with pytest.raises(EvidenceError):
        Inflated(MemoryReader(packed), 0, len(packed) // 2, 1 << 20).read(0, 1 << 20)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00-0100", 0),
        ("1970-01-01T00:00:00.28Z", 280_000_000),
        ("1970-01-01", None),
        ("1970-13-01T00:00:00Z", None),
        ("2262-04-12T00:00:00Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times(text, wanted) -> None:
    assert nanoseconds(text) == wanted


def test_components() -> None:
    assert split("C:\\a/b") == [b"C:", b"a", b"b"]
    assert split("/a\\b") == [b"a\\b"]
    assert split("") == []
