"""LUKS against cryptsetup: it formats plain files, says the volume key, and the test encrypts with it."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imgfs.backends import Options
from imgfs.backends.luks import open_luks
from imgfs.block.batches import decode_unit
from imgfs.block.build import build_all
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, StoredUnit
from imgfs.errors import EvidenceError, Malformed, NeedKey, NotMine, NotSupported
from imgfs.model import Secret
from imgfs.testing.fakes import MemoryReader
from imgfs.worker import checks, wire
from tests.mounts import mounted

MIB = 1 << 20
PASSWORD = b"correct horse"
SECTORS = {"2-4096": 4096, "2-argon2i": 1024}
KEY = bytes(random.Random(1).randbytes(4096))
FAST = ["--pbkdf-force-iterations", "1000", "--pbkdf", "pbkdf2"]
ARGON = [
    "--pbkdf",
    "argon2id",
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf-memory",
    "65536",
    "--pbkdf-parallel",
    "4",
]
ARGON_I = [
    "--pbkdf",
    "argon2i",
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf-memory",
    "32",
    "--pbkdf-parallel",
    "1",
]
SHAPES = {
    "1": ["--type", "luks1", "--pbkdf-force-iterations", "1000"],
    "1-cbc-essiv": [
        "--type",
        "luks1",
        "--pbkdf-force-iterations",
        "1000",
        "-c",
        "aes-cbc-essiv:sha256",
        "-s",
        "256",
    ],
    "1-sha512": ["--type", "luks1", "--pbkdf-force-iterations", "1000", "-h", "sha512", "-s", "256"],
    "1-ripemd": ["--type", "luks1", "--pbkdf-force-iterations", "1000", "-h", "ripemd160"],
    "2": ["--type", "luks2", "--sector-size", "512", *FAST],
    "2-4096": ["--type", "luks2", *FAST, "--sector-size", "4096"],
    "2-argon2id": ["--type", "luks2", "--sector-size", "512", *ARGON],
    "2-argon2i": ["--type", "luks2", *ARGON_I, "--sector-size", "1024"],
    "2-plain": ["--type", "luks2", "--sector-size", "512", *FAST, "-c", "aes-cbc-plain64", "-s", "128"],
}


def cryptsetup(*words: str | Path, secret: bytes = PASSWORD) -> str:
    command = ["cryptsetup", "-q", "--disable-locks", *map(str, words)]
    done = subprocess.run(command, input=secret, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def formatted(folder: Path, shape: str) -> tuple[Path, bytes, int]:
    """Return an image, its volume key, and where the payload starts."""
    path, held = folder / f"{shape}.img", folder / f"{shape}.key"
    with path.open("wb") as file:
        file.truncate(20 * MIB)
    key_file = folder / "k"
    key_file.write_bytes(KEY)
    words = SHAPES[shape]
    cryptsetup("luksFormat", *words, path, "-")
    adding = ["--pbkdf-force-iterations", "1000"] if shape.startswith("1") else FAST
    cryptsetup("luksAddKey", *adding, path, key_file)
    cryptsetup("luksDump", "--dump-volume-key", "--volume-key-file", held, path)
    key = held.read_bytes()
    dump = cryptsetup("luksDump", path)
    at = re.search(r"Payload offset:\s*(\d+)|offset: (\d+) \[bytes\]\s*length: \(whole", dump)
    assert at is not None, dump
    return path, key, int(at[1]) * 512 if at[1] else int(at[2])


def encrypted(shape: str, key: bytes, plain: bytes) -> bytes:
    """Encrypt as dm-crypt's documentation says, with the reference library."""
    sector = SECTORS.get(shape, 512)
    out = b""
    for at in range(0, len(plain), sector):
        number = (at // 512).to_bytes(16, "little")
        if "essiv" in shape:
            import hashlib

            number = (
                Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor().update(number)  # noqa: S305
            )
        mode = modes.CBC(number) if "cbc" in shape or "plain" in shape else modes.XTS(number)
        out += Cipher(algorithms.AES(key), mode).encryptor().update(plain[at : at + sector])
    return out


@pytest.fixture(scope="module", params=SHAPES)
def volume(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("luks")
    path, key, at = formatted(folder, request.param)
    plain = random.Random(request.param).randbytes(3 * MIB)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(encrypted(request.param, key, plain))
    return path, key, plain


def content(source, start: int, stop: int) -> bytes:
    """Read a source over memory."""
    out = b""
    for piece in source.plan(start, stop):
        if isinstance(piece, Bytes):
            out += piece.data[piece.offset : piece.offset + piece.length]
            continue
        assert isinstance(piece, Coded)
        assert isinstance(piece.unit, StoredUnit)
        stored = b"".join(p.data[p.offset : p.offset + p.length] for p in piece.unit.pieces)
        out += decode_unit(piece.unit, memoryview(stored))[piece.skip : piece.skip + piece.length]
    return out


def opened(image: bytes, *keys: Secret):
    reader = MemoryReader(image)
    table = open_luks(reader, Options(keys=keys))
    checks.check_opened(wire.OpenReply(opened=table), [reader.size])
    return table


@pytest.mark.parametrize("way", ["password", "keyfile", "volume-key"])
def test_each_key_gives_what_was_encrypted(volume, way) -> None:
    path, key, plain = volume
    image = path.read_bytes()
    secret = {"password": PASSWORD, "keyfile": KEY, "volume-key": key}[way]
    table = opened(image, Secret("password", b"wrong"), Secret(way, secret))
    assert [v.type_name for v in table.volumes] == ["plaintext"]
    assert len(table.protectors) >= 2
    source = build_all(table.layouts, [Memory(image)], "x")[table.volumes[0].layout]
    assert content(source, 0, len(plain)) == plain
    assert content(source, MIB - 700, MIB + 900) == plain[MIB - 700 : MIB + 900]


def test_without_a_key_that_fits_it_says_what_would(volume) -> None:
    path, _, _ = volume
    image = path.read_bytes()
    for keys in ((), (Secret("password", b"wrong"), Secret("volume-key", bytes(64)))):
        with pytest.raises(NeedKey) as need:
            opened(image, *keys)
        assert need.value.kinds == ("password", "keyfile", "volume-key")
        assert [row[0] for row in need.value.protectors][:2] == ["0", "1"]
        assert "wrong" not in str(need.value)


def test_the_second_header_serves_where_the_first_is_damaged(tmp_path) -> None:
    path, _, _ = formatted(tmp_path, "2")
    image = bytearray(path.read_bytes())
    assert not opened(bytes(image), Secret("password", PASSWORD)).notes
    for at in (0, 100, 5000):
        broken = bytearray(image)
        broken[at] ^= 0xFF
        table = opened(bytes(broken), Secret("password", PASSWORD))
        assert table.notes
    broken = bytearray(image)
    broken[0:4096] = bytes(4096)
    broken[0x4000:0x5000] = bytes(4096)
    with pytest.raises((NotMine, Malformed)):
        opened(bytes(broken), Secret("password", PASSWORD))


@pytest.mark.parametrize("shape", ["1", "2"])
def test_mutated_headers_are_refused_or_give_the_same(tmp_path, shape) -> None:
    path, key, at = formatted(tmp_path, shape)
    image = bytearray(path.read_bytes())
    image[at : at + 4096] = encrypted(shape, key, b"\x5a" * 4096)
    good = opened(bytes(image), Secret("password", PASSWORD))
    rng = random.Random(7)
    area = 592 if shape == "1" else 0x8000
    for _ in range(200):
        spot = rng.randrange(area)
        mutant = bytearray(image)
        mutant[spot : spot + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4)])
        try:
            table = opened(bytes(mutant), Secret("password", PASSWORD))
        except (NeedKey, NotMine, NotSupported, EvidenceError):
            continue
        if shape == "2":  # checksums over everything: what opens is what was
            assert table.layouts == good.layouts


