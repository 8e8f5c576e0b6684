from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgfs.testing.fakes import FileReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.kernel import attached, grown, shown
from tests.backends.tskimages import run
from tests.backends.xfsimages import asked, make, plant_special, prototype, shows

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "plain": ("-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0"),
    "everything": ("-m", "finobt=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1", "-i", "nrext64=1"),
    "1k": ("-b", "size=1k"),
    "1k-large-directories": ("-b", "size=1k", "-n", "size=8k", "-i", "nrext64=1"),
    "inodes-2k": ("-i", "size=2048"),
    "inodes-1k-directories-64k": ("-i", "size=1024", "-n", "size=64k"),
    "sectors-4k": ("-s", "size=4096"),
    "striped": ("-d", "su=64k,sw=4"),
    "small-groups": ("-d", "agsize=17m"),
}


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", OPTIONS)
def test_what_the_kernel_shows_is_shown(tmp_path: Path, name: str) -> None:
    image = make(tmp_path / "xfs.img", *OPTIONS[name], size=512 << 20)
    with attached("xfs", image, tmp_path / "mnt") as where:
        refused = grown(where, "xfs").refused
        assert not refused or name == "plain"
        plant_special(where)
    shows(image, shown("xfs", image, tmp_path / "mnt", "norecovery"))
    reader = FileReader(image)
    info = open_files("xfs", reader).info
    reader.close()
    told = dict(
        line.split("=", 1)
        for line in run("blkid", "-p", "-o", "export", image).replace("\\", "").splitlines()
        if "=" in line
    )
    assert (info.type, info.label, info.uuid) == (told["TYPE"], told["LABEL"], told["UUID"])
    assert info.notes == ()


KINDS: dict[str, tuple[str, ...]] = {
    "v4": ("-m", "crc=0"),
    "v4-1k-no-types": ("-m", "crc=0", "-b", "size=1k", "-n", "ftype=0", "-i", "projid32bit=0,attr=1"),
    "v4-512": ("-m", "crc=0", "-b", "size=512"),
    "v5": (),
    "v5-1k": ("-b", "size=1k"),
    "v5-16k": ("-b", "size=16k"),
    "v5-64k": ("-b", "size=64k", "-i", "size=2048"),
    "v5-case": ("-n", "version=ci"),
    "v5-nrext64": ("-i", "nrext64=1"),
    "v5-4k-sectors": ("-s", "size=4k", "-m", "rmapbt=1"),
}
_FIELDS = {
    "core.uid": "uid",
    "core.gid": "gid",
    "core.nlinkv2": "nlink",
    "core.size": "size",
    "core.gen": "generation",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_mkfs_was_given_is_shown(tmp_path: Path, name: str) -> None:
    long = 700 if "v4" in name else 300
    path, truth = prototype(tmp_path / "given", long=long)
    image = make(tmp_path / "xfs.img", *KINDS[name], "-p", path, size=512 << 20)
    tree = check_files("xfs", image, truth)
    reader = FileReader(image)
    files = open_files("xfs", reader)
    assert (files.info.notes, files.info.label) == ((), "EVIDENCE")
    assert files.info.version == ("4" if "v4" in name else "5")
    assert set(tree) == set(truth) | {b"b0", b"c0", b"fifo", b"short", b"long"}
    assert files.link(0, tree[b"short"].attr.inum) == b"small.txt"
    assert files.link(0, tree[b"long"].attr.inum) == b"t" * long
    assert (tree[b"b0"].attr.rdev, tree[b"c0"].attr.rdev) == (os.makedev(8, 17), os.makedev(1, 3))
    for key, entry in tree.items():
        if key.startswith(b"many/") and not key.endswith(b"7-with-a-longer-name"):
            continue
        told, attr = asked(image, entry.attr.inum), entry.attr
        assert int(told["core.mode"], 8) == attr.kind << 12 | attr.mode, key
        for field, ours in _FIELDS.items():
            if field == "core.size" and attr.kind.name in ("CHR", "BLK", "FIFO"):
                continue
            assert int(told[field]) == getattr(attr, ours), (key, field)
        assert int(told["core.nblocks"]) * files.info.block == attr.allocated, key
        assert int(told["core.mtime.nsec"]) == attr.m_ns % 10**9, key
        assert not attr.damaged, key
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4", "v5", "v5-1k"])
def test_damage_stays_inside_the_contract(tmp_path: Path, name: str) -> None:
    path, _ = prototype(tmp_path / "given", 60)
    image = make(tmp_path / "xfs.img", *KINDS[name], "-p", path, size=32 << 20)
    line = check_hostile("xfs", image, tmp_path, seeds=70, seconds=180)
    assert "walked" in line
