"""Trees made to trap who walks them: loops, depth, links outwards, special files, images in images."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise, run
from tests.hostile.survive import survive
from tests.peers import LOW, need_backend, watched
from tests.recipes import MIB, ext, fat, gpt_bytes, sized

pytestmark = pytest.mark.slow


def debugfs(image: Path, *commands: str) -> None:
    """Change a file system behind the kernel's back."""
    script = image.with_suffix(".script")
    script.write_text("".join(f"{command}\n" for command in commands))
    run("debugfs", "-w", "-f", script, image)
    script.unlink()


def inode(image: Path, path: str) -> int:
    """Return an inode number as debugfs says."""
    return int(run("debugfs", "-R", f"stat {path}", image).split("Inode:")[1].split()[0])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder for mke2fs; skip without its back-end."""
    need_backend("ext")
    need("mke2fs", "debugfs")
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_a_directory_inside_itself_ends_the_walk(source: Path, tmp_path: Path) -> None:
    (source / "a" / "b" / "c").mkdir(parents=True)
    (source / "a" / "b" / "c" / "file").write_text("reached")
    image = ext(tmp_path / "disk.img", source, "ext2", 4 * MIB)
    for number, target in enumerate(("/a", "/", "/a/b/c")):
        debugfs(image, f"link <{inode(image, target)}> /a/b/c/loop{number}")

    def also(point: Path) -> None:
        c = point / "disk.img/00-ext2/root/a/b/c"
        assert (c / "file").read_text() == "reached"
        for number in range(3):
            assert os.listdir(c / f"loop{number}") == []
            assert b"inside itself" in os.getxattr(c / f"loop{number}", "user.imgfs.damaged")
        assert len(run("find", point / "disk.img/00-ext2/root").splitlines()) < 30

    survive(image, at=tmp_path, also=also)


def test_a_directory_with_two_names_is_whole_under_both(source: Path, tmp_path: Path) -> None:
    (source / "one").mkdir()
    (source / "one" / "file").write_text("content")
    (source / "one" / "up").symlink_to("../two")
    (source / "two" / "deeper").mkdir(parents=True)
    image = ext(tmp_path / "disk.img", source, "ext2", 4 * MIB)
    debugfs(image, f"link <{inode(image, '/one')}> /two/deeper/again")
    with watched(image, at=tmp_path / "m") as point:
        root = point / "disk.img/00-ext2/root"
        for _ in range(3):
            assert (root / "two/deeper/again/file").read_text() == "content"
            assert (root / "one/file").read_text() == "content"
        assert sorted(os.listdir(root / "two/deeper/again")) == ["file", "up"]
        assert (root / "two/deeper/again").stat().st_ino & LOW == (root / "one").stat().st_ino & LOW


def test_a_thousand_levels_are_walked_to_the_bottom(tmp_path: Path) -> None:
    need_backend("ext")
    need("mke2fs")
    image = sized(tmp_path / "disk.img", 16 * MIB)
    run("mke2fs", "-q", "-t", "ext2", "-N", "4000", image)
    debugfs(image, *(line for _ in range(1000) for line in ("mkdir d", "cd d")))

    def also(point: Path) -> None:
        fd = os.open(point / "disk.img/00-ext2/root", os.O_RDONLY)
        try:
            for _ in range(1000):
                deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = deeper
            assert os.listdir(fd) == []
        finally:
            os.close(fd)

    survive(image, at=tmp_path, also=also)


def test_no_link_leads_out_of_its_file_system(source: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("outside")
    (source / "in").mkdir()
    (source / "in" / "hop").symlink_to("../..")
    (source / "canary").write_text("inside")
    depth = "../" * 60
    targets = {
        "absolute": str(canary),
        "dots": f"{depth}{str(canary)[1:]}",
        "passwd": "/etc/passwd",
        "root": "/",
        "proc": "/proc/self/root/etc/passwd",
        "behind": f"in/hop/{depth}etc/passwd",
        "folded": f"in/nothing/../../{depth}etc/passwd",
        "slashes": f"////{'.//' * 50}..///etc/passwd",
        "inside": "/canary",
    }
    for name, target in targets.items():
        (source / name).symlink_to(target)
        (source / "in" / name).symlink_to(target)
    image = ext(tmp_path / "disk.img", source)
    with watched(image, at=tmp_path / "m") as point:
        root = point.resolve() / "disk.img/00-ext4/root"
        for folder in (root, root / "in"):
            for name, target in targets.items():
                link = folder / name
                assert os.path.realpath(link).startswith(str(root)), (link, os.readlink(link))
                assert os.getxattr(link, "system.imgfs.link", follow_symlinks=False) == target.encode()
            assert (folder / "inside").read_text() == "inside"
            assert not (folder / "passwd").exists()
            assert not (folder / "proc").exists()
        assert os.path.realpath(root / "in/hop") == str(root)
        assert sorted(os.listdir(root / "root")) == sorted(os.listdir(root))


def test_links_are_shown_as_stored_on_request(source: Path, tmp_path: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    image = ext(tmp_path / "disk.img", source)
    with watched(image, at=tmp_path / "m", options=("-o", "symlinks=raw")) as point:
        assert os.readlink(point / "disk.img/00-ext4/root/link") == "/etc/passwd"


def test_special_files_are_shown_and_lead_nowhere(source: Path, tmp_path: Path) -> None:
    (source / "su").write_bytes(Path("/bin/true").read_bytes())
    image = ext(tmp_path / "disk.img", source)
    nodes = {"null": ("c", 1, 3), "disk": ("b", 8, 0), "pipe": ("p", 0, 0)}
    debugfs(
        image,
        "set_inode_field /su mode 0106755",
        "set_inode_field /su uid 0",
        "mknod null c 1 3",
        "mknod disk b 8 0",
        "mknod pipe p",
    )
    kinds = {"c": stat.S_ISCHR, "b": stat.S_ISBLK, "p": stat.S_ISFIFO}
    with watched(image, at=tmp_path / "m") as point:
        root = point / "disk.img/00-ext4/root"
        for name, (kind, major, minor) in nodes.items():
            status = (root / name).lstat()
            assert kinds[kind](status.st_mode)
            assert status.st_rdev == os.makedev(major, minor)
        for name in ("null", "disk"):
            with pytest.raises(PermissionError):
                os.close(os.open(root / name, os.O_RDONLY))
        assert stat.S_IMODE((root / "su").stat().st_mode) == 0o6755
        with pytest.raises(PermissionError):
            subprocess.run([root / "su"], check=True)


# --- images in images ----------------------------------------------------------------------------
def in_gpt(volume: bytes) -> bytes:
    """Return a GPT disk that holds a volume at 1 MiB."""
    size = 2 * MIB + len(volume)
    head = gpt_bytes(size, [(2048, 2047 + len(volume) // 512)])
    return head.ljust(MIB, b"\0") + volume + bytes(MIB)


def in_fat(folder: Path, name: str, data: bytes) -> bytes:
    """Return a FAT volume that holds a file."""
    source = folder / f"source-{name}"
    source.mkdir()
    (source / name).write_bytes(data)
    image = folder / f"fat-{name}"
    size = (len(data) // MIB + 3) * MIB
    return fat(image, source, 12 if size < 16 * MIB else 16, size).read_bytes()


def test_a_nested_image_is_entered_by_name_and_listed_on_request(tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy")
    inner = in_gpt(in_fat(tmp_path, "file.bin", noise(70_000)))
    image = tmp_path / "disk.dd"
    image.write_bytes(in_fat(tmp_path, "inner.dd", inner))
    with watched(image, at=tmp_path / "m") as point:
        root = next((point / "disk.dd").glob("00-*")) / "root"
        assert "inner.dd" in os.listdir(root)
        assert "inner.dd@" not in os.listdir(root)
        nested = root / "inner.dd@"
        assert (nested / "disk.raw").read_bytes() == inner
        assert next(nested.glob("01-*/root/file.bin")).read_bytes() == noise(70_000)
        assert not (root / "nothing@").exists()
    with watched(image, at=tmp_path / "m", options=("-o", "nested=list")) as point:
        root = next((point / "disk.dd").glob("00-*")) / "root"
        assert {"inner.dd", "inner.dd@"} <= set(os.listdir(root))
        assert next(root.glob("inner.dd@/01-*/root/file.bin")).read_bytes() == noise(70_000)
    with watched(image, at=tmp_path / "m", options=("-o", "nested=off")) as point:
        root = next((point / "disk.dd").glob("00-*")) / "root"
        assert not (root / "inner.dd@").exists()


def test_nesting_ends_at_a_depth(tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy")
    data = noise(5000)
    for level in range(20):
        data = in_gpt(in_fat(tmp_path, f"level{level}.dd", data))
    image = tmp_path / "disk.dd"
    image.write_bytes(data)
    with watched(image, at=tmp_path / "m") as point:
        here = point / "disk.dd"
        reached = 0
        for level in reversed(range(20)):
            found = list(here.glob(f"01-*/root/level{level}.dd"))
            if not found:
                break
            reached += 1
            here = found[0].with_name(found[0].name + "@")
            if not here.exists():
                break
        assert 4 <= reached < 20
        said = json.loads((point / ".imgfs/layers.json").read_text())["layers"]
        assert max(layer["spec"].count("|") for layer in said) <= 20
