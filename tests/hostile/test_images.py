"""E01 files whose sections lie, and the hostile images collected elsewhere."""

from __future__ import annotations

import gzip
import lzma
import random
import struct
import zlib
from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise
from tests.conftest import shared
from tests.hostile.survive import survive
from tests.recipes import MIB
from tests.sample import acquire

pytestmark = pytest.mark.slow

# TSK gives no content to its $FAT1
REFUSED = {"names_exfat.img.xz": 1}
SECTION = 76  # bytes of a section descriptor: type[16], next, size, padding[40], adler32


@pytest.fixture(scope="module")
def ewf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a sound E01 of one segment."""
    need("ewfacquire")
    folder = tmp_path_factory.mktemp("ewf")
    (folder / "disk.dd").write_bytes(noise(MIB) + bytes(MIB))
    acquire(folder / "disk.dd", folder / "disk", segment="100MiB")
    return (folder / "disk.E01").read_bytes()


def sections(data: bytes) -> dict[bytes, int]:
    """Return where each section starts, by type."""
    found: dict[bytes, int] = {}
    at = 13
    while at + SECTION <= len(data):
        kind = data[at : at + 16].rstrip(b"\0")
        found[kind] = at
        (following,) = struct.unpack_from("<Q", data, at + 16)
        if following <= at:
            break
        at = following
    return found


def with_next(data: bytes, kind: bytes, following: int) -> bytes:
    """Let a section point elsewhere, its checksum right."""
    at = sections(data)[kind]
    changed = bytearray(data)
    struct.pack_into("<Q", changed, at + 16, following)
    struct.pack_into("<I", changed, at + 72, zlib.adler32(changed[at : at + 72]))
    return bytes(changed)


def with_volume(data: bytes, at: int, value: int) -> bytes:
    """Overwrite a number of the volume section, its checksum right."""
    start = sections(data)[b"volume"] + SECTION
    changed = bytearray(data)
    struct.pack_into("<I", changed, start + at, value)
    struct.pack_into("<I", changed, start + 1048, zlib.adler32(changed[start : start + 1048]))
    return bytes(changed)


def test_sections_that_lie_end_in_an_error_or_the_truth(ewf: bytes, tmp_path: Path) -> None:
    where = sections(ewf)
    assert {b"volume", b"sectors", b"table", b"done"} <= where.keys()
    cases = {
        "loop": with_next(ewf, b"table", where.get(b"header2", 13)),
        "self": with_next(ewf, b"volume", where[b"volume"]),
        "back and forth": with_next(ewf, b"sectors", where[b"volume"]),
        "far": with_next(ewf, b"header", (1 << 63) + 5),
        "beyond": with_next(ewf, b"volume", len(ewf) + 100),
        "no chunks": with_volume(ewf, 4, 0),
        "many chunks": with_volume(ewf, 4, 0xFFFF_FFFF),
        "no sectors in a chunk": with_volume(ewf, 8, 0),
        "many sectors in a chunk": with_volume(ewf, 8, 0xFFFF_FFFF),
        "no bytes in a sector": with_volume(ewf, 12, 0),
        "many bytes in a sector": with_volume(ewf, 12, 0xFFFF_FFFF),
        "no size": with_volume(ewf, 16, 0),
        "all size": with_volume(ewf, 16, 0xFFFF_FFFF),
        "cut": ewf[: len(ewf) // 2],
        "head only": ewf[:13],
    }
    images = []
    for number, data in enumerate(cases.values()):
        images.append(tmp_path / f"case{number}.E01")
        images[-1].write_bytes(data)
    seen = survive(*images, at=tmp_path)
    assert len([layer for layer in seen.layers if layer["backend"] == "ewf"]) >= 10


def test_flipped_bytes_of_an_e01_end_in_an_error_or_the_truth(ewf: bytes, tmp_path: Path) -> None:
    places = list(sections(ewf).values())
    images = []
    for seed in range(24):
        chance = random.Random(seed)
        data = bytearray(ewf)
        for _ in range(chance.choice((1, 3, 20))):
            data[min(chance.choice(places) + chance.randrange(400), len(data) - 1)] = chance.choice(
                (0, 255, 1, 128)
            )
        images.append(tmp_path / f"seed{seed}.E01")
        images[-1].write_bytes(data)
    truth = noise(MIB) + bytes(MIB)

    def also(point: Path) -> None:
        for image in images:
            path = point / image.name / "disk.raw"
            if path.stat().st_size != len(truth):
                continue  # not recognised, or of another size: no byte is claimed to be the truth's
            with path.open("rb", buffering=0) as file:
                for at in range(0, len(truth), 32_768):
                    file.seek(at)
                    try:
                        data = file.read(32_768)
                    except OSError:
                        continue
                    assert data == truth[at : at + 32_768], (image.name, at)

    survive(*images, at=tmp_path, also=also)


def hostile() -> list[Path]:
    """Return the hostile images beside the project, smaller ones."""
    folder = shared()
    if folder is None:
        return []
    found = [p for p in sorted((folder / "hostile").glob("*.img.*z")) if p.stat().st_size < MIB]
    return found + sorted((folder / "hostile").glob("*.vmdk"))


@pytest.mark.parametrize("path", hostile() or [None], ids=lambda path: path.name if path else "none")
def test_what_broke_others_is_survived(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        pytest.skip("the hostile images are not beside the project")
    data = path.read_bytes()
    data = (
        lzma.decompress(data)
        if path.suffix == ".xz"
        else gzip.decompress(data)
        if path.suffix == ".gz"
        else data
    )
    image = tmp_path / path.name.removesuffix(path.suffix)
    with image.open("wb") as file:
        for at in range(0, len(data), MIB):
            block = data[at : at + MIB]
            if block.strip(b"\0"):
                file.seek(at)
                file.write(block)
        file.truncate(len(data))
    seen = survive(image, at=tmp_path)
    if path.name.startswith("names_") and any(layer["kind"] == "files" for layer in seen.layers):
        assert seen.entries > 8
        assert seen.refused <= REFUSED.get(path.name, 0)
