"""BitLocker: volumes composed from a known key, and what bdemount and dislocker make of the same."""

from __future__ import annotations

import random
import subprocess
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgfs.backends import Options, _bde_keys
from imgfs.backends.bitlocker import KINDS, open_bitlocker
from imgfs.block.batches import decode_unit
from imgfs.block.build import build_all
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, Lost, StoredUnit, Zeros
from imgfs.errors import EvidenceError, Malformed, NeedKey, NotMine, NotSupported
from imgfs.model import Secret
from imgfs.testing.fakes import MemoryReader
from imgfs.worker import checks, wire
from tests.backends.bdeimages import (
    MASTER,
    METHODS,
    MIB,
    PASSWORD,
    RECOVERY,
    Volume,
    ntfs_like,
    startup_file,
)
from tests.mounts import mounted

QUICK = 1000  # rounds, where no other program has to open it
LOST = b"\xee"


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(_bde_keys, "ROUNDS", QUICK)


def opened(image: bytes, *keys: Secret):
    reader = MemoryReader(image)
    table = open_bitlocker(reader, Options(keys=keys))
    checks.check_opened(wire.OpenReply(opened=table, table=len(reader.table) or -1), [reader.size])
    return table


def content(image: bytes, table, start: int = 0, stop: int = -1) -> bytes:
    """Read a volume; what is lost as a byte that says so."""
    source = build_all(table.layouts, [Memory(image)], "x")[table.volumes[0].layout]
    out = []
    for piece in source.plan(start, source.size if stop < 0 else stop):
        match piece:
            case Zeros(n):
                out.append(bytes(n))
            case Lost(n, _):
                out.append(LOST * n)
            case Bytes(data, offset, n):
                out.append(bytes(data[offset : offset + n]))
            case Coded(unit, skip, n):
                assert isinstance(unit, StoredUnit)
                stored = b"".join(p.data[p.offset : p.offset + p.length] for p in unit.pieces)
                out.append(bytes(decode_unit(unit, memoryview(stored))[skip : skip + n]))
    return b"".join(out)


def same(image: bytes, table, volume: Volume, plain: bytes) -> bool:
    mine, truth = content(image, table), volume.shown(plain)
    if volume.eow:
        at = volume.size - 2 * MIB
        mine = mine[:at] + b"?" * 16384 + mine[at + 16384 :]
    return mine == truth


SECRETS = {
    "password": Secret("password", PASSWORD.encode()),
    "recovery": Secret("recovery", RECOVERY.encode()),
    "keyfile": Secret("keyfile", startup_file()),
    "master": Secret("volume-key", MASTER),
}


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("method", METHODS)
def test_every_key_gives_what_was_encrypted(quick, method, sector) -> None:
    volume = Volume(size=2 * MIB, method=method, sector=sector, rounds=QUICK)
    plain = ntfs_like(volume.size, method)
    image = volume.image(plain)
    key = volume.key
    if method == "cbc-128-diffuser":  # said without the room that the metadata gives it
        key = key[:16] + key[32:48]
    for secret in (*SECRETS.values(), Secret("volume-key", key)):
        table = opened(image, Secret("password", b"wrong"), Secret("volume-key", bytes(16)), secret)
        assert not table.notes
        assert table.uuid == str(uuid.UUID(int=77))
        assert table.label == volume.label
        assert [row.kind for row in table.protectors] == ["password", "recovery", "keyfile"]
    assert same(image, table, volume, plain)


