"""Extended attributes and compressed files of HFS+, against what was planted and what TSK reads of it."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.backends import _lzvn
from imgfs.backends._decmpfs import Compressed
from imgfs.errors import EvidenceError, NotSupported
from imgfs.model import Foreign, Inline
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.dmgimages import lzfse
from tests.backends.hfsimages import UNIT, Planted, build, decmpfs, lzvn_resource, zlib_resource
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from pathlib import Path

CMPF = "com.apple.decmpfs"
LINES = b"".join(b"line %d of %d\n" % (n, n * n) for n in range(9000))
EOS = b"\x06" + bytes(7)


def packed(kind: int, data: bytes, behind: bytes = b"", resource: bytes = b"", **more: Any) -> Planted:
    """Return a compressed file; ``more`` may hold further attributes."""
    attributes = {CMPF: decmpfs(kind, len(data), behind), **more}
    return Planted(name="", resource=resource, attributes=attributes, compressed=True)


def named(files: dict[str, Planted]) -> list[Planted]:
    for name, file in files.items():
        file.name = name
    return list(files.values())


def literals(data: bytes) -> bytes:
    """Return LZVN that has every byte as it is."""
    parts = [data[at : at + 271] for at in range(0, len(data), 271)]
    return (
        b"".join((bytes([0xE0, len(p) - 16]) if len(p) > 15 else bytes([0xE0 | len(p)])) + p for p in parts)
        + EOS
    )


def scribble(seed: int) -> tuple[bytes, int]:
    """Return an LZVN stream that takes every way an opcode can, and the bytes it decodes to."""
    rng = random.Random(seed)
    out, size, distance = bytearray(b"\xe7imgfs!!"), 7, 0
    wanted = rng.randrange(2000, 40_000)
    while size < wanted:
        some, three = rng.randrange(4), rng.randbytes(3)
        match = 3 + rng.randrange(8 - 2 * some)  # above, the codes mean something else, or nothing
        limit = size + some
        way = rng.randrange(9)
        if way == 0:
            distance = rng.randrange(1, min(limit, 0x5FF) + 1)
            code = some << 6 | (match - 3) << 3 | distance >> 8
            out += bytes([code, distance & 255]) + three[:some]
        elif way == 1:
            distance, match = rng.randrange(1, min(limit, 0x3FFF) + 1), rng.randrange(3, 35)
            long = match - 3
            low = distance << 2 | long & 3
            out += bytes([0xA0 | some << 3 | long >> 2, low & 255, low >> 8]) + three[:some]
        elif way == 2:
            distance = rng.randrange(1, min(limit, 0xFFFF) + 1)
            out += bytes([some << 6 | (match - 3) << 3 | 7]) + struct.pack("<H", distance) + three[:some]
        elif way == 3 and distance and some:
            out += bytes([some << 6 | (match - 3) << 3 | 6]) + three[:some]
        elif way == 4 and distance:
            some, match = 0, rng.randrange(1, 16)
            out.append(0xF0 | match)
        elif way == 5 and distance:
            some, match = 0, rng.randrange(16, 272)
            out += bytes([0xF0, match - 16])
        elif way == 6:
            match, some = 0, rng.randrange(1, 16)
            out += bytes([0xE0 | some]) + rng.randbytes(some)
        elif way == 7:
            match, some = 0, rng.randrange(16, 272)
            out += bytes([0xE0, some - 16]) + rng.randbytes(some)
        elif way == 8:
            match = some = 0
            out.append(rng.choice([0x0E, 0x16]))
        else:
            continue
        size += some + match
    return bytes(out) + EOS, size


def planted() -> list[Planted]:
    odd = noise(UNIT, 5) + LINES[:UNIT] + b"the end"
    files = {
        "plain.txt": Planted(name="", data=b"hi\n", attributes={"user.one": b"1", "üñí": b"zwei"}),
        "zlib.txt": packed(3, LINES[:3000], zlib.compress(LINES[:3000])),
        "zlibraw.txt": packed(3, b"hello", b"\xffhello"),
        "zlibfork.txt": packed(4, LINES, resource=zlib_resource(LINES), tag=b"x"),
        "zlibodd.bin": packed(4, odd, resource=zlib_resource(odd)),
        "lzvn.txt": packed(7, LINES[:1000], literals(LINES[:1000])),
        "lzvnraw.txt": packed(7, b"hello", b"\x06hello"),
        "lzvnfork.bin": packed(
            8,
            LINES[: UNIT + 900],
            resource=lzvn_resource([b"\x06" + LINES[:UNIT], literals(LINES[UNIT:][:900])]),
        ),
        "nothing.txt": packed(4, b""),
        "unmarked.txt": Planted(name="", data=b"abc", compressed=True),
    }
    for seed in range(24):
        stream, size = scribble(seed)
        files[f"scribble{seed}"] = packed(8, bytes(size), resource=lzvn_resource([stream]))
    for number in range(150):  # several leaves of attributes
        files[f"many{number}"] = Planted(name="", attributes={f"user.{k}": noise(300, k) for k in range(3)})
    return named(files)


@pytest.mark.slow
def test_files_in_lzfse_come_back(tmp_path: Path) -> None:
    """TSK and 7z do not decode them; the encoder is judged by 7z in disk images."""
    units = [LINES[at : at + UNIT] for at in range(0, len(LINES), UNIT)]
    files = {
        "fork.txt": packed(12, LINES, resource=lzvn_resource([lzfse(unit) for unit in units])),
        "here.txt": packed(11, LINES[:3000], lzfse(LINES[:3000])),
    }
    image = tmp_path / "image.hfs"
    image.write_bytes(build(named(files)))
    shown = check_files("hfs", image, {b"fork.txt": LINES, b"here.txt": LINES[:3000]})
    assert all(not entry.attr.damaged for entry in shown.values())


def tsk(image: Path, number: int) -> bytes:
    return subprocess.run(["icat", image, str(number)], capture_output=True, check=True).stdout


@pytest.mark.slow
def test_compressed_files_are_what_tsk_reads(tmp_path: Path) -> None:
    need("icat")
    files = planted()
    (tmp_path / "hfs").write_bytes(build(files))
    truth: dict[bytes, bytes | None] = {}
    for number, file in enumerate(files, 16):
        # TSK wants a resource fork even for no bytes
        known = file.data if file.name in {"nothing.txt", "unmarked.txt"} else tsk(tmp_path / "hfs", number)
        truth[file.name.encode()] = known
    assert truth[b"zlibfork.txt"] == LINES
    assert truth[b"scribble3"]
    shown = check_files("hfs", tmp_path / "hfs", truth)
    assert all(not entry.attr.damaged for entry in shown.values())


@pytest.mark.slow
def test_attributes_are_those_of_tsk_and_of_the_streams(tmp_path: Path) -> None:
    need("istat")
    files = planted()
    (tmp_path / "hfs").write_bytes(build(files))
    reader = FileReader(tmp_path / "hfs")
    hfs = open_files("hfs", reader)
    shown = walk(hfs)
    for number, file in enumerate(files, 16):
        values = {name.encode(): value for name, value in file.attributes.items()}
        found = hfs.xattrs(0, number)
        assert found.pop(b"user.imgfs.flags", b"") == (b"compressed" if file.compressed else b"")
        assert found == values
        listed = re.findall(
            r"ExATTR.*Name: (.*?) +Resident +size: (\d+)", run("istat", tmp_path / "hfs", number)
        )
        ours = {(name.decode(), str(len(value))) for name, value in values.items() if name != CMPF.encode()}
        assert set(listed) == ours
        for name, value in values.items():
            assert content(hfs, reader, 0, shown[file.name.encode() + b":" + name]) == value
    reader.close()


def one(file: Planted, *, damage: tuple[bytes, bytes] | None = None) -> tuple[Any, MemoryReader]:
    file.name = file.name or "file"
    data = build([file])
    if damage is not None:
        assert damage[0] in data
        data = data.replace(*damage)
    reader = MemoryReader(data)
    return open_files("hfs", reader), reader


def test_attributes_in_extents_are_read_over_all_their_records() -> None:
    value = noise(4096 * 19 + 5, 7)
    hfs, reader = one(
        Planted(name="file", forks={"big": value, "small": value[:5000]}, attributes={"a": b"b"})
    )
    shown = walk(hfs)
    assert content(hfs, reader, 0, shown[b"file:big"]) == value
    assert content(hfs, reader, 0, shown[b"file:small"]) == value[:5000]
    assert hfs.xattrs(0, 16) == {b"a": b"b", b"small": value[:5000]}  # the kernel takes 64 KiB


@pytest.mark.parametrize(
    ("kind", "behind", "resource"),
    [
        (1, b"12345", b""),
        (9, b"\xcc12345", b""),
        (9, b"12345", b""),
        (10, b"", lzvn_resource([b"\xff12345"])),
        (10, b"", lzvn_resource([b"12345"])),
    ],
)
def test_what_is_stored_plainly_is_read(kind: int, behind: bytes, resource: bytes) -> None:
    hfs, reader = one(packed(kind, b"12345", behind, resource))
    entry = walk(hfs)[b"file"]
    assert not entry.attr.damaged
    assert content(hfs, reader, 0, entry) == b"12345"


@pytest.mark.parametrize("kind", [5, 13, 14, 77])
def test_what_is_not_decoded_is_refused_and_said(kind: int) -> None:
    hfs, _ = one(packed(kind, b"12345", b"\xcc12345", lzvn_resource([b"\xff12345"])))
    entry = walk(hfs)[b"file"]
    assert entry.attr.size == 5
    assert f"type {kind}" in entry.attr.damaged
    for call in (lambda: hfs.layout(0, 16, 0), lambda: hfs.read(0, 16, 0, 0, 5)):
        with pytest.raises(NotSupported):
            call()


WRONG = {
    "no units": packed(4, LINES, resource=b""),
    "more than is said": packed(1, b"12345", b"123456"),
    "too few units": packed(4, LINES, resource=zlib_resource(LINES[:UNIT])),
    "too few bytes": packed(4, LINES[:900], resource=zlib_resource(LINES[:899])),
    "too many bytes": packed(4, LINES[:900], resource=zlib_resource(LINES[:901])),
    "cut": packed(3, LINES[:900], zlib.compress(LINES[:900])[:-9]),
    "wrong sum": packed(3, LINES[:900], zlib.compress(LINES[:900])[:-4] + b"abcd"),
    "no zlib": packed(3, LINES[:900], b"\x00" * 99),
    "empty": packed(3, LINES[:900]),
    "stored short": packed(3, LINES[:900], b"\xff" + LINES[:899]),
    "match before the start": packed(7, b"abcde", b"\xe2ab\x00\x03" + EOS),
    "match of no distance": packed(7, b"abcde", b"\xe2ab\xf3" + EOS),
    "undefined opcode": packed(7, b"ab", b"\xe2ab\x1e" + EOS),
    "literals that end": packed(7, b"abcde", b"\xe5ab"),
    "endless": packed(7, b"abcde", b"\xe5abcde\x00\x05" + EOS),
    "no LZFSE": packed(11, b"abcde", b"bvx3abcde"),
    "LZFSE without its end": packed(11, LINES[:900], lzfse(LINES[:900])[:-1]),
    "LZFSE of more": packed(12, LINES[:900], resource=lzvn_resource([lzfse(LINES[:901])])),
    "too large": packed(7, b"", literals(b"abc")),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_decode_is_an_error(what: str) -> None:
    file = WRONG[what]
    if what == "too large":
        file.attributes[CMPF] = decmpfs(7, 1 << 40, literals(b"abc"))
    hfs, _ = one(file)
    walk(hfs)
    with pytest.raises(EvidenceError):
        hfs.read(0, 16, 0, 0, 1)


def test_a_compressed_file_without_its_attribute_is_no_empty_file() -> None:
    hfs, _ = one(packed(3, b"hello", b"\xffhello"), damage=(b"fpmc", b"nope"))
    assert walk(hfs)[b"file"].attr.damaged
    with pytest.raises(EvidenceError):
        hfs.layout(0, 16, 0)


def test_a_record_of_no_known_type_costs_only_itself() -> None:
    file = Planted(name="file", attributes={"a": b"1", "b": b"unlucky", "c": b"3"})
    record = struct.pack(">4I", 0x10, 0, 0, 7) + b"unlucky"
    hfs, _ = one(file, damage=(record, b"\0\0\0\x99" + record[4:]))
    assert hfs.xattrs(0, 16) == {b"a": b"1", b"c": b"3"}
    assert "0x99" in walk(hfs)[b"file"].attr.damaged


def test_parts_of_units_are_those_of_the_whole() -> None:
    hfs, _ = one(packed(4, LINES, resource=zlib_resource(LINES)))
    (layout,) = hfs.layout(0, 16, 0)
    assert layout == Foreign(size=len(LINES), why="decmpfs")
    rng = random.Random(9)
    for _ in range(50):
        start = rng.randrange(len(LINES))
        length = min(rng.randrange(1, 2 * UNIT), len(LINES) - start)
        assert hfs.read(0, 16, 0, start, length) == LINES[start : start + length]
    with pytest.raises(EvidenceError):
        hfs.read(0, 16, 0, len(LINES) - 1, 2)
    assert one(packed(4, b""))[0].layout(0, 16, 0) == (Inline(b""),)


def test_a_stream_without_the_mark_of_its_end_is_taken_when_it_is_whole() -> None:
    assert _lzvn.decompress(b"\xe5abcde", 5) == b"abcde"
    with pytest.raises(EvidenceError):
        _lzvn.decompress(b"\xe5abcde", 6)
    with pytest.raises(EvidenceError):
        Compressed(b"fpmc")


@pytest.mark.slow
def test_flags_and_what_the_finder_keeps_are_those_of_istat(tmp_path: Path) -> None:
    need("istat")
    image, finder = tmp_path / "hfs", b"TEXTttxt" + bytes(range(24))
    bits = [*range(4), 16, 17]
    flags = [1 << bit for bit in bits] + [0, 0x30001, 0x800000]
    image.write_bytes(
        build([Planted(name=f"flag {flag:x}", data=b"x", flags=flag, finder=finder) for flag in flags])
    )
    reader = FileReader(image)
    files = open_files("hfs", reader)
    apart = {"system-immutable": "immutable", "system-append": "append-only", "append": "append-only"}
    apart["nodump"] = "no-dump"
    for number, flag in enumerate(flags, 16):
        found = files.xattrs(0, number)
        said = run("istat", image, number)
        told = []
        for who in ("Admin", "Owner"):
            value, _, words = re.search(rf"{who} flags: (\d+)( - (.*))?\n", said).groups()  # type: ignore[union-attr]
            assert int(value) == (flag >> 16 if who == "Admin" else flag & 0xFF)
            told += (words or "").split()
        shown = found.get(b"user.imgfs.flags", b"").decode().split()
        if flag < 1 << 18:  # it has names for these
            assert sorted(apart.get(word, word) for word in shown) == sorted(told), (flag, shown, said)
        assert found[b"com.apple.FinderInfo"] == finder
        assert re.search("File type:.*TEXT", said)
        assert re.search("File creator:.*ttxt", said)
    assert files.xattrs(0, 16 + len(flags) - 1)[b"user.imgfs.flags"] == b"firmlink"
    reader.close()


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    image = tmp_path / "hfs"
    image.write_bytes(build(planted()[:14]))
    check_hostile("hfs", image, tmp_path, seeds=200)
