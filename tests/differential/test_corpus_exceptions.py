"""Why the exceptions of the corpus are none: each is shown against something that knows better.

``tests/corpus-exceptions.toml`` names images of the corpus whose truth is at fault or that are damaged;
here stands what that rests on.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounts import ROOT, imgfs, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

OPENERS = {".xz": lzma.open, ".gz": gzip.open}
ISO = {
    "libarchive_libarchive/test_read_format_iso_joliet.iso.xz",
    "libarchive_libarchive/test_read_format_iso_rockridge.iso.xz",
    "libarchive_libarchive/test_read_format_iso_rockridge_rr_moved.iso.xz",
    "libarchive_libarchive/test_read_format_iso_xorriso.iso.xz",
    "libcdio_libcdio/copying-rr.iso.xz",
}
DAMAGED = {"fox-it_dissect.evidence/ewf.E01.xz", "simsong_bulk_extractor/email_test.E01.xz"}
CUT = {
    f"fox-it_dissect.fve/{name}.bin.gz"
    for name in (
        "aes_128",
        "aes_256_diffuser",
        "aes-xts_128",
        "recovery_password",
        "startup_key",
        "suspended",
    )
}
THREE_VOLUMES = "LTRData_DiscUtils/lvm2.vhdx.gz"
TWO_NTFS = "sleuthkit_sleuthkit/imageformat_mmls_1.E01"
HARD_LINKS = "penguin359_hfsplus-rs/hfsp-small.img.xz"
DMG_HFS = {
    "SecurityRonin_dmg-forensic/hfsplus_lzfse.dmg.xz",
    "SecurityRonin_dmg-forensic/hfsplus_lzma.dmg.xz",
    "deploymenttheory_go-apfs-v2/hfs-basic.dmg",
    "keramics_keramics/hfsplus_adc.dmg.xz",
    "keramics_keramics/hfsplus_bzip2.dmg",
    "keramics_keramics/hfsplus_zlib.dmg",
}
DMG_APFS = "deploymenttheory_go-apfs-v2/basic-bz2.dmg"
EXT_LINK = "vstinner_hachoir/bsize-2048-isize-512.ext2.xz"
UFS_LINK = "fox-it_dissect.ffs/ffs_symlink_test2.bin.gz"
CRAMFS = "fkie-cad_fact_extractor/cramfs.img.xz"
LABEL_ONLY = "DFTT_6-undel-fat/6-undel-fat__6-fat-undel.dd.xz"


def truth(corpus: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((corpus / "corpus" / f"{name}.truth.json").read_text())
    return found


def unpacked(corpus: Path, name: str, folder: Path) -> Path:
    """Unpack an image and the other files that belong to it; returns the file to open."""
    index = json.loads((corpus / "corpus" / "INDEX.json").read_text())
    row = next(r for r in index if r["image"] == name)
    folder.mkdir()
    for file in row["files"]:
        source = corpus / "corpus" / file
        opener = OPENERS.get(source.suffix)
        target = folder / (source.stem if opener else source.name)
        if opener is None:
            shutil.copyfile(source, target)
        else:
            with opener(source, "rb") as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
    first = Path(name)
    return folder / (first.stem if first.suffix in OPENERS else first.name)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every path below a folder with its name from there."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), path


def test_every_truth_and_damaged_exception_is_shown_here() -> None:
    rows = tomllib.loads((ROOT / "tests/corpus-exceptions.toml").read_text())["image"]
    named = {row["name"] for row in rows if row["reason"] in ("truth", "damaged")}
    one = {THREE_VOLUMES, TWO_NTFS, HARD_LINKS, EXT_LINK, UFS_LINK, LABEL_ONLY, CRAMFS, DMG_APFS}
    shown = ISO | DAMAGED | DMG_HFS | CUT | one
    assert named <= shown, "an exception that nothing is shown for"


def test_each_of_two_ntfs_volumes_equals_its_own_truth(corpus: Path, scratch: Path) -> None:
    image = unpacked(corpus, TWO_NTFS, scratch / "case")
    known = {v["start"]: v for v in truth(corpus, TWO_NTFS)["volumes"]}  # type: ignore[attr-defined]
    with mounted(image, at=scratch / "mnt") as point:
        assert os.listdir(point / image.name)  # answers when the tables are read
        layers = json.loads((point / ".imgfs/layers.json").read_text())["layers"]
        volumes = {x["start"]: point / x["path"] for x in layers if x["kind"] == "volume"}
        assert known.keys() <= volumes.keys()
        for start, volume in known.items():
            root = volumes[start] / "root"
            assert len(volume["files"]) == volume["files_total"]
            for name, fact in volume["files"].items():
                path = root / name
                if "error" in fact:  # ntfs-3g could not open it; it is there all the same
                    assert path.is_file(), path
                    continue
                if fact["type"] == "d":
                    assert path.is_dir(), path
                    continue
                data = path.read_bytes()
                assert len(data) == fact["size"], path
                assert hashlib.sha256(data).hexdigest() == fact["sha256"], path


def test_each_of_three_logical_volumes_equals_its_own_truth(corpus: Path, scratch: Path) -> None:
    image = unpacked(corpus, THREE_VOLUMES, scratch / "case")
    known = {
        lv["name"]: lv["volume"] for v in truth(corpus, THREE_VOLUMES)["volumes"] for lv in v.get("lvs", ())
    }  # type: ignore[attr-defined]
    assert len(known) == 3
    with mounted(image, at=scratch / "mnt") as point:
        disk = point / image.name
        for name, volume in known.items():
            (found,) = [path for path in disk.iterdir() if path.name.endswith(f".{name}")]
            for file, fact in volume["files"].items():
                path = found / "root" / file
                if fact.get("type") == "f":  # some could not be read by who made the truth
                    assert path.stat().st_size == fact["size"], path
                    assert int(path.stat().st_mtime) == fact["mtime"], path


def test_an_apfs_volume_of_a_disk_image_holds_what_7z_read(corpus: Path, scratch: Path) -> None:
    """7z gives the largest part as the media."""
    image = unpacked(corpus, DMG_APFS, scratch / "case")
    known = truth(corpus, DMG_APFS)
    with mounted(image, at=scratch / "mnt", options=("-o", "symlinks=raw")) as point:
        (root,) = point.glob("*/*/ACCEPT")
        volume = root.parent / "volume.raw"
        assert hashlib.sha256(volume.read_bytes()).hexdigest() == known["media_sha256"]
        for shown, fact in known["volumes"][0]["files"].items():  # type: ignore[index]
            path = root / shown
            assert int(path.lstat().st_mtime) == fact["mtime"], path
            for stream, held in fact.get("streams", {}).items():
                data = Path(f"{path}:{stream}").read_bytes()
                assert hashlib.sha256(data).hexdigest() == held["sha256"], (path, stream)
            if fact["type"] == "l":
                assert str(path.readlink()) == fact["target"]
            elif fact["type"] == "f":
                assert hashlib.sha256(path.read_bytes()).hexdigest() == fact["sha256"], path
            else:
                assert path.is_dir(), path


def test_hfs_hard_links_are_the_file_they_name(corpus: Path, scratch: Path) -> None:
    image = unpacked(corpus, HARD_LINKS, scratch / "case")
    known = truth(corpus, HARD_LINKS)["volumes"][0]["files"]  # type: ignore[index]
    need("7z")
    # Apple TN1150, Hard Links: iNodeN in a private directory has the content, N is the link's reference
    out = scratch / "out"
    subprocess.run(["7z", "x", "-y", f"-o{out}", image], capture_output=True, check=False)
    inodes = {p.read_bytes() for p in out.rglob("iNode*") if p.is_file()}
    assert inodes, "7z shows no file node of a hard link"
    with mounted(image, at=scratch / "mnt") as point:
        root = next(point.glob("*/*/root"))
        for name, fact in known.items():
            path = root / name
            if fact["type"] == "l":
                assert os.readlink(path) == fact["target"]
            elif fact["type"] == "f" and fact["size"] == 0 and path.stat().st_size:
                assert path.name in ("link1", "link2")
                assert path.read_bytes() in inodes
            elif fact["type"] == "f":
                assert hashlib.sha256(path.read_bytes()).hexdigest() == fact["sha256"], path
        assert (root / "files/link1").stat().st_ino == (root / "files/link2").stat().st_ino


@pytest.mark.parametrize("name", sorted(DMG_HFS))
def test_hfs_volumes_of_disk_images_hold_what_7z_and_tsk_read(corpus: Path, scratch: Path, name: str) -> None:
    """7z gives the largest part as the media, hard links as empty files, and link targets made relative."""
    need("7z", "icat")
    image = unpacked(corpus, name, scratch / "case")
    known = truth(corpus, name)
    out = scratch / "out"
    with mounted(image, at=scratch / "mnt", options=("-o", "symlinks=raw")) as point:
        media = point / image.name / "disk.raw"
        (root,) = point.glob("*/*/root")
        volume = root.parent / "volume.raw"
        content = volume.read_bytes() if "largest" in str(known["container_by"]) else media.read_bytes()
        assert hashlib.sha256(content).hexdigest() == known["media_sha256"]
        subprocess.run(["7z", "x", "-y", f"-o{out}", volume], capture_output=True, check=False)
        inodes = {p.read_bytes() for p in out.rglob("iNode*") if p.is_file()}
        for shown, fact in known["volumes"][0]["files"].items():  # type: ignore[index]
            path = root / shown
            if shown == "forward_slash":  # 7z writes no / into names, nor does it keep a : there
                (path,) = root.glob("forward?*slash")
            for stream, held in fact.get("streams", {}).items():
                if stream not in {"rsrc", "com.apple.decmpfs"}:
                    told = "system.imgfs.xattr." if fact["type"] == "l" else "user.imgfs.xattr."
                    value = os.getxattr(path, told + stream, follow_symlinks=False)
                    assert hashlib.sha256(value).hexdigest() == held["sha256"], (path, stream)
            if fact["type"] == "l":
                number = path.lstat().st_ino & (1 << 48) - 1
                target = subprocess.run(["icat", volume, str(number)], capture_output=True, check=True).stdout
                assert os.readlink(bytes(path)) == target
                assert os.readlink(path).endswith(fact["target"])
            elif fact["type"] == "f" and fact["size"] == 0 and path.stat().st_size:
                assert path.stat().st_nlink > 1
                assert path.read_bytes() in inodes
            elif fact["type"] == "f":
                assert hashlib.sha256(path.read_bytes()).hexdigest() == fact["sha256"], path


@pytest.mark.parametrize("name", sorted(ISO))
def test_rock_ridge_is_as_xorriso_reads_it(corpus: Path, scratch: Path, name: str) -> None:
    need("xorriso")
    image = unpacked(corpus, name, scratch / "case")
    with mounted(image, at=scratch / "mnt", options=("-o", "symlinks=raw")) as point:
        ours = dict(listed(next(point.glob("*/*/root"))))
    assert ours == dict(as_xorriso_sees(image))


LINE = re.compile(r"(\S{10}) +\d+ +(\d+) +(\d+) +([\d,]+) (\w{3} +\d+ +[\d:]+) '(.*?)'(?: -> '(.*)')?")
Seen = tuple[str, int, int, int, str, str]


def as_xorriso_sees(image: Path) -> Iterator[tuple[str, Seen]]:
    command = ["xorriso", "-indev", image, "-find", "/", "-exec", "lsdl"]
    environment = {"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for line in done.stdout.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        mode, uid, gid, size, when, path, target = match.groups()
        if path != "/":
            length = int(size) if mode[0] == "-" else 0
            yield path[1:], (mode, int(uid), int(gid), length, when, target or "")


def listed(root: Path) -> Iterator[tuple[str, Seen]]:
    for name, path in walk(root):
        status = path.lstat()
        mode = stat.filemode(status.st_mode)
        length = status.st_size if mode[0] == "-" else 0
        when = time.strftime("%b %e  %Y", time.gmtime(status.st_mtime))
        raw = os.readlink(path) if mode[0] == "l" else ""
        yield name, (mode, status.st_uid, status.st_gid, length, when, raw)


def test_a_short_link_of_ext2_is_what_debugfs_reads(corpus: Path, scratch: Path) -> None:
    need("debugfs")
    image = unpacked(corpus, EXT_LINK, scratch / "case")
    said = subprocess.run(
        ["debugfs", "-R", "stat /target", image], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r'Fast link dest: "(.*)"', said)
    assert match, said
    with mounted(image, at=scratch / "mnt") as point:
        assert os.readlink(next(point.glob("*/*/root")) / "target") == match.group(1)


def test_short_links_of_ufs_are_the_bytes_of_their_inode(corpus: Path, scratch: Path) -> None:
    image = unpacked(corpus, UFS_LINK, scratch / "case")
    data = image.read_bytes()
    # BSD sys/ufs/ffs/fs.h: fs_iblkno at 16, fs_bsize at 48, fs_fsize at 52, fs_maxsymlinklen at 1320 of the
    # super block at 8192; sys/ufs/ufs/dinode.h (ufs1): 128 bytes, di_size at 8, a short target at di_db, 40
    table, fragment = (
        struct.unpack_from("<i", data, 8192 + 16)[0],
        struct.unpack_from("<i", data, 8192 + 52)[0],
    )
    known = truth(corpus, UFS_LINK)["volumes"][0]["files"]  # type: ignore[index]
    links = {name: int(fact["ino"]) for name, fact in known.items() if fact["type"] == "l"}
    assert len(links) == 2
    with mounted(image, at=scratch / "mnt", options=("-o", "symlinks=raw")) as point:
        root = next(point.glob("*/*/root"))
        for name, number in links.items():
            at = table * fragment + number * 128
            (length,) = struct.unpack_from("<Q", data, at + 8)
            target = data[at + 40 : at + 40 + length]
            assert 0 < length < 60
            assert target.isascii()
            assert b"\0" not in target
            assert os.readlink(os.fsencode(root / name)) == target


def test_the_truth_of_the_undelete_image_is_its_label_alone(corpus: Path) -> None:
    volumes = truth(corpus, LABEL_ONLY)["volumes"]
    assert [len(v["files"]) for v in volumes] == [1]  # type: ignore[attr-defined]
    assert [v["label"] for v in volumes] != [""]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_of_a_damaged_image_every_readable_chunk_is_right_and_the_rest_is_said(
    corpus: Path, scratch: Path, name: str
) -> None:
    need("ewfverify", "ewfexport")
    image = unpacked(corpus, name, scratch / "case")
    assert subprocess.run(["ewfverify", "-q", image], capture_output=True, check=False).returncode
    command = ["ewfexport", "-u", "-q", "-f", "raw", "-t", scratch / "out", image]
    subprocess.run(command, capture_output=True, check=True)
    expected = (scratch / "out.raw").read_bytes()
    chunk = 32768
    bad = []
    with mounted(image, at=scratch / "mnt") as point:
        disk = point / image.name / "disk.raw"
        with disk.open("rb", buffering=0) as file:
            assert os.fstat(file.fileno()).st_size == len(expected)
            for start in range(0, len(expected), chunk):
                stop = min(start + chunk, len(expected))
                try:
                    assert os.pread(file.fileno(), stop - start, start) == expected[start:stop]
                except OSError as why:
                    assert why.errno == 5
                    bad.append((start, stop))
    assert bad, "nothing of a damaged image is unreadable"
    said = imgfs("verify", "--json", image, check=False)
    assert said.returncode == 6
    outcome = json.loads(said.stdout)
    assert not outcome["sound"]
    assert sum(stop - start for start, stop, _ in outcome["bad"]) == sum(stop - start for start, stop in bad)
    assert all("checksum" in why for _, _, why in outcome["bad"])


@pytest.mark.parametrize("name", sorted(CUT))
def test_of_a_bitlocker_volume_that_is_cut_what_is_there_is_right(
    corpus: Path, scratch: Path, name: str
) -> None:
    """The truth was copied from dislocker into a sparse file: with zeros where the image has nothing."""
    image = unpacked(corpus, name, scratch / "case")
    known = truth(corpus, name)["volumes"][0]  # type: ignore[index]
    rows = [("password", known.get("password")), ("recovery", known.get("recovery_password"))]
    if "keyfile" in known:
        rows.append(("keyfile", corpus / "corpus" / Path(name).parent / known["keyfile"]))
    keys = scratch / "keys.toml"
    keys.write_text("".join(f'[[key]]\ntype = "{t}"\nvalue = "{v}"\n' for t, v in rows if v))
    keys.chmod(0o600)
    stored, digest = image.stat().st_size, hashlib.sha256()
    with mounted(image, at=scratch / "mnt", options=("--keys", str(keys))) as point:
        volume = next(point.glob("*/00-bitlocker.*")) / "volume.raw"
        with volume.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            assert stored < size == known["decrypted_size"]
            for at in range(0, stored, 512 * 1024):
                digest.update(os.pread(file.fileno(), min(512 * 1024, stored - at), at))
            with pytest.raises(OSError, match="rror"):
                os.pread(file.fileno(), 4096, stored // 4096 * 4096 + 4096)
    digest.update(bytes(size - stored))
    assert digest.hexdigest() == known["decrypted_sha256_here"]


def test_cramfs_has_no_times_but_all_files(corpus: Path, scratch: Path) -> None:
    """Its inodes are of twelve bytes: mode, owner, size, place. 7z's times are those of unpacking."""
    known = truth(corpus, CRAMFS)["volumes"][0]["files"]  # type: ignore[index]
    times = {int(fact["mtime"]) for fact in known.values() if "mtime" in fact}
    assert max(times) - min(times) <= 60
    image = unpacked(corpus, CRAMFS, scratch / "case")
    with mounted(image, at=scratch / "mnt") as point:
        (root,) = point.glob("*/*/root")
        for path, fact in known.items():
            assert stat.S_ISDIR((root / path).lstat().st_mode) == (fact["type"] == "d")
            assert (root / path).lstat().st_mtime == 0
            if "sha256" in fact:
                assert hashlib.sha256((root / path).read_bytes()).hexdigest() == fact["sha256"]
