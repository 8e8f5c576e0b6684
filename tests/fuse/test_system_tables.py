"""Laws of tables of mounts: by every name that there is, folders bound elsewhere, and what opens later."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest

from imgfs.backends import Options, discover
from imgfs.testing.fakes import MemoryReader
from tests.backends import lvmcompose
from tests.backends.btrfsimages import attached, make
from tests.backends.test_luks import PASSWORD, encrypted, formatted
from tests.backends.tskimages import run
from tests.fuse.test_system import MIB, SLOT, folder, placed
from tests.mounts import imgfs
from tests.peers import layers, watched
from tests.recipes import ext, sfdisk, sized

SMALL = ("-O", "^has_journal")


def unix(at: Path, fstab: list[str], *places: str, **files: str) -> Path:
    """Make the root of a system: its table, places to mount at, and files."""
    root = folder(at, etc__fstab="\n".join(fstab) + "\n", etc__hostname="station\n", **files)
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
    return root


def disk(at: Path, *volumes: Path, uuids: tuple[str, ...] = ()) -> Path:
    """Put volumes onto a disk, one behind the other."""
    script, start = ["label: gpt"], 1
    places = []
    for number, volume in enumerate(volumes):
        size = -(-volume.stat().st_size // MIB)
        unique = uuids[number] if number < len(uuids) else str(uuid.uuid4())
        script.append(f"start={start}MiB, size={size}MiB, type={SLOT}, uuid={unique}")
        places.append(start * MIB)
        start += size
    made = sfdisk(sized(at, (start + 1) * MIB), "\n".join(script) + "\n")
    for place, volume in zip(places, volumes, strict=True):
        placed(made, place, volume)
    return made


def said(point: Path, backend: str = "fstab") -> str:
    (layer,) = layers(point, backend=backend)
    return "\n".join(layer["notes"])


def the_root(point: Path) -> Path:
    (name,) = os.listdir(point / "system")
    return point / "system" / name


def test_folders_are_bound_where_the_table_binds_them(tmp_path: Path) -> None:
    data = "11111111-2222-3333-4444-000000000001"
    table = [
        "UUID=1 / ext4 defaults 0 1",
        "/srv/lnk /mnt/linked none bind 0 0",  # before what it lies in
        f"UUID={data} /srv/data ext4 nofail,x-systemd.automount 0 2",
        "/srv /mnt/flat none rw,bind 0 0",
        "/srv /mnt/deep none rbind 0 0",
        "/ /mnt/all none rbind 0 0",
        "/mnt/turn/a /mnt/turn/b none bind 0 0",
        "/mnt/turn/b /mnt/turn/a none bind 0 0",
        "/nowhere /mnt/none none bind 0 0",
        "/etc/hostname /mnt/file none bind 0 0",
        "/srv /etc/hostname none bind 0 0",
        f"UUID={data} /var/with\\040space ext4 defaults 0 2",
        f"UUID={data} /run/data ext4 defaults 0 2",
        "/loop/a /mnt/loop none bind 0 0",
        "/usr/src /jail/src nullfs ro 0 0",
        "/ / none bind 0 0",
    ]
    places = ("srv/data", "srv/own", "jail/src", "usr/src/sys", "var/run/data", "var/with space", "loop")
    mounts = [f"mnt/{name}" for name in ("linked", "flat", "deep", "all", "none", "file", "loop")]
    root = unix(
        tmp_path / "root", table, *places, *mounts, "mnt/turn/a/in-a", "mnt/turn/b/in-b", srv__own__file="own"
    )
    (root / "srv/lnk").symlink_to("/srv/data/deep")
    (root / "run").symlink_to("/var/run")
    (root / "loop/a").symlink_to("/loop/b")
    (root / "loop/b").symlink_to("/loop/a")
    inner = folder(tmp_path / "data", deep__file="text")
    (inner / "deep/host").symlink_to("/etc/hostname")
    image = disk(
        tmp_path / "disk.img",
        ext(tmp_path / "1.img", root, "ext4", 8 * MIB, *SMALL),
        ext(tmp_path / "2.img", inner, "ext4", 8 * MIB, *SMALL, "-U", data),
    )
    with watched(image, at=tmp_path / "m") as point:
        top = the_root(point)
        assert (top / "srv/data/deep/file").read_text() == "text"
        assert (top / "mnt/linked/file").read_text() == "text"
        assert (top / "mnt/flat/own/file").read_text() == "own"
        assert os.listdir(top / "mnt/flat/data") == []  # what is mounted below is not bound along
        assert (top / "mnt/deep/data/deep/file").read_text() == "text"
        assert (top / "mnt/all/srv/data/deep/file").read_text() == "text"
        assert os.listdir(top / "mnt/all/mnt/all") == []
        assert (top / "var/with space/deep/file").read_text() == "text"
        assert (top / "var/run/data/deep/file").read_text() == "text"  # through a link
        assert (top / "run/data/deep/file").read_text() == "text"
        assert (top / "jail/src/sys").is_dir()
        for name in ("none", "loop", "file"):
            assert os.listdir(top / "mnt" / name) == []
        # links lead to the same file from everywhere, and stay within
        for name in (
            "srv/data/deep/host",
            "mnt/linked/host",
            "mnt/deep/data/deep/host",
            "var/run/data/deep/host",
        ):
            assert os.path.realpath(top / name) == str(top / "etc/hostname")
        places_seen = set()
        for at, folders, _ in os.walk(top):
            for one in folders:
                number = os.lstat(Path(at, one)).st_ino
                assert number not in places_seen, Path(at, one)
                places_seen.add(number)
        assert len(places_seen) < 2000
        for part in (
            "/mnt/none: bind:/nowhere is not shown there: nowhere",
            "/mnt/loop: bind:/loop/a is not shown there: links that lead on and on",
            "/mnt/file: bind:/etc/hostname is not shown there",
            "/etc/hostname: bind:/srv is not shown there",
        ):
            assert part in said(point)


def test_binds_that_double_each_other_end(tmp_path: Path) -> None:
    table = ["UUID=1 / ext4 defaults 0 1", "/a /b none bind 0 0"]
    table += [f"/ /m/{number} none rbind 0 0" for number in range(30)]
    root = unix(tmp_path / "root", table, "a", "b", *(f"m/{number}" for number in range(30)))
    with watched(ext(tmp_path / "disk.img", root, "ext4", 8 * MIB), at=tmp_path / "m") as point:
        assert (the_root(point) / "m/3/m/1/etc/hostname").read_text() == "station\n"
        assert "more than 1000 mounts" in said(point)


def test_logical_volumes_are_found_by_their_names(tmp_path: Path) -> None:
    table = [
        "/dev/mapper/vg-root / ext4 defaults 0 1",
        "/dev/vg/home /home ext4 defaults 0 2",
        "/dev/mapper/vg-my--data /data ext4 defaults 0 2",
        "/dev/disk/by-id/dm-name-vg-home /again ext4 defaults 0 2",
        "/dev/mapper/vg-swap none swap sw 0 0",
    ]
    contents = {
        "root": unix(tmp_path / "root", table, "home", "data", "again"),
        "home": folder(tmp_path / "home", who="hers"),
        "my-data": folder(tmp_path / "data", what="data"),
    }
    data = b"".join(
        ext(tmp_path / f"{name}.img", at, "ext4", 4 * MIB, *SMALL).read_bytes()
        for name, at in contents.items()
    )
    each = 4 * MIB // lvmcompose.EXTENT
    segments = {name: [lvmcompose.linear(0, each, "pv0", n * each)] for n, name in enumerate(contents)}
    image = tmp_path / "disk.img"
    text = lvmcompose.text(segments, extents=256)
    image.write_bytes(lvmcompose.member(text, data=data, size=lvmcompose.FIRST + 256 * lvmcompose.EXTENT))
    with watched(image, at=tmp_path / "m") as point:
        root = the_root(point)
        assert (root / "home/who").read_text() == (root / "again/who").read_text() == "hers"
        assert (root / "data/what").read_text() == "data"
        assert said(point) == "fstab, line 5: /dev/mapper/vg-swap is swap"


def test_of_two_volumes_of_a_name_that_of_the_same_disk_is_taken(tmp_path: Path) -> None:
    home = "11111111-2222-3333-4444-000000000002"
    images = []
    for name in ("one", "two"):
        table = [f"UUID={home} /home ext4 defaults 0 2", "LABEL=twin /twin ext4 defaults 0 2"]
        root = unix(tmp_path / f"{name}-root", table, "home", "twin")
        made = [ext(tmp_path / f"{name}1", root, "ext4", 8 * MIB, *SMALL)]
        at = folder(tmp_path / f"{name}-home", who=name)
        made.append(ext(tmp_path / f"{name}2", at, "ext4", 8 * MIB, *SMALL, "-U", home))
        made += [ext(tmp_path / f"{name}{n}", at, "ext4", 8 * MIB, *SMALL, "-L", "twin") for n in (3, 4)]
        images.append(disk(tmp_path / f"{name}.img", *made))
    with watched(*images, at=tmp_path / "m") as point:
        for name in ("one", "two"):
            root = point / "system" / f"{name}.img.01-ext"
            assert (root / "home/who").read_text() == name
            assert os.listdir(root / "twin") == []
        for layer in layers(point, backend="fstab"):
            assert any("is that of the same disk; also named so" in note for note in layer["notes"])
            assert any("/twin: label:twin names 4 volumes" in note for note in layer["notes"])


def test_subvolumes_are_found_by_path_and_by_number(tmp_path: Path) -> None:
    top = tmp_path / "top"
    table = [
        "LABEL=pool / btrfs subvol=/@ 0 0",
        "LABEL=pool /home btrfs subvol=@home 0 0",
        "LABEL=pool /number btrfs subvolid=257 0 0",
        "LABEL=pool /hex btrfs subvolid=0x100 0 0",
        "LABEL=pool /top btrfs subvol=/ 0 0",
        "LABEL=pool /chosen btrfs defaults 0 0",
        "LABEL=pool /gone btrfs subvol=@gone 0 0",
    ]
    unix(top / "@", table, "home", "number", "hex", "top", "chosen", "gone")
    folder(top / "@home", who="hers")
    (image,) = make([tmp_path / "disk.img"], "-L", "pool")
    with attached([image], tmp_path / "k") as kernel:
        for name in ("@", "@home"):
            run("btrfs", "-q", "subvolume", "create", kernel / name)
            shutil.copytree(top / name, kernel / name, dirs_exist_ok=True)
        run("btrfs", "subvolume", "set-default", kernel / "@")
    with watched(image, at=tmp_path / "m") as point:
        root = the_root(point)
        assert root.name == "disk.img.00-btrfs.@"
        assert (root / "home/who").read_text() == "hers"
        subvolumes = {"etc", "who"} & set(os.listdir(root / "number")) | {"etc", "who"} & set(
            os.listdir(root / "hex")
        )
        assert subvolumes == {"etc", "who"}
        assert set(os.listdir(root / "top")) == {"@", "@home"}
        assert (root / "chosen/etc/hostname").read_text() == "station\n"
        assert "/gone: label:pool, subvolume @gone is not among these images" in said(point)


@pytest.fixture
def crypted(tmp_path: Path) -> tuple[Path, Path]:
    """Make a disk whose home is encrypted, named by its crypttab, and the file with its key."""
    locked, key, at = formatted(tmp_path, "2")
    home = ext(tmp_path / "home.img", folder(tmp_path / "home", ann__notes="hers"), "ext4", 2 * MIB, *SMALL)
    with locked.open("r+b") as file:
        file.seek(168)
        header = file.read(40).split(b"\0")[0].decode()
        file.seek(at)
        file.write(encrypted("2", key, home.read_bytes()))
    slot = "00000000-0000-4000-8000-000000000009"
    table = [
        "UUID=1 / ext4 defaults 0 1",
        "/dev/mapper/home_crypt /home ext4 defaults 0 2",
        f"/dev/mapper/luks-{header} /luks ext4 defaults 0 2",
        "/dev/mapper/by_slot /slot ext4 defaults 0 2",
        "/dev/mapper/by_number /number ext4 defaults 0 2",
        "/home/ann /srv none bind 0 0",
    ]
    names = ["# name device key options", f"home_crypt UUID={header} none luks,discard"]
    names += [f"by_slot PARTUUID={slot} none luks", "by_number /dev/sda2 none luks", "short"]
    root = unix(
        tmp_path / "root",
        table,
        "home/below",
        "luks",
        "slot",
        "number",
        "srv",
        etc__crypttab="\n".join(names),
    )
    root_image = ext(tmp_path / "root.img", root, "ext4", 8 * MIB, *SMALL)
    image = disk(tmp_path / "disk.img", root_image, locked, uuids=(str(uuid.uuid4()), slot))
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\ntype = "password"\nvalue = "{PASSWORD.decode()}"\n')
    keys.chmod(0o600)
    return image, keys


def test_a_volume_that_is_unlocked_appears_where_the_table_has_it(
    crypted: tuple[Path, Path], tmp_path: Path
) -> None:
    image, keys = crypted
    with watched(image, at=tmp_path / "m") as point:
        root = the_root(point)
        assert os.listdir(root / "home") == ["below"]
        assert "locked here, and may hold what is missing: disk.img/02-" in said(point)
        numbers = {name: os.stat(root / name).st_ino for name in ("", "etc", "etc/hostname", "home", "srv")}
        here = os.open(root / "home/below", os.O_RDONLY)
        with (root / "etc/hostname").open() as file:
            imgfs("unlock", point, "--keys", keys)
            for name in ("home", "luks", "slot", "number"):
                assert (root / name / "ann/notes").read_text() == "hers", name
            assert (root / "srv/notes").read_text() == "hers"
            assert file.read() == "station\n"
        assert os.listdir(here) == []
        os.close(here)
        assert not (root / "home/below").exists()
        for name in ("", "etc", "etc/hostname"):
            assert os.stat(root / name).st_ino == numbers[name]
        for name in ("home", "srv"):
            assert os.stat(root / name).st_ino != numbers[name]
        text = said(point)
        assert "locked" not in text
        assert "is not among" not in text
        assert "/number: /dev/sda2 is taken for disk.img|gpt:2|luks" in text
    with watched(image, at=tmp_path / "m", options=("--keys", str(keys))) as point:
        assert (the_root(point) / "home/ann/notes").read_text() == "hers"


def test_what_an_image_inside_holds_is_a_system_once_it_was_entered(tmp_path: Path) -> None:
    home = "11111111-2222-3333-4444-000000000003"
    table = [f"UUID={home} /home ext4 defaults 0 2"]
    guest = disk(
        tmp_path / "guest.img",
        ext(tmp_path / "g1", unix(tmp_path / "g", table, "home"), "ext4", 8 * MIB, *SMALL),
        ext(tmp_path / "g2", folder(tmp_path / "gh", who="guest"), "ext4", 8 * MIB, *SMALL, "-U", home),
    )
    host = unix(tmp_path / "h", table, "home")
    (host / "guest.img").write_bytes(guest.read_bytes())
    image = ext(tmp_path / "host.img", host, "ext4", 48 * MIB)
    with watched(image, at=tmp_path / "m") as point:
        assert os.listdir(point / "system") == ["host.img.00-ext4"]
        (inner,) = (point / "host.img/00-ext4/root/guest.img@").glob("01-*/root")
        assert inner.is_dir()
        found = os.listdir(point / "system")
        assert len(found) == 2
        (name,) = set(found) - {"host.img.00-ext4"}
        (other,) = (point / "host.img/00-ext4/root/guest.img@").glob("02-*/root")
        assert os.listdir(other)
        assert (point / "system" / name / "home/who").read_text() == "guest"
        assert os.listdir(point / "system/host.img.00-ext4/home") == []  # another's volume of that name


def rows(fstab: bytes, crypttab: bytes | None = None) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    reader = MemoryReader(fstab)
    if crypttab is not None:
        reader.others = (MemoryReader(crypttab),)
    opened = discover()["fstab"].open(reader, Options())
    return [(row.what, row.where, row.tree, row.number, row.folders) for row in opened.rows], opened.notes


@pytest.mark.parametrize(
    ("line", "what", "more"),
    [
        ("UUID=abc /x ext4 defaults 0 0", "uuid:abc", ()),
        ('LABEL="a\\040b" /x ext4 defaults', "label:a b", ()),
        ("PARTUUID=1234-02 /x ext4 nofail", "partuuid:1234-02", ()),
        ("PARTLABEL=data /x", "partlabel:data", ()),
        ("/dev/disk/by-uuid/abc /x ext4", "uuid:abc", ()),
        ("/dev/disk/by-label/a\\134x20b /x ext4", "label:a b", ()),
        ("/dev/disk/by-partlabel/EFI\\x20x /x vfat", "partlabel:EFI x", ()),
        ("/dev/disk/by-partuuid/1234-02 /x vfat", "partuuid:1234-02", ()),
        ("/dev/disk/by-id/ata-X-part3 /x ext4", "dev:/dev/disk/by-id/ata-X-part3", ()),
        ("/dev/mapper/vg-a /x ext4 x-systemd.automount,noauto", "dev:/dev/mapper/vg-a", ()),
        ("/dev/mapper/c /x ext4", "luks:u1", ()),
        ("/dev/mapper/d /x ext4", "crypt:partlabel:p", ()),
        ("/dev/ufs/home /x ufs rw 2 2", "label:home", ()),
        ("/dev/gpt/home /x ufs rw 2 2", "partlabel:home", ()),
        ("UUID=a /x btrfs ro,subvol=/@/b,compress", "uuid:a", ("@/b", 0)),
        ("UUID=a /x btrfs subvolid=0", "uuid:a", ("", 5)),
        (
            "overlay /x overlay lowerdir=/a:/b,upperdir=/u,workdir=/w",
            "overlay:overlay",
            ("", 0, (b"/u", b"/a", b"/b")),
        ),
    ],
)
def test_lines_are_read_as_their_manuals_say(line: str, what: str, more: tuple[object, ...]) -> None:
    found, notes = rows(line.encode(), b"c UUID=u1\nd PARTLABEL=p - luks\n")
    assert not notes
    wanted = (what, b"/x", *more)
    assert found[0][: len(wanted)] == wanted


def test_a_damaged_crypttab_costs_its_names_only() -> None:
    found, notes = rows(b"/dev/mapper/c /x ext4\nUUID=a /y ext4\n", b"c UUID=u1\0")
    assert [row[0] for row in found] == ["dev:/dev/mapper/c", "uuid:a"]
    assert "crypttab" in notes[0]