@pytest.mark.parametrize(
    "volume",
    [
        Volume(size=3 * MIB, to_go=True, rounds=QUICK),
        Volume(size=3 * MIB, state=5, encrypted=2 * MIB + 512 * 40, rounds=QUICK),
        Volume(size=3 * MIB, state=2, encrypted=MIB // 2, rounds=QUICK),
        Volume(size=3 * MIB, vista=True, method="cbc-128-diffuser", kinds=(0x800,), rounds=QUICK),
        Volume(size=3 * MIB, eow={3: False, 4: False, 5: False, 11: False}, state=2, rounds=QUICK),
    ],
    ids=["to go", "being decrypted", "being encrypted", "vista", "encrypted when written to"],
)
def test_each_kind_of_volume_is_read(quick, volume) -> None:
    plain = ntfs_like(volume.size, "kinds")
    if volume.encrypted >= 0:
        volume.encrypted -= volume.encrypted % 4096
    image = volume.image(plain)
    for name in ("recovery",) if volume.vista else SECRETS:
        table = opened(image, SECRETS[name])
        assert same(image, table, volume, plain), name
    if volume.state != 4:
        assert any("under way" in note for note in table.notes)


def test_a_suspended_volume_opens_without_a_key() -> None:
    volume = Volume(size=2 * MIB, kinds=(0x100, 0))
    plain = ntfs_like(volume.size, "clear")
    image = volume.image(plain)
    table = opened(image)
    assert same(image, table, volume, plain)
    assert [(row.kind, row.cost) for row in table.protectors] == [("tpm", "needs the machine"), ("clear", "")]
    assert any("suspended" in note for note in table.notes)


def test_a_decrypted_volume_needs_no_key() -> None:
    volume = Volume(size=2 * MIB, state=1, encrypted=0)
    plain = ntfs_like(volume.size, "decrypted")
    image = volume.image(plain)
    assert same(image, opened(image), volume, plain)


def test_without_a_key_that_fits_it_says_what_would(quick) -> None:
    image = Volume(size=2 * MIB, rounds=QUICK).image(ntfs_like(2 * MIB, "x"))
    wrong = (
        Secret("password", b"wrong"),
        Secret("recovery", b"000000-" * 7 + b"000011"),
        Secret("volume-key", bytes(32)),
        Secret("keyfile", b"wrong" * 50),
    )
    for keys in ((), wrong):
        with pytest.raises(NeedKey) as need:
            opened(image, *keys)
        assert need.value.kinds == KINDS
        assert [row[1] for row in need.value.protectors] == ["password", "recovery", "keyfile"]
        assert "wrong" not in str(need.value)
    with pytest.raises(NeedKey, match="multiples of 11"):
        opened(image, Secret("recovery", b"000000-" * 7 + b"000012"))


def test_any_intact_copy_of_the_metadata_serves(quick) -> None:
    volume = Volume(size=2 * MIB, rounds=QUICK)
    plain = ntfs_like(volume.size, "copies")
    image = volume.image(plain)
    for kept in range(3):
        broken = bytearray(image)
        for number, at in enumerate(volume.at):
            if number != kept:
                broken[at + 100] ^= 1
        table = opened(bytes(broken), SECRETS["master"])
        assert table.notes or kept == 0
        assert same(bytes(broken), table, volume, plain)
    for at in volume.at:
        broken[at : at + 512] = bytes(512)
    with pytest.raises(Malformed, match=r"checksum|no metadata"):
        opened(bytes(broken), SECRETS["master"])


def test_metadata_that_nobody_signed_is_told(quick) -> None:
    """Anybody can make a CRC-32: what the master key signed is compared, too."""
    import struct
    import zlib

    volume = Volume(size=2 * MIB, rounds=QUICK)
    image = bytearray(volume.image(ntfs_like(volume.size, "signed")))
    for at in volume.at:
        size = struct.unpack_from("<H", image, at + 8)[0] * 16
        image[at + 64 + 40] ^= 1  # a time
        struct.pack_into("<I", image, at + size + 4, zlib.crc32(image[at : at + size]))
    assert any("signed" in note for note in opened(bytes(image), SECRETS["master"]).notes)


def test_a_map_of_blocks_that_is_damaged_loses_what_it_speaks_of(quick) -> None:
    volume = Volume(size=3 * MIB, eow={3: False}, rounds=QUICK)
    plain = ntfs_like(volume.size, "map")
    image = bytearray(volume.image(plain))
    at = volume.size - 2 * MIB
    image[at + 20] ^= 1  # the first descriptor: there is another
    assert same(bytes(image), opened(bytes(image), SECRETS["master"]), volume, plain)
    for place in (512, 1024):
        image[at + 8192 + place + 40] ^= 1
    table = opened(bytes(image))  # nothing is known to be encrypted: no key is asked for
    assert any("is lost" in note for note in table.notes)
    assert set(content(bytes(image), table)) == {0, LOST[0]}


def test_an_image_that_ends_early_loses_the_rest(quick) -> None:
    volume = Volume(size=3 * MIB, rounds=QUICK)
    plain = ntfs_like(volume.size, "short")
    image = volume.image(plain)[: 2 * MIB + 100]
    table = opened(image, SECRETS["master"])
    assert table.volumes[0].stop == volume.size
    shown = volume.shown(plain)[: 2 * MIB] + LOST * MIB
    assert content(image, table) == shown
    assert any("ends" in note for note in table.notes)


def test_an_image_that_ends_within_its_metadata_says_what_it_needs() -> None:
    """As blkid's sample does: the first copy is there but for its checksum."""
    volume = Volume(size=3 * MIB, kinds=(0x2000,), rounds=QUICK)
    image = volume.image(ntfs_like(volume.size, "cut"))
    at = volume.at[0]
    size = int.from_bytes(image[at + 8 : at + 10], "little") * 16
    with pytest.raises(NeedKey) as need:
        opened(image[: at + size])
    assert [row[1] for row in need.value.protectors] == ["password"]
    table = opened(image[: at + size], SECRETS["master"])
    assert any("checksum" in note for note in table.notes)
    with pytest.raises(Malformed):
        opened(image[: at + size - 1])


@pytest.mark.parametrize(
    "volume",
    [
        Volume(size=2 * MIB, rounds=QUICK),
        Volume(size=3 * MIB, eow={3: False}, rounds=QUICK),
        Volume(size=2 * MIB, vista=True, rounds=QUICK),
    ],
    ids=["7", "eow", "vista"],
)
def test_mutated_metadata_is_refused_or_gives_the_same(quick, volume) -> None:
    plain = ntfs_like(volume.size, "mutants")
    image = volume.image(plain)
    good = opened(image, SECRETS["master"])
    rng = random.Random(7)
    areas = [(0, 512), *((at, at + 1200) for at in volume.at)]
    if volume.eow:
        areas += [(volume.size - 2 * MIB, volume.size - 2 * MIB + 64), (volume.size - 2 * MIB + 8192,) * 2]
    for _ in range(200):
        mutant = bytearray(image)
        for _ in range(rng.randrange(1, 4)):
            start, stop = rng.choice(areas)
            spot = rng.randrange(start, max(stop, start + 1600))
            mutant[spot : spot + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4)])
        try:
            table = opened(bytes(mutant), SECRETS["master"])
        except (NeedKey, NotMine, NotSupported, EvidenceError):
            continue
        if mutant[:512] == image[:512] and volume.state == 4 and not volume.vista and not volume.eow:
            assert table.layouts == good.layouts


