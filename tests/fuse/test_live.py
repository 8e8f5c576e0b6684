"""Laws of live systems: browsed to the last file, with their changes where that is certain."""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.tskimages import need, run
from tests.fuse.test_nested import burnt, squashed
from tests.fuse.test_system import MIB, folder
from tests.fuse.test_system_tables import disk
from tests.mounts import imgfs, tree
from tests.peers import layers, watched
from tests.recipes import ext, fat

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID = "11111111-2222-3333-4444-0000000000ff"
CHUNK = 4096


def store(before: bytes, after: bytes, *, chunk: int = CHUNK, valid: int = 1) -> bytes:
    """Return a store of changes as snapshot.rst says: a header, then tables and their chunks."""
    each = chunk // 16
    chunks = [struct.pack("<4sIII", b"SnAp", valid, 1, chunk // 512).ljust(chunk, b"\0")]
    changed = [at for at in range(0, len(after), chunk) if before[at : at + chunk] != after[at : at + chunk]]
    for first in range(0, len(changed) + 1, each):
        some = changed[first : first + each]
        start = len(chunks) + 1
        rows = b"".join(struct.pack("<QQ", at // chunk, start + number) for number, at in enumerate(some))
        chunks.append(rows.ljust(chunk, b"\0"))
        chunks += [after[at : at + chunk] for at in some]
    return b"".join(chunks)


def debugfs(image: Path, *commands: str) -> None:
    subprocess.run(
        ["debugfs", "-w", "-f", "-", image],
        input="\n".join(commands),
        text=True,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write the root of a live system."""
    made = folder(
        tmp_path / "root",
        etc__fstab="vartmp /var/tmp tmpfs defaults 0 0\n",
        etc__hostname="live\n",
        usr__bin__tool="tool",
        usr__lib__a="a",
        usr__lib__b="b",
        home__old__file="old",
        opt__gone__deep="gone",
        opt__new__below="hidden",
        opt__kind="a file",
        srv__moved__inner="moved",
    )
    (made / "etc/localtime").symlink_to("/usr/lib/a")
    (made / "proc").mkdir()
    return made


def changed(image: Path, tmp_path: Path) -> bytes:
    """Return an image's bytes after files were written and removed in a copy."""
    copy = tmp_path / "copy.img"
    copy.write_bytes(image.read_bytes())
    (tmp_path / "large").write_bytes(bytes(range(256)) * 12_000)
    debugfs(copy, f"write {tmp_path / 'large'} large", "rm /opt/gone/deep", "mkdir /home/new")
    run("e2fsck", "-fn", copy)
    return copy.read_bytes()


def inner(at: Path, image: Path, *options: str) -> Path:
    """Put an image of a root into SquashFS, where live media have it."""
    source = folder(at / "squash")
    (source / "LiveOS").mkdir(exist_ok=True)
    os.link(image, source / "LiveOS/rootfs.img")
    return squashed(at / "squashfs.img", source, *options)


@pytest.mark.parametrize("chunk", [4096, 32 << 10])
def test_what_a_live_system_changed_is_laid_over_its_image(root: Path, tmp_path: Path, chunk: int) -> None:
    image = ext(tmp_path / "rootfs.img", root, "ext4", 16 * MIB)
    after = changed(image, tmp_path)
    live = folder(tmp_path / "stick") / "LiveOS"
    live.mkdir()
    inner(tmp_path, image).rename(live / "squashfs.img")
    (live / "overlay-LIVE-1234-ABCD").write_bytes(store(image.read_bytes(), after, chunk=chunk))
    (live / "overlay-OTHER-1234-ABCD").write_bytes(store(image.read_bytes(), after))
    stick = disk(
        tmp_path / "stick.img",
        fat(tmp_path / "fat", tmp_path / "stick", 32, 80 * MIB, "-n", "LIVE", "-i", "1234ABCD"),
    )
    with watched(stick, at=tmp_path / "m") as point:
        names = os.listdir(point / "system")
        assert "squashfs.img@.00-squashfs" not in names
        (name,) = [name for name in names if "overlay" in name]
        assert name == "stick.img.01-fat.overlay-LIVE-1234-ABCD"
        over = point / "system" / name
        assert (over / "large").read_bytes() == (tmp_path / "large").read_bytes()
        assert os.listdir(over / "opt/gone") == []
        assert (over / "home/new").is_dir()
        assert (over / "etc/localtime").read_text() == "a"
        copy = ext(tmp_path / "again.img", root, "ext4", 16 * MIB)
        copy.write_bytes(after)
        with watched(copy, at=tmp_path / "m2") as other:
            assert tree(over) == tree(next(other.glob("*/*/root")))
        (base,) = [name for name in names if "overlay" not in name]
        assert base == "rootfs.img@.00-ext4"
        assert (point / "system" / base / "opt/gone/deep").read_text() == "gone"
        right, wrong = layers(point, backend="dmsnapshot")
        assert right["state"] == "open"
        assert right["members"] == [
            "LiveOS/rootfs.img in LiveOS/squashfs.img",
            "LiveOS/overlay-LIVE-1234-ABCD",
        ]
        assert "put together: LiveOS/rootfs.img in LiveOS/squashfs.img" in right["notes"][-1]
        assert wrong["state"] == "unsupported"
        assert "named for another medium" in wrong["needs"]
        (alone,) = (point / "stick.img").glob("01-*/root/LiveOS/overlay-LIVE-1234-ABCD@")
        assert os.listdir(alone) == ["disk.raw"]


@pytest.mark.parametrize("damage", ["full", "version", "far", "short", "unused"])
def test_a_store_that_says_nothing_certain_is_not_shown(root: Path, tmp_path: Path, damage: str) -> None:
    image = ext(tmp_path / "rootfs.img", root, "ext4", 16 * MIB)
    before = image.read_bytes()
    data = bytearray(store(before, changed(image, tmp_path), valid=damage != "full"))
    if damage == "version":
        data[8] = 9
    elif damage == "far":
        struct.pack_into("<Q", data, CHUNK + 8, 1 << 40)
    elif damage == "short":
        del data[CHUNK + 100 :]
    elif damage == "unused":
        data[:] = bytes(len(data))
        data[:4] = b"SnAp"
    live = folder(tmp_path / "stick") / "LiveOS"
    live.mkdir()
    image.rename(live / "rootfs.img")
    (live / f"overlay-LIVE-{UUID}").write_bytes(data)
    stick = ext(tmp_path / "stick.img", tmp_path / "stick", "ext4", 64 * MIB, "-L", "LIVE", "-U", UUID)
    with watched(stick, at=tmp_path / "m") as point:
        names = os.listdir(point / "system")
        assert "rootfs.img@.00-ext4" in names
        shown = [name for name in names if "overlay" in name]
        (layer,) = layers(point, backend="dmsnapshot")
        if shown:  # whatever is read of it is right or refused
            for path, (kind, _, _) in tree_of(point / "system" / shown[0]).items():
                assert kind in ("d", "f", "l", "!"), path
            assert layer["lost"]
        else:
            assert layer["state"] == "damaged"
            assert layer["notes"]


def tree_of(top: Path) -> dict[str, tuple[str, int, bytes]]:
    """Return what can be read below a folder."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for at, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(at, name)
            try:
                found[str(path)] = ("l" if path.is_symlink() else "d" if path.is_dir() else "f", 0, b"")
                if path.is_file():
                    path.read_bytes()
            except OSError:
                found[str(path)] = ("!", 0, b"")
    return found


OVER = (  # what OverlayFS leaves of: changing, removing, replacing, adding, renaming
    "mkdir etc",
    "write {new} etc/hostname",
    "mkdir usr",
    "mkdir usr/lib",
    "mknod usr/lib/b c 0 0",
    "mkdir opt",
    "mknod opt/gone c 0 0",
    "mkdir opt/new",
    "write {new} opt/new/own",
    "ea_set opt/new trusted.overlay.opaque y",
    "mkdir opt/kind",
    "write {new} opt/kind/now-a-folder",
    "mkdir home",
    "mkdir home/added",
    "write {new} home/added/file",
    "mknod home/added/never c 0 0",
    "symlink home/link /usr/bin/tool",
    "mknod tty c 4 1",
)
RENAMED = (
    "mkdir renamed",
    "ea_set renamed trusted.overlay.redirect /srv/moved",
    "mkdir srv",
    "mknod srv/moved c 0 0",
    "mkdir srv/near",
    "ea_set srv/near trusted.overlay.redirect moved",
    "write {new} renamed/more",
)


def union(tmp_path: Path, root: Path, flat: Path, commands: tuple[str, ...], over: str) -> Path:
    """Make a medium with an image and a directory of changes to it."""
    del root
    live = folder(tmp_path / "stick") / "LiveOS"
    for name in (over, "ovlwork/work"):
        (live / name).mkdir(parents=True)
    flat.rename(live / "squashfs.img")
    stick = ext(tmp_path / "stick.img", tmp_path / "stick", "ext4", 64 * MIB, "-L", "LIVE", "-U", UUID)
    (tmp_path / "new").write_text("new contents")
    told = [f"cd /LiveOS/{over}"]
    told += [command.format(new=tmp_path / "new").replace("moved c", "moved c") for command in commands]
    debugfs(stick, *_inside(told))
    run("e2fsck", "-fn", stick)
    return stick


def _inside(commands: list[str]) -> Iterator[str]:
    """Make names of a path of several folders: debugfs makes nodes in the current one only."""
    top = commands[0]
    for command in commands:
        words = command.split(" ")
        where = 2 if words[0] == "write" else 1
        above, _, name = words[where].rpartition("/")
        if words[0] in ("mknod", "write", "symlink") and above:
            words[where] = name
            yield f"cd {above}"
            yield " ".join(words)
            yield top
        else:
            yield command


def shown(point: Path) -> Path:
    (name,) = [name for name in os.listdir(point / "system") if "overlay" in name]
    return point / "system" / name


@contextmanager
def by_kernel(stick: Path, tmp_path: Path, over: str) -> Iterator[Path]:
    """Let the kernel lay one over the other; root only."""
    if os.geteuid() or not Path("/dev/loop-control").exists():
        pytest.skip("the kernel mounts for root only")
    at = {name: tmp_path / f"k-{name}" for name in ("stick", "squash", "over")}
    mounted: list[Path] = []
    try:
        for place in at.values():
            place.mkdir()
        for source, where, kind in (
            (stick, at["stick"], "ext4"),
            (at["stick"] / "LiveOS/squashfs.img", at["squash"], "auto"),
        ):
            run("mount", "-t", kind, "-o", "ro,loop", source, where)
            mounted.append(where)
        lower = f"{at['stick'] / 'LiveOS' / over}:{at['squash']}"
        run("mount", "-t", "overlay", "-o", f"ro,redirect_dir=follow,lowerdir={lower}", "overlay", at["over"])
        mounted.append(at["over"])
        yield at["over"]
    finally:
        for where in reversed(mounted):
            run("umount", where)


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """Return kind, mode, owners, size, time, device and contents or target of everything."""
    found: dict[str, tuple[object, ...]] = {}
    for at, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(at, name)
            try:
                said = path.lstat()
            except FileNotFoundError:  # the kernel lists what is whited out where nothing lies below
                continue
            data: object = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            size = said.st_size if path.is_file() else 0
            found[str(path.relative_to(top))] = (
                said.st_mode, said.st_uid, said.st_gid, size, said.st_mtime_ns, said.st_rdev,
                os.readlink(path) if path.is_symlink() else "", data,
            )  # fmt: skip
    return found


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_a_folder_of_changes_is_laid_over_the_root_as_the_kernel_does(
    root: Path, tmp_path: Path, kind: str, *, renamed: bool
) -> None:
    over = f"overlay-LIVE-{UUID}"
    if kind == "erofs":
        need("mkfs.erofs")
        flat = tmp_path / "flat.img"
        run("mkfs.erofs", flat, root)
    else:
        flat = squashed(tmp_path / "flat.img", root)
    stick = union(tmp_path, root, flat, (*OVER, *(RENAMED if renamed else ())), over)
    with watched(stick, at=tmp_path / "m", options=("-o", "symlinks=raw")) as point:
        top = shown(point)
        assert (top / "etc/hostname").read_text() == "new contents"
        assert (top / "etc/fstab").read_text().startswith("vartmp")
        assert os.listdir(top / "usr/lib") == ["a"]
        assert not (top / "opt/gone").exists()
        assert os.listdir(top / "opt/new") == ["own"]
        assert os.listdir(top / "opt/kind") == ["now-a-folder"]
        assert sorted(os.listdir(top / "home")) == ["added", "link", "old"]
        assert os.listdir(top / "home/added") == ["file"]
        if renamed:
            assert sorted(os.listdir(top / "renamed")) == ["inner", "more"]
            assert os.listdir(top / "srv/near") == ["inner"]
        numbers = [os.lstat(Path(at, one)).st_ino for at, folders, _ in os.walk(top) for one in folders]
        assert len(set(numbers)) == len(numbers)
        for at, _, _ in os.walk(top):
            assert {row.name: row.inode() for row in os.scandir(at)} == {
                name: os.lstat(Path(at, name)).st_ino for name in os.listdir(at)
            }
        (layer,) = layers(point, backend="overlayfs")
        assert layer["members"] == ["LiveOS/squashfs.img", f"LiveOS/{over}"]
        with by_kernel(stick, tmp_path, over) as kernel:
            assert facts(top) == facts(kernel)


def test_links_lead_through_what_is_laid_over(root: Path, tmp_path: Path) -> None:
    over = f"overlay-LIVE-{UUID}"
    stick = union(tmp_path, root, squashed(tmp_path / "flat.img", root), OVER, over)
    with watched(stick, at=tmp_path / "m") as point:
        top = shown(point)
        assert os.path.realpath(top / "etc/localtime") == str(top / "usr/lib/a")
        assert os.path.realpath(top / "home/link") == str(top / "usr/bin/tool")
        assert (top / "home/link").read_text() == "tool"


def test_contents_that_were_not_copied_are_refused(root: Path, tmp_path: Path) -> None:
    over = f"overlay-LIVE-{UUID}"
    commands = ("mkdir etc", "write {new} etc/hostname", "ea_set etc/hostname trusted.overlay.metacopy x")
    stick = union(tmp_path, root, squashed(tmp_path / "flat.img", root), commands, over)
    with watched(stick, at=tmp_path / "m") as point:
        with pytest.raises(OSError, match="not supported"):
            (shown(point) / "etc/hostname").read_text()
        assert (shown(point) / "usr/lib/a").read_text() == "a"


def test_a_folder_of_another_medium_is_a_folder(root: Path, tmp_path: Path) -> None:
    stick = union(tmp_path, root, squashed(tmp_path / "flat.img", root), OVER, "overlay-OTHER-1234")
    with watched(stick, at=tmp_path / "m") as point:
        assert not [name for name in os.listdir(point / "system") if "overlay" in name]
        (layer,) = layers(point, backend="overlayfs")
        assert layer["state"] == "unsupported"


def test_overlays_of_a_table_are_laid_over(tmp_path: Path) -> None:
    table = "overlay /merged overlay lowerdir=/low/one:/low/two,upperdir=/up,workdir=/w 0 0\n"
    table += "overlay /bad overlay lowerdir=/none,upperdir=/up 0 0\n/merged /bound none bind 0 0\n"
    made = folder(
        tmp_path / "r", etc__fstab=table, low__one__a="one", low__two__a="two", low__two__b="two", up__c="up"
    )
    for name in ("merged", "bad", "bound"):
        (made / name).mkdir()
    image = ext(tmp_path / "disk.img", made, "ext4", 8 * MIB)
    debugfs(image, "cd /up", "mknod b c 0 0")
    with watched(image, at=tmp_path / "m") as point:
        (name,) = os.listdir(point / "system")
        top = point / "system" / name / "merged"
        assert sorted(os.listdir(top)) == ["a", "c"]
        assert (top / "a").read_text() == "one"
        (layer,) = layers(point, backend="fstab")
        assert "/merged: /up, /low/one, /low/two" in layer["members"]
        assert any(note.startswith("/bad: overlay:overlay is not shown there") for note in layer["notes"])
        assert any(note.startswith("/bound: bind:/merged is not shown there") for note in layer["notes"])


@pytest.mark.parametrize("kind", ["squashfs", "erofs", "ext4 on a disc"])
def test_every_root_of_a_live_medium_is_there(root: Path, tmp_path: Path, kind: str) -> None:
    live = folder(tmp_path / "disc") / "LiveOS"
    live.mkdir()
    if kind == "erofs":
        need("mkfs.erofs")
        run("mkfs.erofs", live / "squashfs.img", root)
    elif kind == "squashfs":
        squashed(live / "squashfs.img", root)
    else:
        ext(live / "rootfs.img", root, "ext4", 8 * MIB)
    image = burnt(tmp_path / "live.iso", tmp_path / "disc")
    with watched(image, at=tmp_path / "m", options=("-o", "symlinks=raw")) as point:
        (name,) = os.listdir(point / "system")
        found = {path: row for path, row in tree(point / "system" / name).items() if path != "lost+found"}
        assert found == tree(root)


def kept(at: Path, upper: str, name: str, label: tuple[str, ...], table: str = "") -> Path:
    """Make a volume that keeps changes of a Debian or Ubuntu live system."""
    folder(at)
    above = (at / upper).parent
    for place in (at / upper, above / "work" / "work"):
        place.mkdir(parents=True)
    if table:
        (at / "persistence.conf").write_text(table)
    image = ext(at.parent / name, at, "ext4", 8 * MIB, *label)
    (at.parent / "new").write_text("new contents")
    debugfs(image, f"cd /{upper}", "mknod opt c 0 0", "mkdir usr", f"write {at.parent / 'new'} added")
    return image


DEBIAN = "# kept\n/ union\n/home bind\n/srv union,source=other\nbroken\n"


@pytest.mark.parametrize(
    ("place", "upper", "label", "table"),
    [
        ("live", "rw", "persistence", DEBIAN),
        ("live", "deep/place/rw", "persistence", "/ union,source=deep/place\n"),
        ("casper", "upper", "casper-rw", ""),
        ("casper", "upper", "writable", ""),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_a_volume_keeps_is_laid_over_the_only_image(
    root: Path, tmp_path: Path, place: str, upper: str, label: str, table: str, *, inside: bool
) -> None:
    medium = folder(tmp_path / "stick") / place
    medium.mkdir()
    squashed(medium / "filesystem.squashfs", root)
    volume = kept(tmp_path / "kept", upper, "kept.img", () if inside else ("-L", label), table)
    if inside:
        volume.rename(tmp_path / "stick" / label)
    first = ext(tmp_path / "first.img", tmp_path / "stick", "ext4", 32 * MIB)
    stick = disk(tmp_path / "stick.img", first, *(() if inside else (volume,)))
    with watched(stick, at=tmp_path / "m") as point:
        names = set(os.listdir(point / "system"))
        wanted = "stick.img.01-ext." + ("persistence" if place == "live" else "casper-rw")
        assert names == {wanted, "filesystem.squashfs@.00-squashfs"}
        top = point / "system" / wanted
        assert (top / "added").read_text() == "new contents"
        assert not (top / "opt").exists()
        assert (top / "etc/localtime").read_text() == "a"
        (layer,) = layers(point, backend="overlayfs")
        assert f"{place}/filesystem.squashfs of stick.img|gpt:1|ext" in layer["members"][0]
        if table == DEBIAN:
            (said,) = layers(point, backend="persistence")
            assert any("/home is bound from /home" in note for note in said["notes"])
            assert any("/srv is laid over" in note for note in said["notes"])
            assert any("line 5: no folder" in note for note in said["notes"])
        seen = imgfs("ls", f"{stick}:system/{wanted}").stdout.split()
        assert "added" in seen
        assert "opt" not in seen
    if not inside:
        two = disk(tmp_path / "two.img", first, volume, volume)
        with watched(two, at=tmp_path / "m") as point:  # which of them it was is not certain
            assert os.listdir(point / "system") == ["filesystem.squashfs@.00-squashfs"]


def mutated(data: bytes, seed: int) -> bytes:
    import random

    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 9))):
        changed[rng.choice((rng.randrange(24), CHUNK + rng.randrange(600)))] = rng.randrange(256)
    return bytes(changed)


def test_damaged_stores_are_refused_or_read_and_nothing_else() -> None:
    from imgfs.backends import Options, discover
    from imgfs.errors import ImgfsError, NotMine
    from imgfs.testing.fakes import MemoryReader
    from imgfs.worker import checks, wire

    before = bytes(1 << 20)
    after = bytearray(before)
    for at in range(0, 1 << 20, 5 * CHUNK):
        after[at] = 1
    good = store(before, bytes(after))
    read = 0
    for seed in range(2000):
        reader = MemoryReader(mutated(good, seed))
        reader.others = (MemoryReader(before),)
        try:
            opened = discover()["dmsnapshot"].open(reader, Options())
        except (ImgfsError, NotMine):
            continue
        checks.check_opened(wire.OpenReply(opened=opened, table=-1, sandbox={}), (reader.size, len(before)))
        assert opened.layouts[-1].size == len(before)
        read += 1
    assert read
