"""Laws of installed systems: volumes are where their own tables say, and links lead as they did there."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import ImgfsError
from imgfs.testing.fakes import MemoryReader
from tests.hives import hive
from tests.mounts import imgfs
from tests.peers import layers, watched
from tests.recipes import ext, fat, sfdisk, sized

MIB = 1 << 20
ROOT = "11111111-2222-3333-4444-555555555555"
HOME = "66666666-7777-8888-9999-aaaaaaaaaaaa"
SLOT = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def folder(at: Path, **files: str) -> Path:
    """Make a folder; names have ``__`` for a slash."""
    for name, text in files.items():
        path = at / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    at.mkdir(exist_ok=True)
    return at


def placed(disk: Path, start: int, volume: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(start)
        file.write(volume.read_bytes())


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """Make a GPT disk: an ESP, a root whose fstab names the others in several ways, home, log and srv."""
    lines = [
        "# a comment",
        f"UUID={ROOT} / ext4 errors=remount-ro 0 1",
        f'UUID="{HOME}" /home ext4 defaults 0 2',
        "LABEL=var\\040log /var/log ext4 defaults 0 2",
        "PARTUUID=00000000-0000-4000-8000-000000000005 /srv ext4 defaults 0 2",
        "/dev/sda1 /boot/efi vfat umask=0077 0 1",
        "/dev/sdb7 /media/other ext4 defaults 0 2",
        "UUID=deadbeef-0000-0000-0000-000000000000 /gone ext4 defaults 0 2",
        "/home /export none bind 0 0",
        "server:/pub /pub nfs ro 0 0",
        "tmpfs /tmp tmpfs defaults 0 0",
        "/dev/sda9 none swap sw 0 0",
        f"UUID={HOME} /etc/hostname ext4 defaults 0 2",
        "broken",
    ]
    root = folder(tmp_path / "root", etc__fstab="\n".join(lines), etc__hostname="station\n", home__hidden="x")
    for name in ("var/log", "srv", "boot/efi", "media/other", "gone", "export", "pub", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "var/log/hidden").write_text("below the mount")
    home = folder(tmp_path / "home", ann__notes="hers")
    (home / "ann/host").symlink_to("/etc/hostname")
    (home / "ann/up").symlink_to("../../etc/hostname")
    (home / "ann/log").symlink_to("/var/log/deep/messages")
    log = folder(tmp_path / "log", deep__messages="boot")
    (log / "deep/back").symlink_to("/home/ann/notes")
    disk = sfdisk(
        sized(tmp_path / "disk.img", 64 * MIB),
        "label: gpt\n"
        "start=1MiB, size=8MiB, type=uefi\n"
        f"start=9MiB, size=8MiB, type={SLOT}\n"
        f"start=17MiB, size=8MiB, type={SLOT}\n"
        f"start=25MiB, size=8MiB, type={SLOT}\n"
        f"start=33MiB, size=8MiB, type={SLOT}, uuid=00000000-0000-4000-8000-000000000005\n",
    )
    efi = fat(tmp_path / "efi.img", folder(tmp_path / "efi", grub__cfg="menu"), 12, 4 * MIB)
    placed(disk, MIB, efi)
    for start, source, options in (
        (9, root, ("-U", ROOT)),
        (17, home, ("-U", HOME)),
        (25, log, ("-L", "var log")),
        (33, folder(tmp_path / "srv", web__index="page"), ()),
    ):
        placed(disk, start * MIB, ext(tmp_path / f"{start}.img", source, "ext4", 8 * MIB, *options))
    return disk


def test_a_machine_has_its_own_root(linux: Path, tmp_path: Path) -> None:
    with watched(linux, at=tmp_path / "m") as point:
        assert "system" not in os.listdir(point)
        (name,) = os.listdir(point / "system")
        assert name == "disk.img.02-ext"
        root = point / "system" / name
        assert (root / "etc/hostname").read_text() == "station\n"
        assert (root / "home/ann/notes").read_text() == "hers"
        assert not (root / "home/hidden").exists()
        assert (root / "var/log/deep/messages").read_text() == "boot"
        assert os.listdir(root / "var") == ["log"]
        assert (root / "srv/web/index").read_text() == "page"
        assert (root / "boot/efi/grub/cfg").read_text() == "menu"
        assert os.listdir(root / "gone") == []
        assert os.listdir(root / "export") == os.listdir(root / "home")
        assert (root / "export/ann/log").read_text() == "boot"
        # links lead where they led on that machine, through the mounts, and cannot leave it
        for link in ("home/ann/host", "home/ann/up"):
            assert (root / link).read_text() == "station\n"
            assert os.path.realpath(root / link) == str(root / "etc/hostname")
        assert (root / "home/ann/log").read_text() == "boot"
        assert (root / "var/log/deep/back").read_text() == "hers"
        # what walks it and what asks for names sees the same, and every place has a number of its own
        walked = {str(Path(at, name).relative_to(root)) for at, _, files in os.walk(root) for name in files}
        assert "home/ann/notes" in walked
        assert "home/hidden" not in walked
        for at, folders, _ in os.walk(root):
            for row in os.scandir(at):
                assert row.inode() == os.lstat(row.path).st_ino
            assert len({os.lstat(Path(at, one)).st_ino for one in folders}) == len(folders)
        # the volumes themselves are as they are
        (volume,) = point.glob("*/02-*/root")
        assert os.listdir(volume / "home") == ["hidden"]
        assert (volume / "var/log/hidden").read_text() == "below the mount"
        (layer,) = layers(point, backend="fstab")
        said = "\n".join(layer["notes"])
        for part in (
            "/gone: uuid:deadbeef-0000-0000-0000-000000000000 is not among these images",
            "/media/other: dev:/dev/sdb7 is not among these images",
            "/boot/efi: /dev/sda1 is taken for disk.img|gpt:1|fat, by its number alone",
            "tmp is kept in memory (tmpfs)",
            "/dev/sda9 is swap",
            "/pub comes from server:/pub, over a network",
            "/etc/hostname: uuid:",
            "line 14: no mount point",
        ):
            assert part in said
        assert len(layer["members"]) == 5


def test_it_is_listed_on_demand_and_absent_without_a_system(linux: Path, tmp_path: Path) -> None:
    with watched(linux, at=tmp_path / "m", options=("-o", "system=list")) as point:
        assert "system" in os.listdir(point)
        assert "fstab" in os.listdir(next((point / "system").iterdir()) / "etc")
    empty = ext(tmp_path / "none.img", folder(tmp_path / "none", file="x"), "ext4", 8 * MIB)
    with watched(empty, at=tmp_path / "m") as point:
        assert os.listdir(point / "system") == []
        assert "no installed system" in imgfs("ls", f"{empty}:system", check=False).stderr
        with pytest.raises(FileNotFoundError):
            os.stat(point / "system" / "any")
        assert next(point.glob("*/*/root/file")).read_text() == "x"


def test_an_image_of_that_name_gets_another(tmp_path: Path) -> None:
    image = ext(tmp_path / "system", folder(tmp_path / "f", file="x"), "ext4", 8 * MIB)
    with watched(image, at=tmp_path / "m") as point:
        assert (point / "system~2/00-ext4/root/file").read_text() == "x"


def windows(tmp_path: Path, values: dict[str, bytes]) -> Path:
    """Make an MBR disk with two FAT volumes, the first of which holds a Windows."""
    system = tmp_path / "c/Windows/System32/config"
    system.mkdir(parents=True)
    (system / "SYSTEM").write_bytes(hive("MountedDevices", values))
    (tmp_path / "c/boot.txt").write_text("c")
    disk = sfdisk(
        sized(tmp_path / "disk.img", 32 * MIB),
        "label: dos\nlabel-id: 0x1234abcd\nstart=1MiB, size=8MiB, type=c\nstart=9MiB, size=8MiB, type=c\n",
    )
    placed(disk, MIB, fat(tmp_path / "c.img", tmp_path / "c", 12, 8 * MIB))
    placed(disk, 9 * MIB, fat(tmp_path / "d.img", folder(tmp_path / "d", data="d"), 12, 8 * MIB))
    return disk


def test_a_windows_has_its_drives(tmp_path: Path) -> None:
    values = {
        "\\DosDevices\\C:": struct.pack("<IQ", 0x1234ABCD, MIB),
        "\\DosDevices\\D:": struct.pack("<IQ", 0x1234ABCD, 9 * MIB),
        "\\DosDevices\\E:": struct.pack("<IQ", 0xFFFFFFFF, 9 * MIB),
        "\\DosDevices\\A:": "\\??\\FDC#GENERIC_FLOPPY".encode("utf-16-le"),
        "\\??\\Volume{00000000-0000-0000-0000-000000000000}": struct.pack("<IQ", 0x1234ABCD, MIB),
    }
    with watched(windows(tmp_path, values), at=tmp_path / "m") as point:
        (name,) = os.listdir(point / "system")
        drives = point / "system" / name
        assert sorted(os.listdir(drives)) == ["C", "D"]
        assert (drives / "C/boot.txt").read_text() == "c"
        assert (drives / "D/data").read_text() == "d"
        (layer,) = layers(point, backend="drives")
        assert any("E: mbr:ffffffff" in note for note in layer["notes"])
        assert "A: is no volume of a disk" in layer["notes"]


def test_a_hive_is_read_as_hivex_reads_it(tmp_path: Path) -> None:
    guid = UUID("01234567-89ab-cdef-0123-456789abcdef")
    values = {
        "\\DosDevices\\C:": b"DMIO:ID:" + guid.bytes_le,
        "\\DosDevices\\D:": struct.pack("<IQ", 1, 1 << 40),
    }
    data = hive("MountedDevices", values, written=(2, 1))
    (tmp_path / "SYSTEM").write_bytes(data)
    if shutil.which("hivexget") is None:
        pytest.fail("hivexget is of libhivex-bin, a package of ./dev")
    said = subprocess.run(
        ["hivexget", tmp_path / "SYSTEM", "MountedDevices"], capture_output=True, text=True, check=True
    ).stdout
    for name, value in values.items():
        hexed = ",".join(f"{byte:02x}" for byte in value)
        assert f'"{name}"=hex(3):{hexed}'.replace("\\", "\\\\") in said
    opened = discover()["drives"].open(MemoryReader(data), Options())
    assert [tuple(row) if isinstance(row, tuple) else (row.what, row.where) for row in opened.rows] == [
        (f"partuuid:{guid}", b"C"),
        (f"mbr:00000001:{1 << 40}", b"D"),
    ]
    assert opened.notes


@pytest.mark.parametrize("backend", ["fstab", "drives", "persistence"])
def test_damaged_tables_are_refused_or_read_and_nothing_else(backend: str) -> None:
    import random

    rng = random.Random(backend)
    good = {
        "fstab": b"UUID=1 / ext4 defaults 0 1\nLABEL=a\\040b /home ext4 subvol=/@home,ro 0 2\n" * 5,
        "drives": hive("MountedDevices", {"\\DosDevices\\C:": struct.pack("<IQ", 1, MIB)}),
        "persistence": b"/ union\n/home bind,source=a/b\n/srv union,source=x\n# all\n" * 5,
    }[backend]
    reads = 0
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(4096 + 700 if backend == "drives" else len(data))
            data[at] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        try:
            opened = discover()[backend].open(MemoryReader(bytes(data)), Options())
        except ImgfsError:
            continue
        reads += 1
        assert all(isinstance(row.what, str) and isinstance(row.where, bytes) for row in opened.rows)
    assert reads