def test_costs_that_attack_are_refused_before_they_are_paid(tmp_path) -> None:
    """The JSON's checksum can be made by anybody: what it asks for has to be bounded."""
    import hashlib

    path, _, _ = formatted(tmp_path, "2-argon2id")
    image = bytearray(path.read_bytes())
    told = json.loads(bytes(image[4096:0x4000]).split(b"\0")[0])
    for slot in told["keyslots"].values():
        slot["kdf"] = {**told["keyslots"]["0"]["kdf"], "memory": 1 << 30, "time": 1 << 30}
    area = json.dumps(told).encode().ljust(0x3000, b"\0")
    for at in (0, 0x4000):
        image[at + 4096 : at + 0x4000] = area
        image[at + 448 : at + 512] = bytes(64)
        image[at + 448 : at + 480] = hashlib.sha256(image[at : at + 0x4000]).digest()
    with pytest.raises(NeedKey) as need:
        opened(bytes(image))
    assert need.value.memory == 1 << 40
    with pytest.raises(NeedKey, match="iterations"):
        opened(bytes(image), Secret("password", PASSWORD))


def test_a_mounted_volume_is_read_through_its_cipher(tmp_path) -> None:
    """The whole way: a FAT file system in LUKS2 in a file, mounted with a key file."""
    path, key, at = formatted(tmp_path, "2-argon2id")
    inner = tmp_path / "inner.fat"
    inner.write_bytes(bytes(2 * MIB))
    subprocess.run(
        ["mkfs.fat", "-C", "-n", "SECRET", tmp_path / "x.fat", "2048"], check=True, capture_output=True
    )
    inner = tmp_path / "x.fat"
    text = tmp_path / "hello.txt"
    text.write_bytes(b"in the safe\n" * 5000)
    subprocess.run(["mcopy", "-i", inner, text, "::hello.txt"], check=True)
    image = bytearray(path.read_bytes())
    plain = inner.read_bytes()
    image[at : at + len(plain)] = encrypted("2", key, plain)
    path.write_bytes(image)
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\ntype = "password"\nvalue = "{PASSWORD.decode()}"\n')
    keys.chmod(0o600)
    (tmp_path / "m").mkdir()
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        disk = next(p for p in root.iterdir() if not p.name.startswith("."))
        assert (disk / "00-luks" / "volume.raw").stat().st_size == 20 * MIB
        found = next(disk.glob("00-luks.*/root/hello.txt"))
        assert found.read_bytes() == text.read_bytes()
        assert found.parent.parent.joinpath("volume.raw").read_bytes()[: len(plain)] == plain


@pytest.mark.parametrize("shape", ["1", "2"])
def test_a_header_apart_opens_what_nothing_tells_from_noise(tmp_path, shape) -> None:
    case = tmp_path / "case"
    case.mkdir()
    image, header, held = case / "disk.img", tmp_path / "header", tmp_path / "key"
    image.write_bytes(bytes(4 * MIB))
    cryptsetup("luksFormat", *SHAPES[shape], "--header", header, image, "-")
    cryptsetup("luksDump", "--dump-volume-key", "--volume-key-file", held, header)
    plain = random.Random(3).randbytes(4 * MIB)
    image.write_bytes(encrypted(shape, held.read_bytes(), plain))
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\ntype = "password"\nvalue = "{PASSWORD.decode()}"\nheader = "header"\n')
    keys.chmod(0o600)
    with mounted(image, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        (found,) = (root / "disk.img").glob("00-lukspart.*/volume.raw")
        assert found.read_bytes() == plain
    keys.write_text('[[key]]\ntype = "password"\nvalue = "wrong"\nheader = "header"\n')
    with mounted(image, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        assert sorted(path.name for path in (root / "disk.img").iterdir()) == ["disk.raw"]
