"""The instrument itself: what it computes from figures, and that it measures a real mount."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare, report
from tests.backends.tskimages import need

PROJECT = Path(__file__).resolve().parents[1]


def row(
    image: str, system: str, workload: str, *cold: float, warm: tuple[float, ...] = (), more: bool = True
):
    return {
        "image": image,
        "system": system,
        "workload": workload,
        "unit": "MB/s",
        "more_is_better": more,
        "cold": list(cold),
        "warm": list(warm),
    }


def test_bars_are_ratios_of_medians_of_one_run() -> None:
    rows = [
        row("ext4.raw", "imgfs", "sequential", 900, 1000, 100, warm=(4000,)),
        row("ext4.raw", "imgfs, disk.raw", "sequential", 700),
        row("ext4.raw", "fuse2fs", "sequential", 450, 300, 500),
        row("ext4.raw", "plain pread", "sequential", 1000),
        row("ext4.raw", "null, pyfuse3", "sequential", 2000),
        row("ext4.raw", "kernel loop", "sequential", 1200, warm=(5000,)),
    ]
    bars = {(number, what): (value, wanted) for number, what, value, wanted in report.Figures(rows).bars()}
    assert bars["P1", "sequential ext4 / fuse2fs"] == (2.0, ">= 1.3")
    assert bars["P1", "sequential ext4 / kernel loop"][0] == 0.75
    assert bars["P1", "sequential ext4 / lesser of null and pread"][0] == 0.9
    assert bars["P1", "disk.raw of raw / lesser of null and pread"][0] == 0.7
    assert bars["P5", "sequential again / kernel loop"][0] == 0.8
    assert bars["P8", "sequential qcow2 / qemu + loop"][0] is None
    text = report.markdown(
        {"imgfs": "0"}, {"big": 1}, rows, {"ext4.raw, xmount": "not installed"}, report.Figures(rows).bars()
    )
    assert "| P1 | sequential ext4 / fuse2fs | 2 | >= 1.3 | met |" in text
    assert "| P1 | disk.raw of raw / lesser of null and pread | 0.7 | >= 0.8 | missed |" in text
    assert "| ext4.raw | imgfs | 900 | 100 - 1000 | 4000 |" in text
    assert "* ext4.raw, xmount: not installed" in text


@pytest.mark.parametrize(
    ("value", "bar", "met"), [(3, ">= 3", True), (2.9, ">= 3", False), (0.5, "<= 0.5", True)]
)
def test_a_bar_is_met_at_its_figure(value, bar, met) -> None:
    assert report.met(value, bar) is met


def figures(*rows) -> dict:
    return {(r["image"], r["system"], r["workload"]): r for r in rows}


def test_only_what_changed_beyond_the_drift_of_the_others_and_its_own_range_is_a_change() -> None:
    old = figures(
        row("a", "kernel loop", "sequential", 1000, 1100),
        row("a", "imgfs", "sequential", 500, 550),
        row("b", "imgfs", "sequential", 500, 550),
        row("a", "kernel loop", "find", 1.0, more=False),
        row("a", "imgfs", "find", 2.0, 2.2, more=False),
    )
    new = figures(
        row("a", "kernel loop", "sequential", 500, 550),  # the machine is half as fast
        row("a", "imgfs", "sequential", 250, 275),
        row("b", "imgfs", "sequential", 500, 550),
        row("a", "kernel loop", "find", 1.0, more=False),
        row("a", "imgfs", "find", 3.0, 3.2, more=False),
    )
    found = compare.changes(old, new)
    assert [(what, round(ratio, 2), better) for what, ratio, better in found] == [
        ("a, imgfs, find", 1.48, False),
        ("b, imgfs, sequential", 2.0, True),
    ]


@pytest.mark.slow
def test_the_instrument_measures_a_mount_and_writes_what_it_saw(tmp_path) -> None:
    need("mkfs.ext4", "ewfacquire", "qemu-img")
    command = [sys.executable, "-m", "bench.run", "--rounds=1", "--big=4", "--files=200", "--scattered=1"]
    command += [
        "--limit=0.5",
        "--only=^ext4.(raw|E01) (imgfs|plain)",
        "--images",
        tmp_path / "m",
        "--out",
        tmp_path / "r",
    ]
    subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "r/result.json").read_text())
    seen = {(one["image"], one["system"], one["workload"]): one for one in result["rows"]}
    for image in ("ext4.raw", "ext4.E01"):
        for workload in ("sequential", "4 readers", "random 4 KiB, 8 jobs", "find", "tar", "mount"):
            assert all(value > 0 for value in seen[image, "imgfs", workload]["cold"]), (image, workload)
    assert seen["ext4.raw", "imgfs", "daemon without its caches, after find"]["cold"][0] < 100
    assert not result["left_out"]
    assert "| P6 |" in (tmp_path / "r/result.md").read_text()


@pytest.mark.slow
def test_readers_are_measured_beside_tsk_and_the_media(tmp_path) -> None:
    need("mkfs.ext4", "genromfs")
    command = [sys.executable, "-m", "bench.readers", "--rounds=1", "--files=1200", "--big=2"]
    command += ["--only=^(ext4|fat32|tree.romfs)", "--images", tmp_path / "m", "--out", tmp_path / "r"]
    subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "r/readers.json").read_text())
    assert not result["left out"]
    assert set(result["ratios"]) == {"ext4.raw", "fat32.raw", "tree.romfs"}
    for name in result["ratios"]:
        assert set(result["ratios"][name]) == {"find / TSK", "file / disk.raw"}
        assert all(value > 0 for value in result["ratios"][name].values())