@contextmanager
def peer(*command: str | Path, at: Path):
    at.mkdir(exist_ok=True)
    done = subprocess.run([*map(str, command), str(at)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    try:
        yield at
    finally:
        subprocess.run(["fusermount", "-u", str(at)], check=True)


@pytest.mark.parametrize("method", ["cbc-128", "cbc-256", "cbc-128-diffuser", "cbc-256-diffuser", "xts-128"])
def test_bdemount_shows_the_same(tmp_path, method) -> None:
    volume = Volume(size=2 * MIB, method=method, kinds=(0x2000, 0x800))
    plain = ntfs_like(volume.size, method)
    image = volume.image(plain)
    path = tmp_path / "v.img"
    path.write_bytes(image)
    with peer("bdemount", "-r", RECOVERY, path, at=tmp_path / "m") as root:
        theirs = (root / "bde1").read_bytes()
    assert len(theirs) in (volume.size, volume.size - 512)  # it takes NTFS's word for the size
    mine = content(image, opened(image, SECRETS["recovery"]))
    assert mine[: len(theirs)] == theirs


@pytest.mark.parametrize(
    "volume",
    [
        Volume(size=3 * MIB, to_go=True, kinds=(0x800,)),
        Volume(size=3 * MIB, state=5, encrypted=2 * MIB, kinds=(0x800,)),
    ],
    ids=["to go", "being decrypted"],
)
def test_bdemount_shows_the_same_of_other_kinds(tmp_path, volume) -> None:
    image = volume.image(ntfs_like(volume.size, "kinds"))
    path = tmp_path / "v.img"
    path.write_bytes(image)
    with peer("bdemount", "-r", RECOVERY, path, at=tmp_path / "m") as root:
        theirs = (root / "bde1").read_bytes()
    assert len(theirs) in (volume.size, volume.size - 512)
    assert content(image, opened(image, SECRETS["recovery"]))[: len(theirs)] == theirs


@pytest.mark.parametrize("method", ["cbc-256-diffuser", "xts-256"])
def test_dislocker_shows_the_same(tmp_path, method) -> None:
    volume = Volume(size=2 * MIB, method=method, kinds=(0x2000, 0x800))
    plain = ntfs_like(volume.size, method)
    image = volume.image(plain)
    path = tmp_path / "v.img"
    path.write_bytes(image)
    with peer("dislocker-fuse", "-V", path, f"-u{PASSWORD}", "--", at=tmp_path / "m") as root:
        theirs = (root / "dislocker-file").read_bytes()
    assert content(image, opened(image, SECRETS["password"])) == theirs


def test_a_mounted_volume_is_read_through_its_cipher(tmp_path) -> None:
    """The whole way: a FAT file system in BitLocker To Go in a file, mounted with a start-up key."""
    volume = Volume(size=4 * MIB, method="cbc-128-diffuser", to_go=True, kinds=(0x200,))
    fat = tmp_path / "x.fat"
    subprocess.run(
        ["mkfs.fat", "-C", "-n", "SECRET", "-R", str((2 * MIB) // 512), fat, "4096"],
        check=True,
        capture_output=True,
    )
    text = tmp_path / "hello.txt"
    text.write_bytes(b"in the safe\n" * 5000)
    subprocess.run(["mcopy", "-i", fat, text, "::hello.txt"], check=True)
    path = tmp_path / "togo.img"
    path.write_bytes(volume.image(fat.read_bytes()))
    (tmp_path / "key.BEK").write_bytes(startup_file())
    keys = tmp_path / "keys.toml"
    keys.write_text('[[key]]\ntype = "keyfile"\nvalue = "key.BEK"\n')
    keys.chmod(0o600)
    (tmp_path / "m").mkdir()
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        disk = next(p for p in root.iterdir() if not p.name.startswith("."))
        assert (disk / "00-bitlocker" / "volume.raw").stat().st_size == 4 * MIB
        assert next(disk.glob("00-bitlocker.*/root/hello.txt")).read_bytes() == text.read_bytes()
