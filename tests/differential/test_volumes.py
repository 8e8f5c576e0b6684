"""Volumes of every table against mmls and sfdisk: where each starts, how long it is, and its bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.tskimages import looped, need, noise, run
from tests.peers import layers, need_backend, watched
from tests.recipes import MIB, sfdisk

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

Span = tuple[int, int]
GPT = "label: gpt\nstart=2048, size=4096, name=one\nstart=8192, size=2048, name=two\nstart=20480, size=8192\n"
GPT_4K = "label: gpt\nstart=256, size=512, name=one\nstart=1024, size=256\nstart=2048, size=1024\n"
MBR = """label: dos
start=2048, size=4096, type=83
start=8192, size=24576, type=5
start=36864, size=2048, type=c
start=10240, size=2048, type=83
start=14336, size=4096, type=7
start=20480, size=1000, type=82
"""
SUN = "label: sun\nstart=0, size=16065\nstart=16065, size=16065\n"


def make_mac(image: Path) -> None:
    """Write an Apple map."""
    need("parted")
    steps = ["mklabel", "mac", "mkpart", "one", "1MiB", "4MiB", "mkpart", "two", "5MiB", "9MiB"]
    run("parted", "-s", image, *steps)


def make_bsd(image: Path) -> None:
    """Write a BSD label."""
    need("parted")
    steps = ["mklabel", "bsd", "mkpart", "ext2", "1MiB", "4MiB", "mkpart", "ext2", "5MiB", "9MiB"]
    run("parted", "-s", image, *steps)


def by_script(script: str, sector: int = 512) -> Callable[[Path], None]:
    """Return a recipe that lets sfdisk write a table."""

    def make(image: Path) -> None:
        need("sfdisk")
        if sector == 512:
            sfdisk(image, script)
            return
        with looped(image, "--sector-size", str(sector)) as device:
            sfdisk(Path(device), script)

    return make


TABLES: dict[str, tuple[str, str, int, Callable[[Path], None]]] = {
    "gpt": ("gpt", "gpt", 512, by_script(GPT)),
    "gpt-4096": ("gpt", "gpt", 4096, by_script(GPT_4K, 4096)),
    "mbr": ("mbr", "dos", 512, by_script(MBR)),
    "apm": ("apm", "mac", 512, make_mac),
    "bsdlabel": ("bsdlabel", "bsd", 512, make_bsd),
    "sunlabel": ("sunlabel", "sun", 512, by_script(SUN)),
}


@pytest.fixture(params=TABLES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, int, Path]:
    """Return (back-end, mmls type, sector, image)."""
    backend, kind, sector, make = TABLES[request.param]
    need_backend(backend)
    image = tmp_path / "disk.dd"
    image.write_bytes(noise(20 * MIB))
    with image.open("r+b") as file:
        for at in (0, 20 * MIB - 64 * 1024):
            file.seek(at)
            file.write(bytes(64 * 1024))
    make(image)
    return backend, kind, sector, image


def by_mmls(image: Path, kind: str, sector: int) -> set[Span]:
    """Return [start, stop) in bytes of what mmls calls a volume."""
    need("mmls")
    rows = re.findall(
        r"^\d+: +(?:\d+:\d+|\d+) +(\d+) +(\d+) +\d+ *(.*)$",
        run("mmls", "-t", kind, "-b", str(sector), "-a", image),
        re.MULTILINE,
    )
    spans = {(int(a) * sector, (int(b) + 1) * sector) for a, b, what in rows if "Extended" not in what}
    size = image.stat().st_size
    return {span for span in spans if span != (0, size)}


def by_parted(image: Path) -> set[Span]:
    """Return [start, stop) in bytes of what parted calls a volume."""
    rows = re.findall(r"^\d+:(\d+)B:(\d+)B:", run("parted", "-sm", image, "unit", "B", "print"), re.MULTILINE)
    return {(int(start), int(last) + 1) for start, last in rows}


def by_sfdisk(image: Path) -> set[Span]:
    """Return [start, stop) in bytes of what sfdisk calls a volume."""
    table = json.loads(run("sfdisk", "-J", image))["partitiontable"]
    return {
        (row["start"] * 512, (row["start"] + row["size"]) * 512)
        for row in table["partitions"]
        if row["type"] not in ("5", "f", "85")
    }


def test_volumes_lie_where_mmls_and_sfdisk_say(disk: tuple[str, str, int, Path], tmp_path: Path) -> None:
    backend, kind, sector, image = disk
    data = image.read_bytes()
    with watched(image, at=tmp_path / "m") as point:
        (table,) = layers(point, kind="table")
        assert table["backend"] == backend
        assert table["sector"] == sector
        volumes = layers(point, kind="volume")
        spans = {(v["start"], v["start"] + v["size"]) for v in volumes}
        assert len(spans) >= 2
        whole = (0, len(data))  # a slot for the whole disk is no volume to mmls
        # parted writes a BSD label where mmls does not look for it
        peer = by_parted(image) if kind == "bsd" else by_mmls(image, kind, sector)
        assert spans - {whole} == peer
        if backend in ("gpt", "mbr") and sector == 512:
            assert spans == by_sfdisk(image)
        for volume in volumes:
            shown = (point / volume["path"] / "volume.raw").read_bytes()
            assert shown == data[volume["start"] : volume["start"] + volume["size"]], volume
        covered = bytearray(len(data))
        for path in point.glob("disk.dd/*/volume.raw"):
            name = path.parent.name
            start = (
                int(name.rpartition("-")[2]) * sector
                if name.startswith("unallocated")
                else next(v["start"] for v in volumes if v["path"].endswith("/" + name))
            )
            shown = path.read_bytes()
            covered[start : start + len(shown)] = shown
        assert bytes(covered) == data
