"""Files compressed by the Windows Overlay Filter: streams written by wimlib, on volumes of ntfs-3g."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import _lzx, _xpress
from imgfs.errors import BadUnit, ImgfsError, Malformed, NotSupported
from imgfs.model import Foreign, Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, content, open_files, walk
from tests.backends.tskimages import mounted, need, noise, run
from tests.backends.wofimages import FORMS, by_wimlib, calls, chunks, contents, put, streams, text

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

DECODERS = {"XPRESS": (_xpress.decompress, _xpress.decoded), "LZX": (_lzx.decompress, _lzx.decoded)}


@pytest.mark.parametrize("form", FORMS)
def test_chunks_are_what_wimlib_compressed(tmp_path: Path, form: str) -> None:
    wanted = contents()
    (decompress, decoded), seen = DECODERS[FORMS[form].kind], 0
    for name, stream in streams(tmp_path, form, wanted).items():
        for stored, plain in chunks(stream, wanted[name], FORMS[form].unit):
            assert decompress(stored, len(plain)) == decoded(stored, len(plain)) == plain, name
            seen += 1
    assert seen > 25


@pytest.mark.parametrize("form", FORMS)
def test_damaged_chunks_are_refused_or_read_as_wimlib_reads_them(tmp_path: Path, form: str) -> None:
    """Bits after the end are never made up, so some are refused here that wimlib takes."""
    wanted = {
        "text": text(70_000, 1),
        "calls": calls(40_000),
        "mixed": noise(9000) + bytes(9000) + text(9000, 3),
    }
    found = streams(tmp_path, form, wanted)
    every = [pair for name in found for pair in chunks(found[name], wanted[name], FORMS[form].unit)]
    (decompress, decoded), theirs = DECODERS[FORMS[form].kind], by_wimlib(form)
    rng, refused = random.Random(form), 0
    for _ in range(200):
        stored, plain = rng.choice(every)
        bad = bytearray(stored)
        for _ in range(rng.choice((1, 1, 2, 8))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del bad[rng.randrange(1, len(bad)) :]
        try:
            read = decompress(bytes(bad), len(plain))
        except BadUnit:
            refused += 1
        else:
            assert read == decoded(bytes(bad), len(plain)) == theirs(bytes(bad), len(plain))
    assert 10 < refused < 190


def test_decoders_bound_what_they_are_given() -> None:
    for decompress in (way for ways in DECODERS.values() for way in ways):
        for size in (-1, 1 << 20):
            with pytest.raises(BadUnit):
                decompress(b"\xff" * 400, size)
        for data in (b"", b"\0" * 400, b"\xff" * 400):
            with pytest.raises(BadUnit):
                decompress(data, 4096)


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes | None]]:
    """Return a volume with files in all forms, small ones resident, some of them deleted."""
    need("mkfs.ntfs", "ntfs-3g")
    folder = tmp_path_factory.mktemp("overlaid")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows", image]
    wanted, truth = contents(), dict[bytes, bytes | None]()
    with mounted(command, folder / "one") as where:
        for form in FORMS:
            (where / form).mkdir()
            truth[form.encode()] = None
            for name, stream in streams(folder, form, wanted).items():
                put(where / form / name, len(wanted[name]), stream, FORMS[form].number)
                truth[f"{form}/{name}".encode()] = wanted[name]
                truth[f"{form}/{name}:WofCompressedData".encode()] = stream
                if name == "mixed":
                    put(where / form / "gone", len(wanted[name]), stream, FORMS[form].number)
        put(where / "archived", 5000, b"", 0, provider=1)
        put(where / "unknown", 5000, b"any", 9)
        put(where / "short", 50_000, b"short", 0)
    with mounted(command, folder / "two") as where:
        for form in FORMS:
            (where / form / "gone").unlink()
    return image, truth


@pytest.mark.root
def test_overlaid_files_read_as_what_was_compressed(
    overlaid: tuple[Path, dict[bytes, bytes | None]],
) -> None:
    image, truth = overlaid
    tree = check_files("ntfs", image, truth)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    for path in (b"lzx/text", b"xpress4k/mixed", b"xpress8k/program", b"xpress16k/text65536"):
        entry, stream = tree[path], tree[path + b":WofCompressedData"]
        assert (entry.attr.kind, entry.attr.damaged) == (Kind.REG, "")
        assert entry.attr.allocated == stream.attr.allocated
        layout = files.layout(0, entry.attr.inum, 0)[-1]
        assert isinstance(layout, Foreign)
        assert layout.why.lower() == path.split(b"/")[0].decode()
        wanted = truth[path] or b""
        for at, length in ((0, 1), (4095, 2), (30_000, 20_000), (len(wanted) - 1, 1)):
            assert files.read(0, entry.attr.inum, 0, at, length) == wanted[at : at + length]
    assert tree[b"lzx/text300:WofCompressedData"].layout is not None  # in its record
    reader.close()


@pytest.mark.root
def test_what_is_not_in_the_volume_or_in_no_known_form_is_said(
    overlaid: tuple[Path, dict[bytes, bytes | None]],
) -> None:
    reader = FileReader(overlaid[0])
    files = open_files("ntfs", reader)
    tree = walk(files)
    for name, said in ((b"archived", "WIM archive"), (b"unknown", "format 9")):
        assert said in tree[name].attr.damaged
        with pytest.raises(NotSupported, match=said):
            files.layout(0, tree[name].attr.inum, 0)
    with pytest.raises(Malformed, match="5 bytes of chunks"):
        content(files, reader, 0, tree[b"short"])
    reader.close()


@pytest.mark.root
def test_deleted_overlaid_files_read_too(overlaid: tuple[Path, dict[bytes, bytes | None]]) -> None:
    image, truth = overlaid
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = walk(files, 1)
    for form in FORMS:
        entry = tree[form.encode() + b"/gone"]
        assert entry.attr.deleted
        assert content(files, reader, 1, entry) == truth[form.encode() + b"/mixed"]
    reader.close()


@pytest.mark.root
def test_damage_to_overlaid_files_stays_inside_the_contract(
    overlaid: tuple[Path, dict[bytes, bytes | None]],
) -> None:
    """Bits of records, tables and chunks: an error, or as many bytes as the file has; others stay right."""
    image, truth = overlaid
    data = image.read_bytes()
    files = open_files("ntfs", MemoryReader(data))
    tree = walk(files)
    paths = [path for path in tree if path + b":WofCompressedData" in tree and tree[path].attr.size <= 70_000]
    rng, errors = random.Random(7), 0
    base = int.from_bytes(data[48:56], "little") * data[13] * 512
    for _ in range(200):
        path = rng.choice(paths)
        number = tree[path].attr.inum
        stream = truth.get(path + b":WofCompressedData") or b"short"
        at = data.find(stream[:64]) if rng.random() < 0.5 else base + 1024 * number + 48
        bad = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            bad[at + rng.randrange(min(400, max(len(stream), 8)))] ^= 1 << rng.randrange(8)
        reader = MemoryReader(bytes(bad))
        again = open_files("ntfs", reader)
        try:
            attr = again.stat(0, number, 0)
            if attr.kind == Kind.REG and attr.size < 1 << 22:
                entry = tree[path].__class__(b"", attr)
                assert len(content(again, reader, 0, entry)) == attr.size
        except (ImgfsError, OSError):
            errors += 1
        again.xattrs(0, number)
    assert errors > 20
