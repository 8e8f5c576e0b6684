"""Systems made to trap who puts them together: damaged media, folders in themselves, tables without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from imgfs.errors import ImgfsError
from imgfs.model import Kind
from imgfs.session import Session, open_session
from imgfs.settings import Settings
from imgfs.testing.files import damaged
from tests.fuse.test_live import OVER, RENAMED, UUID, changed, debugfs, shown, store, union
from tests.fuse.test_nested import squashed
from tests.fuse.test_system import MIB, folder
from tests.fuse.test_system_tables import SMALL, unix
from tests.hostile.test_trees import inode
from tests.peers import watched
from tests.recipes import ext

pytestmark = pytest.mark.slow

SEEDS = int(os.environ.get("IMGFS_SEEDS", "12"))
ENTRIES = 20_000
FEW = {
    "etc/fstab": "/a /b none rbind 0 0\n",
    "etc/x": "x",
    "usr/lib/b": "b",
    "opt/gone/f": "f",
    "srv/moved/i": "i",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write the root of a small live system."""
    return folder(tmp_path / "root", **{name.replace("/", "__"): text for name, text in FEW.items()})


async def _walked(session: Session) -> tuple[int, int]:
    """Walk system/ and read what is there; return what was read, and what was refused."""
    read = refused = 0
    todo = [(await session.find((b"system",)), 0)]
    while todo:
        node, depth = todo.pop()
        assert depth < 200
        index = 0
        while True:
            try:
                child = node.row(index)
                if child is None:
                    if not await node.more(index):
                        break
                    continue
                index += 1
                read += 1
                assert read < ENTRIES
                inner = await node.find(child.name)
                assert inner.ino == child.ino
                await inner.xattrs()
                if child.attr.kind is Kind.DIR:
                    todo.append((inner, depth + 1))
                elif child.attr.kind is Kind.REG:
                    file = await session.open(inner)
                    await file.read(0, min(child.attr.size, MIB))
                elif child.attr.kind is Kind.LNK:
                    await inner.link()
            except ImgfsError:
                refused += 1
                if refused > ENTRIES or child is None:
                    break
    return read, refused


def walked(image: Path) -> tuple[int, int]:
    async def work() -> tuple[int, int]:
        with trio.fail_after(60):
            async with open_session([image], Settings()) as session:
                await session.resolve()
                return await _walked(session)

    return trio.run(work)


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_damaged_live_media_are_read_or_refused(root: Path, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        flat = squashed(tmp_path / "flat.img", root)
        stick = union(tmp_path, root, flat, (*OVER, *RENAMED), f"overlay-LIVE-{UUID}")
    else:
        image = ext(tmp_path / "rootfs.img", root, "ext4", 4 * MIB, *SMALL)
        live = folder(tmp_path / "stick") / "LiveOS"
        live.mkdir()
        (live / f"overlay-LIVE-{UUID}").write_bytes(store(image.read_bytes(), changed(image, tmp_path)))
        image.rename(live / "rootfs.img")
        stick = ext(tmp_path / "stick.img", tmp_path / "stick", "ext4", 24 * MIB, "-L", "LIVE", "-U", UUID)
    good = stick.read_bytes()
    whole, refused = walked(stick)
    assert whole > len(FEW)
    assert not refused
    some = 0
    for seed in range(SEEDS):
        stick.write_bytes(damaged(good, seed))
        some += walked(stick)[0]
    assert some


def test_folders_inside_themselves_end_in_what_is_laid_over(root: Path, tmp_path: Path) -> None:
    over = f"overlay-LIVE-{UUID}"
    stick = union(tmp_path, root, squashed(tmp_path / "flat.img", root), OVER, over)
    top = f"/LiveOS/{over}"
    for number, target in enumerate((top, f"{top}/usr", f"{top}/home/added")):
        debugfs(stick, f"cd {top}/home/added", f"link <{inode(stick, target)}> loop{number}")
    debugfs(stick, f"ea_set {top}/home trusted.overlay.redirect /home/home/home")
    with watched(stick, at=tmp_path / "m") as point:
        found = [name for _, folders, _ in os.walk(shown(point)) for name in folders]
        assert len(found) < 100
        assert (shown(point) / "home/added/loop1/lib").is_dir()
        for number in (0, 2):
            loop = shown(point) / f"home/added/loop{number}"
            assert b"inside itself" in os.getxattr(loop, "user.imgfs.damaged")
            assert os.listdir(loop) == []


def test_tables_without_end_are_cut(tmp_path: Path) -> None:
    table = [f"/a{'/b' * 900} /c{'/d' * 900}{n} none rbind 0 0" for n in range(50)]
    table += [f"/m{n} /m{n + 1} none rbind 0 0" for n in range(1500)]
    table += ["overlay /o overlay lowerdir=" + ":".join(["/a"] * 5000)] * 3
    made = unix(tmp_path / "r", table, "a", "m1", "m2", "o")
    image = ext(tmp_path / "disk.img", made, "ext4", 8 * MIB)
    assert walked(image)[0] < ENTRIES
