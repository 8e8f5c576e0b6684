"""What ``imgfs info`` shows of layers, as text and as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from imgfs.cli.outline import human, outline
from imgfs.opening.layers import Layer
from tests.mounts import COMMAND, ROOT, imgfs

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def disk(**more: object) -> Layer:
    facts: dict[str, object] = {"path": "d.dd", "title": "raw bytes", "state": "open", "size": 1 << 20}
    return Layer(spec="d.dd", backend="raw", kind="container", **(facts | more))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_outline_of_the_sample_disk(laptop: Path) -> None:
    said = imgfs("info", laptop / "laptop.E01").stdout
    lines = said.splitlines()
    assert re.fullmatch(r"laptop\.E01  .*EWF-E01, 160\.0 MiB", lines[0])
    assert "│   examiner          A. Analyst" in lines
    assert "│   3 files           laptop.E01 ... laptop.E03" in lines
    volumes = [line for line in lines if " MiB at " in line]
    starts = [line.index(" MiB at ") for line in volumes]
    assert len(set(starts)) == 1, "volumes stand in columns"
    assert [line.split()[1] for line in volumes] == ["01-EFI", "02-linux", "03-Windows"]
    assert "EFI System             34.0 MiB at   1.0 MiB (sector 2048)" in volumes[0]
    assert [UUID.search(line) is not None for line in volumes] == [True] * 3
    for name in ("fat32", "ext4", "ntfs"):
        assert sum(f" {name} " in line for line in lines) == 1
    assert "unallocated" not in said
    assert said.count('"') == 0, "labels that are in the names are not said again"
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.slow
def test_json_is_what_layers_json_says(laptop: Path) -> None:
    layers = json.loads(imgfs("info", "--json", laptop / "laptop.dd").stdout)["layers"]
    volumes = {x["path"]: (x["start"], x["size"]) for x in layers if x["kind"] == "volume"}
    mib = 1 << 20
    assert volumes == {
        "laptop.dd/01-EFI": (1 * mib, 34 * mib),
        "laptop.dd/02-linux": (35 * mib, 64 * mib),
        "laptop.dd/03-Windows": (99 * mib, 60 * mib),
    }
    assert {x["type"] for x in layers if x["kind"] == "files"} == {"fat32", "ext4", "ntfs"}
    assert {x["state"] for x in layers} == {"open"}


@pytest.mark.slow
def test_several_images_are_several_trees(laptop: Path) -> None:
    said = imgfs("info", laptop / "laptop.dd", laptop / "laptop.E01").stdout
    assert [x.split()[0] for x in said.splitlines() if x[0] == "l"] == ["laptop.E01", "laptop.dd"]


@pytest.mark.slow
def test_colours_are_for_terminals(laptop: Path) -> None:
    command = [*COMMAND, "info", laptop / "laptop.dd"]
    assert "\x1b" not in imgfs("info", laptop / "laptop.dd").stdout
    ours, theirs = pty.openpty()
    try:
        subprocess.run(command, stdout=theirs, check=True, cwd=ROOT)
        assert b"\x1b[1m01-EFI" in os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_is_not_open_says_why() -> None:
    layers = [
        disk(),
        Layer(
            spec="d.dd|x", backend="x", kind="table", state="unsupported", title="X", needs="X: cannot yet"
        ),
        Layer(spec="d.dd|y", backend="y", kind="table", state="locked", title="Y", needs="a password"),
        Layer(spec="d.dd|z", backend="z", kind="files", state="damaged", title="Z", notes=["inode 2: bad"]),
    ]
    lines = "\n".join(outline(layers))
    assert "X\x1b[0m  \x1b[33munsupported: cannot yet" in lines
    assert "Y\x1b[0m  \x1b[33mlocked: a password" in lines
    assert "\x1b[31mdamaged" in lines
    assert "note  inode 2: bad" in lines


def test_a_loss_is_said_once() -> None:
    lost = disk(
        state="incomplete", lost=[(512, 1024, "segment 2 is missing")], notes=["segment 2 is missing"]
    )
    said = "\n".join(outline([lost]))
    assert said.count("segment 2 is missing") == 1
    assert "bytes [512, 1024)" in said


def test_a_start_that_is_no_whole_sector_is_given_in_bytes() -> None:
    table = Layer(spec="d.dd|t", backend="t", kind="table", state="open", sector=4096)
    rows = [
        Layer(
            spec=f"d.dd|t:{i}",
            backend="t",
            kind="volume",
            state="open",
            path=f"d.dd/0{i}",
            start=at,
            size=512,
        )
        for i, at in enumerate((8192, 8193))
    ]
    said = "\n".join(outline([disk(), table, *rows]))
    assert "(sector 2)" in said
    assert "(byte 8193)" in said


def test_names_out_of_an_image_stay_on_their_line_and_send_nothing() -> None:
    evil = "a\nb\x1b[2J\u202e"
    layers = [
        disk(path=evil, notes=[evil], metadata={evil: evil}, title=evil),
        Layer(spec="d.dd|f", backend="f", kind="files", state="damaged", label=evil, needs=evil, uuid=evil),
    ]
    lines = list(outline(layers))
    assert all("\n" not in line and "\x1b[2J" not in line and "\u202e" not in line for line in lines)
    assert len(lines) == 4


@pytest.mark.parametrize(
    "size,text",
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (35651584, "34.0 MiB"), (1 << 62, "4096.0 PiB")],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert human(size) == text
