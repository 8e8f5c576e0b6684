"""Device-mapper tables: every target reads as the kernel read it, and what is missing is lost."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from imgfs.backends import Options
from imgfs.backends.dmtable import open_dmtable
from imgfs.errors import EvidenceError, NotSupported
from imgfs.testing.fakes import MemoryReader
from imgfs.worker import checks, wire
from tests.backends import dmimages
from tests.mounts import imgfs, mounted

SECTOR = 512


class Named(MemoryReader):
    """A member that has a name, and a table for the reply."""

    def __init__(self, data: bytes, name: str = "", others: tuple[Named, ...] = ()) -> None:
        super().__init__(data)
        self.name = name
        self.others = others
        self.table = b""

    def write_table(self, chunks) -> int:
        self.table = b"".join(chunks)
        return len(self.table)


def opened(text: str, **files: bytes):
    members = tuple(Named(data, f"{name}.img") for name, data in files.items())
    reader = Named(text.encode(), "t.dm", members)
    media = open_dmtable(reader, Options())
    sizes = [reader.size, *(member.size for member in members)]
    checks.check_opened(wire.OpenReply(opened=media, table=len(reader.table) or -1), sizes)
    return media


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dm")
    table, digests = dmimages.load(folder)
    return folder, table, digests


DEVICES = ["line", "dealt", "sealed", "large", "old", "thin", "five", "six", "both"]


def up_to(table: str, device: str) -> str:
    """Return the lines of a table as far as those of a device."""
    lines = table.splitlines()
    last = max(at for at, line in enumerate(lines) if line.startswith(f"{device}:"))
    return "\n".join(lines[: last + 1]) + "\n"


def test_every_device_reads_as_the_kernel_read_it(recorded, tmp_path: Path) -> None:
    folder, table, digests = recorded
    assert sorted(digests) == sorted(DEVICES)
    for device in DEVICES:
        path = folder / f"{device}.dm"
        path.write_text(up_to(table, device))
        point = tmp_path / device
        imgfs("map", path, point)
        try:
            data = (point / path.name / "disk.raw").read_bytes()
        finally:
            imgfs("umount", point)
        assert hashlib.sha256(data).hexdigest() == digests[device], device


def test_what_info_prints_makes_the_same_volume(recorded, tmp_path: Path) -> None:
    """A round trip: the bytes of a device, its table as imgfs composes it, the bytes of that table."""
    folder, table, digests = recorded
    path = folder / "again.dm"
    for device in ("line", "dealt", "sealed", "large", "old", "thin", "both"):
        path.write_text(up_to(table, device))
        with mounted(path, at=tmp_path / f"one-{device}", options=("--type", "dmtable")) as point:
            data = (point / path.name / "disk.raw").read_bytes()
        printed = imgfs("info", "--type", "dmtable", "--dm", "--show-keys", path).stdout
        again = folder / f"printed-{device}.dm"
        again.write_text(printed)
        imgfs("map", again, tmp_path / f"two-{device}")
        try:
            read = (tmp_path / f"two-{device}" / again.name / "disk.raw").read_bytes()
        finally:
            imgfs("umount", tmp_path / f"two-{device}")
        assert read == data
        assert hashlib.sha256(data).hexdigest() == digests[device]


@pytest.mark.parametrize("seed", range(30))
def test_random_tables_are_what_they_say(seed: int) -> None:
    """Linear, zero and error over files and devices, against a table of (file, sector) for every sector."""
    rng = random.Random(seed)
    files = dict.fromkeys("abc", 64)
    devices: dict[str, list[tuple[str, int] | int | None]] = {}
    lines = []
    for number in range(rng.randint(1, 4)):
        name, at, content = f"d{number}", 0, []
        for _ in range(rng.randint(1, 6)):
            length = rng.randint(1, 16)
            kind = rng.choice(["linear", "linear", "linear", "zero", "error"])
            if kind == "linear":
                source = rng.choice([*files, *devices])
                size = files.get(source, 0) or len(devices[source])
                start = rng.randrange(size)
                length = min(length, size - start)
                word = f"{source}.img" if source in files else f"/dev/mapper/{source}"
                lines.append(f"{name}: {at} {length} linear {word} {start}")
                content += (
                    [(source, start + i) for i in range(length)]
                    if source in files
                    else devices[source][start : start + length]
                )
            else:
                lines.append(f"{name}: {at} {length} {kind}")
                content += [0 if kind == "zero" else None] * length
            at += length
        devices[name] = content
    data = {name: random.Random(name).randbytes(64 * SECTOR) for name in files}
    media = opened("\n".join(lines), **data)
    from imgfs.block.build import build
    from imgfs.block.memory import Memory
    from tests.block.stacks import resolve

    text = "\n".join(lines).encode()
    source = build(media.layouts, [Memory(text), *map(Memory, data.values())], "t")
    expected: list[int] = []
    for sector in devices[name]:
        if sector is None:
            expected += [-1] * SECTOR
        elif sector == 0:
            expected += [0] * SECTOR
        else:
            file, number = sector
            expected += data[file][number * SECTOR : (number + 1) * SECTOR]
    assert resolve(source.plan(0, source.size)) == expected


def test_a_missing_file_is_asked_for_and_its_range_lost() -> None:
    media = opened("0 8 linear a.img 0\n8 8 linear gone.img 0\n", a=bytes(8 * SECTOR))
    assert media.wants == ("gone.img",)
    assert [(start, stop) for start, stop, _ in media.lost] == [(8 * SECTOR, 16 * SECTOR)]
    assert any("gone.img" in note for note in media.notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "0 8\n",
        "0 0 zero\n",
        "8 8 zero\n",
        "0 8 zero\n4 8 zero\n",
        "0 -8 zero\n",
        "0 8 linear a.img\n",
        "0 8 linear a.img -1\n",
        "0 8 linear a.img x\n",
        "0 8 striped 0 8\n",
        "0 8 striped 3 8 a.img 0 a.img 0 a.img 0\n",
        "0 8 crypt aes-xts-plain64 00 0 a.img 0\n",
        "0 8 crypt aes-xts-plain64 zz 0 a.img 0\n",
        "0 8 raid raid5_ls 1 8 999999 - a.img\n",
        "0 8 raid raid9 1 8 3 - a.img - a.img - a.img\n",
        "0 8 snapshot a.img a.img N 8\n",
        "0 8 thin a.img 1\n",
        "0 8 thin-pool a.img a.img 128 0\n1: 0 8 thin x 1\n",
        "0 8 multipath 0\n",
        "0 99999999999999999999 zero\n",
        "a: 0 8 linear /dev/mapper/a 0\n",
        "\udcff",
    ],
)
def test_what_is_no_table_is_refused(text: str) -> None:
    try:
        media = opened(text.encode("utf-8", "surrogateescape").decode("latin-1"), a=bytes(64 * SECTOR))
    except (EvidenceError, NotSupported):
        return
    except ValueError:  # what checks find: a claim that the daemon refuses
        pytest.fail("the back-end answered with what cannot be")
    assert media.lost or media.wants, "nothing was said"


def test_names_of_files_elsewhere_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret!!" * 1024)
    case = tmp_path / "case"
    case.mkdir()
    table = case / "t.dm"
    for word in ("../secret", str(tmp_path / "secret"), "/etc/passwd"):
        table.write_text(f"0 8 linear {word} 0\n")
        imgfs("map", table, tmp_path / "m")
        try:
            with pytest.raises(OSError):
                (tmp_path / "m" / table.name / "disk.raw").read_bytes()
        finally:
            imgfs("umount", tmp_path / "m")


@pytest.mark.parametrize(
    ("words", "step"), [("1 sector_size:4096", 8), ("2 sector_size:4096 iv_large_sectors", 1)]
)
def test_the_offset_of_vectors_counts_512_bytes_always(tmp_path: Path, words: str, step: int) -> None:
    """dm-crypt.rst: sectors of 4,096 bytes are numbered by 8 or, when large, by 1; the offset never is."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    rng = random.Random(step)
    key, plain, offset = rng.randbytes(64), rng.randbytes(4 * 4096), 16
    first = offset if step == 8 else offset // 8
    stored = b""
    for number in range(4):
        mode = modes.XTS((first + number * step).to_bytes(16, "little"))
        encryptor = Cipher(algorithms.AES(key), mode).encryptor()
        stored += encryptor.update(plain[number * 4096 : (number + 1) * 4096])
    case = tmp_path / "case"
    case.mkdir()
    (case / "a.img").write_bytes(stored)
    table = case / "t.dm"
    for _ in range(2):  # as written, then as imgfs prints it
        table.write_text(
            table.read_text()
            if table.exists()
            else f"0 32 crypt aes-xts-plain64 {key.hex()} 16 a.img 0 {words}\n"
        )
        imgfs("map", table, tmp_path / "m")
        try:
            assert (tmp_path / "m" / table.name / "disk.raw").read_bytes() == plain
        finally:
            imgfs("umount", tmp_path / "m")
        printed = imgfs("info", "--type", "dmtable", "--dm", "--show-keys", table).stdout
        assert f" {offset} a.img 0 {words}" in printed
        table.write_text(printed)


def test_a_cipher_that_the_kernel_has_not_is_never_printed_as_another() -> None:
    from imgfs.block.dmtable import _spelled
    from imgfs.model import Codec

    key = bytes(range(32))
    for digest in ("sha256", "sha1"):
        under = hashlib.new(digest, key).digest()
        spelled = _spelled(Codec("aes-cbc", {"key": key, "iv": b"essiv", "ivkey": under}))
        assert spelled == (f"aes-cbc-essiv:{digest}", key)
    for name, iv in (("aes-cbc", b"essiv"), ("aes-cbc", b"tcw"), ("aes-elephant", b"eboiv")):
        assert _spelled(Codec(name, {"key": key, "iv": iv, "ivkey": bytes(32)})) == ("", b"")


def test_what_is_no_table_is_not_mounted(tmp_path: Path) -> None:
    case = tmp_path / "case"
    case.mkdir()
    for text, code in (("not a table\n", 6), ("0 8 multipath 0\n", 5)):
        (case / "t.dm").write_text(text)
        done = imgfs("map", case / "t.dm", tmp_path / "m", check=False)
        assert done.returncode == code
        assert "line 1" in done.stderr
        assert not (tmp_path / "m").exists()
