"""TrueCrypt and VeraCrypt: real volumes of the corpus, and volumes composed here, cipher by cipher.

What is composed is encrypted by the reference library for AES and by libgcrypt, block by block, for others;
headers are written from VeraCrypt's documentation, without the code under test.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import struct
import zlib
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imgfs.backends import Options, Role, _kdf, _tcrypt_trials
from imgfs.backends._tcrypt import CIPHERS, DERIVATIONS, argon
from imgfs.backends._tcrypt import random as looks_random
from imgfs.backends._tcrypt_secrets import applied, candidates, mixed
from imgfs.backends.tcrypt import open_tcrypt
from imgfs.backends.tcryptsystem import open_system
from imgfs.block import gcrypt, kuznyechik
from imgfs.block.batches import decode_unit
from imgfs.block.build import build_all
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, StoredUnit
from imgfs.errors import EvidenceError, NeedKey, NotMine, NotSupported
from imgfs.model import Secret
from imgfs.opening.probe import Window
from imgfs.opening.probe import candidates as probed
from imgfs.testing.fakes import MemoryReader
from imgfs.worker import checks, wire
from tests.mounts import mounted

AREA = 65_536
PASSWORD = b"correct horse battery"
CORPUS = Path(os.environ.get("IMGFS_SHARED", "")) / "corpus" / "mbroz_cryptsetup"
real = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here: IMGFS_SHARED")


# --- composed, from the documentation -----------------------------------------------------------------
def xts(name: str, key: bytes, number: int, data: bytes) -> bytes:
    """Encrypt one unit of data in XTS: IEEE 1619, with single blocks of libgcrypt."""
    if name == "aes":
        mode = modes.XTS(number.to_bytes(16, "little"))
        return Cipher(algorithms.AES(key), mode).encryptor().update(data)
    ecb = kuznyechik.ecb if name == "kuznyechik" else partial(gcrypt.ecb, name)
    block = ecb(key[32:], number.to_bytes(16, "little"), decrypt=False)
    tweak = int.from_bytes(block, "little")
    masks = []
    for _ in range(0, len(data), 16):
        masks.append(tweak.to_bytes(16, "little"))
        tweak <<= 1
        if tweak >> 128:
            tweak ^= 1 << 128 | 0x87
    mask = int.from_bytes(b"".join(masks), "big")
    mixed_in = (int.from_bytes(data, "big") ^ mask).to_bytes(len(data), "big")
    out = ecb(key[:32], mixed_in, decrypt=False)
    return (int.from_bytes(out, "big") ^ mask).to_bytes(len(data), "big")


def encrypted(names: tuple[str, ...], keys: bytes, number: int, data: bytes) -> bytes:
    """Encrypt with a cascade: the last one named first; primary keys stand before secondary ones."""
    order = list(reversed(names))
    half = 32 * len(order)
    for at, name in enumerate(order):
        key = keys[32 * at : 32 * at + 32] + keys[half + 32 * at : half + 32 * at + 32]
        data = xts(name, key, number, data)
    return data


def header(names: tuple[str, ...], key: bytes, keys: bytes, salt: bytes, **said: int) -> bytes:
    """Return 512 bytes of a header: salt, and the fields encrypted as one unit of data, number 0."""
    magic = b"VERA" if said.get("vera", 1) else b"TRUE"
    area = keys.ljust(256, b"\0")
    front = magic + struct.pack(
        ">HHI16xQQQQII",
        5,
        0x010B,
        zlib.crc32(area),
        said.get("hidden", 0),
        said["size"],
        said["start"],
        said.get("length", said["size"]),
        said.get("flags", 0),
        512,
    )
    front = front.ljust(188, b"\0")
    front += struct.pack(">I", zlib.crc32(front))
    return salt + encrypted(names, key, 0, front + area)


def derived(digest: str, secret: bytes, salt: bytes, rounds: int, length: int) -> bytes:
    return _kdf.pbkdf2(digest, secret, salt, rounds, length)


def composed(
    names: tuple[str, ...] = ("aes",),
    digest: str = "sha512",
    rounds: int = 1000,
    vera: int = 0,
    secret: bytes = PASSWORD,
    at: tuple[int, ...] = (0, -2 * AREA),
    size: int = 64 * 512,
    **said: int,
) -> tuple[bytes, bytes]:
    """Return a volume and its plaintext. The rounds are TrueCrypt's, unless said: tests shall be quick."""
    rng = random.Random(f"{names}{digest}{at}")
    plain = rng.randbytes(size)
    keys = rng.randbytes(64 * len(names))
    image = bytearray(rng.randbytes(4 * AREA + size))
    start = said.setdefault("start", 2 * AREA)
    said.setdefault("size", size)
    for place in (one % len(image) for one in at):
        salt = rng.randbytes(64)
        key = derived(digest, secret, salt, rounds, 64 * len(names))
        image[place : place + 512] = header(names, key, keys, salt, vera=vera, **said)
    for number in range(size // 512):
        where = start + 512 * number
        image[where : where + 512] = encrypted(
            names, keys, where // 512, plain[512 * number : 512 * number + 512]
        )
    return bytes(image), plain


def opened(image: bytes, *keys: Secret, patience: float = 100, how=open_tcrypt):
    reader = MemoryReader(image)
    table = how(reader, Options(keys=keys, threads=2, patience=patience))
    checks.check_opened(wire.OpenReply(opened=table), [reader.size])
    return table


def joined(pieces) -> bytes:
    """Read pieces over memory, ciphers over ciphers too."""
    out = b""
    for piece in pieces:
        if isinstance(piece, Bytes):
            out += piece.data[piece.offset : piece.offset + piece.length]
            continue
        assert isinstance(piece, Coded)
        assert isinstance(piece.unit, StoredUnit)
        whole = decode_unit(piece.unit, memoryview(joined(piece.unit.pieces)))
        out += whole[piece.skip : piece.skip + piece.length]
    return out


def content(source, start: int, stop: int) -> bytes:
    return joined(source.plan(start, stop))


def plaintext(image: bytes, table, slot: int = 0) -> bytes:
    source = build_all(table.layouts, [Memory(image)], "x")[table.volumes[slot].layout]
    assert source.size == table.volumes[slot].stop
    return content(source, 0, source.size)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out VeraCrypt's derivations: those of TrueCrypt take no time."""
    few = tuple(one for one in DERIVATIONS if one.program == "TrueCrypt")
    monkeypatch.setattr(_tcrypt_trials, "DERIVATIONS", few)
    monkeypatch.setattr(_tcrypt_trials, "_FIRST", CIPHERS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("names", CIPHERS, ids="-".join)
def test_every_cipher_and_cascade_gives_what_was_encrypted(names) -> None:
    image, plain = composed(names)
    table = opened(image, Secret("password", b"wrong"), Secret("password", PASSWORD))
    assert plaintext(image, table) == plain
    assert "-".join(names) in table.version
    assert [v.type_name for v in table.volumes] == ["standard"]
    assert not table.notes


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("digest", "rounds"), [("ripemd160", 2000), ("whirlpool", 1000), ("sha1", 2000)])
def test_every_derivation_of_truecrypt(digest, rounds) -> None:
    image, plain = composed(digest=digest, rounds=rounds)
    assert plaintext(image, opened(image, Secret("password", PASSWORD))) == plain


@pytest.mark.parametrize("digest", ["sha512", "sha256", "blake2s256", "whirlpool", "stribog512", "ripemd160"])
def test_every_derivation_of_veracrypt_with_a_pim(digest) -> None:
    """The rounds of a PIM of 1 are 16,000: what differs from the default is the number alone."""
    image, plain = composed(digest=digest, rounds=16_000, vera=1)
    table = opened(image, Secret("password", PASSWORD, 1))
    assert plaintext(image, table) == plain
    assert f"pbkdf2-{digest}, 16000" in table.version


def test_a_cascade_of_veracrypt_is_found_after_the_single_ciphers() -> None:
    image, plain = composed(("serpent", "twofish", "aes"), "sha256", 16_000, 1)
    assert plaintext(image, opened(image, Secret("password", PASSWORD, 1))) == plain


def test_rounds_and_costs_are_those_of_the_documentation() -> None:
    def rounds(digest: str, pim: int, *, system: bool) -> int:
        return next(one for one in DERIVATIONS if (one.program, one.digest) == ("VeraCrypt", digest)).rounds(
            pim, system=system
        )

    assert rounds("sha512", 0, system=False) == rounds("sha512", 0, system=True) == 500_000
    assert rounds("sha256", 0, system=False) == 500_000
    assert rounds("sha256", 0, system=True) == 200_000
    assert rounds("ripemd160", 0, system=False) == 655_331
    assert rounds("ripemd160", 0, system=True) == 327_661
    assert rounds("sha256", 10, system=False) == rounds("whirlpool", 10, system=True) == 25_000
    assert rounds("sha256", 10, system=True) == 20_480
    assert argon(12) == argon(0) == (416 * 1024, 6)
    assert argon(31) == (1024 * 1024, 13)
    assert argon(485) == (1024 * 1024, 467)


def test_streebog_is_that_of_rfc_6986() -> None:
    """Example 1 of section 10.1.1; the RFC writes the bytes backwards."""
    message = bytes.fromhex(
        "323130393837363534333231303938373635343332313039383736353433323130"
        "393837363534333231303938373635343332313039383736353433323130"
    )[::-1]
    expected = bytes.fromhex(
        "486f64c1917879417fef082b3381a4e211c324f074654c38823a7b76f830ad00"
        "fa1fbae42b1285c0352f227524bc9ab16254288dd6863dccd5b9f54a1ad0541b"
    )[::-1]
    assert gcrypt.digest("stribog512", message) == expected


@pytest.mark.usefixtures("quick")
def test_the_backup_serves_where_the_header_was_overwritten() -> None:
    image, plain = composed()
    for wiped in (bytes(4096), random.Random(1).randbytes(4096)):
        broken = wiped + image[4096:]
        table = opened(broken, Secret("password", PASSWORD, 1))
        assert plaintext(broken, table) == plain
        assert any("copy" in note for note in table.notes)


@pytest.mark.usefixtures("quick")
def test_outer_and_hidden_volume_open_with_a_password_each() -> None:
    image, plain = composed()
    inner, secret_plain = composed(
        ("serpent",),
        "whirlpool",
        secret=b"the other",
        at=(AREA, -AREA),
        size=8 * 512,
        start=2 * AREA + 40 * 512,
        hidden=8 * 512,
    )
    both = bytearray(image)
    for at in (AREA, len(image) - AREA):
        from_end = len(image) - at
        source = at if at == AREA else len(inner) - from_end
        both[at : at + 512] = inner[source : source + 512]
    hidden_at = 2 * AREA + 40 * 512
    both[hidden_at : hidden_at + len(secret_plain)] = inner[hidden_at : hidden_at + len(secret_plain)]
    keys = (Secret("password", b"the other"), Secret("password", PASSWORD))
    table = opened(bytes(both), *keys)
    assert [v.label for v in table.volumes] == ["standard", "hidden"]
    assert plaintext(bytes(both), table)[: 40 * 512] == plain[: 40 * 512]
    assert plaintext(bytes(both), table, 1) == secret_plain
    only = opened(bytes(both), Secret("password", b"the other"))
    assert [v.label for v in only.volumes] == ["hidden"]
    assert plaintext(bytes(both), only) == secret_plain


def naive_pool(password: bytes, files: list[bytes], size: int) -> bytes:
    """Mix key files in the steps of the documentation; the CRC-32 of zlib ends with a complement."""
    pool = [0] * size
    for data in files:
        cursor = 0
        for end in range(1, min(len(data), 1 << 20) + 1):
            state = zlib.crc32(data[:end]) ^ 0xFFFF_FFFF
            for byte in state.to_bytes(4, "big"):
                pool[cursor] = (pool[cursor] + byte) % 256
                cursor = (cursor + 1) % size
    padded = password.ljust(size, b"\0")
    return bytes((a + b) % 256 for a, b in zip(padded, pool, strict=True))


@pytest.mark.parametrize("password", [b"", PASSWORD, b"x" * 64, b"y" * 65])
def test_key_files_are_mixed_as_documented(password) -> None:
    rng = random.Random(3)
    files = [rng.randbytes(700), b"abc", b""]
    size = 64 if len(password) <= 64 else 128
    assert applied(password, [mixed(data) for data in files]) == naive_pool(password, files, size)


def test_only_the_first_mebibyte_of_a_key_file_counts() -> None:
    data = random.Random(4).randbytes((1 << 20) + 5)
    assert mixed(data) == mixed(data[: 1 << 20])
    assert mixed(data) != mixed(data[:-6])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("password", [b"", PASSWORD])
def test_key_files_open_with_and_without_a_password(password) -> None:
    files = [b"first file" * 30, b"second"]
    image, plain = composed(secret=naive_pool(password, files, 64))
    keys = [Secret("keyfile", data) for data in files]
    keys += [Secret("password", password)] if password else []
    assert plaintext(image, opened(image, *keys)) == plain
    said = repr(candidates(keys))
    assert "horse" not in said


def test_a_wrong_key_opens_nothing_and_says_only_what_was_left_out() -> None:
    image, _ = composed()
    with pytest.raises(NotMine):
        opened(image[:AREA], Secret("password", b"wrong", 1), patience=1000)
    with pytest.raises(NeedKey, match="seconds were too short for") as need:
        opened(image, Secret("password", b"wrong"), patience=0)
    assert "wrong" not in str(need.value)
    with pytest.raises(NeedKey):
        opened(image)


def test_what_starts_with_text_or_code_costs_nothing(monkeypatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(_tcrypt_trials.Trials, "find", none)
    rng = random.Random(5)
    code = bytes(rng.choice(range(60)) for _ in range(512))
    assert not looks_random(code)
    for image in (bytes(8 * AREA), code * 1024, b"", b"x" * 511):
        with pytest.raises(NotMine):
            opened(image, Secret("password", PASSWORD))
    assert all(looks_random(rng.randbytes(512)) for _ in range(2000))


@pytest.mark.usefixtures("quick")
def test_a_volume_that_is_cut_short_is_lost_where_it_ends() -> None:
    image, plain = composed(at=(0,))
    cut = image[: 2 * AREA + 10 * 512 + 100]
    table = opened(cut, Secret("password", PASSWORD))
    assert table.volumes[0].stop == len(plain)
    source = build_all(table.layouts, [Memory(cut)], "x")[table.volumes[0].layout]
    assert content(source, 0, 10 * 512) == plain[: 10 * 512]
    with pytest.raises(AssertionError):  # a Lost piece is no bytes
        content(source, 10 * 512, 11 * 512)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "said",
    [
        {"start": 1 << 62},
        {"start": 513},
        {"length": (1 << 64) - 512},
        {"length": 0},
        {"length": 100},
        {"flags": 3},
    ],
)
def test_a_header_that_lies_is_refused_or_bounded(said) -> None:
    """Whoever knows the password can write any header."""
    image, plain = composed(at=(0,))
    rng = random.Random(6)
    salt = rng.randbytes(64)
    key = derived("sha512", PASSWORD, salt, 1000, 64)
    facts = {"size": len(plain), "start": 2 * AREA, "vera": 0, **said}
    image = header(("aes",), key, rng.randbytes(64), salt, **facts) + image[512:]
    try:
        table = opened(image, Secret("password", PASSWORD))
    except EvidenceError:
        return
    build_all(table.layouts, [Memory(image)], "x")


@pytest.mark.usefixtures("quick")
def test_mutated_headers_open_as_before_or_not_at_all(monkeypatch) -> None:
    few = tuple(one for one in DERIVATIONS if (one.program, one.digest) == ("TrueCrypt", "sha512"))
    monkeypatch.setattr(_tcrypt_trials, "DERIVATIONS", few)
    image = composed(at=(0,))[0][: 3 * AREA]
    good = opened(image, Secret("password", PASSWORD))
    rng = random.Random(7)
    for _ in range(200):
        mutant = bytearray(image)
        spot = rng.randrange(512)
        mutant[spot : spot + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4)])
        if mutant == image:
            continue
        try:
            table = opened(bytes(mutant), Secret("password", PASSWORD))
        except (NeedKey, NotMine, NotSupported, EvidenceError):
            continue
        assert table.layouts == good.layouts


def test_a_system_disk_is_decrypted_where_it_is_encrypted(tmp_path) -> None:
    rng = random.Random(8)
    start, size = 2048 * 512, 200 * 512
    disk = bytearray(start + size + 512 * 40)
    disk[446:462] = struct.pack("<B3sB3sII", 0x80, b"", 7, b"", 2048, 200)
    disk[510:512] = b"\x55\xaa"
    keys, salt = rng.randbytes(128), rng.randbytes(64)
    names = ("aes", "twofish")
    key = derived("sha512", PASSWORD, salt, 16_000, 128)
    disk[62 * 512 : 63 * 512] = header(names, key, keys, salt, start=start, size=size, flags=1)
    plain = b"".join(bytes([number]) * 512 for number in range(200))
    for number in range(200):
        at = start + 512 * number
        disk[at : at + 512] = encrypted(names, keys, at // 512, plain[512 * number :][:512])
    table = opened(bytes(disk), Secret("password", PASSWORD, 1), how=open_system)
    got = plaintext(bytes(disk), table)
    assert got == bytes(disk[:start]) + plain + bytes(disk[start + size :])
    path, keyfile = tmp_path / "d.img", tmp_path / "keys.toml"
    path.write_bytes(disk)
    keyfile.write_text(f'[[key]]\ntype = "password"\nvalue = "{PASSWORD.decode()}"\npim = 1\n')
    keyfile.chmod(0o600)
    (tmp_path / "m").mkdir()
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keyfile))) as root:
        found = next(root.glob("d.img/00-tcryptsystem.mbr.01-*/volume.raw"))
        assert found.read_bytes() == plain
        assert not list(root.glob("d.img/00-tcryptsystem.*tcryptsystem*"))


def test_a_system_disk_is_asked_first_and_only_with_a_key() -> None:
    head = bytearray(AREA)
    head[510:512] = b"\x55\xaa"
    window = Window(len(head), bytes(head), b"")
    plain = [backend.name for backend in probed(window, tuple(Role), kinds=())]
    assert "mbr" in plain
    assert not {"tcrypt", "tcryptsystem"} & set(plain)
    keyed = [backend.name for backend in probed(window, tuple(Role), kinds=("password",))]
    assert keyed.index("tcryptsystem") < keyed.index("mbr") < keyed.index("tcrypt")
    none = [b.name for b in probed(Window(AREA, bytes(AREA), b""), tuple(Role), kinds=("password",))]
    assert "tcryptsystem" not in none


# --- made by another program ---------------------------------------------------------------------------
MADE = json.loads((Path(__file__).parent.parent / "recorded" / "tcplay.json").read_text())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", range(len(MADE["volumes"])))
def test_headers_made_by_tcplay_open(number) -> None:
    """Order of keys in cascades, key files and copies as an independent program has them.

    tcplay names ciphers in the order in which they encrypt.
    """
    made = MADE["volumes"][number]
    keys = [Secret("keyfile", bytes.fromhex(MADE["keyfiles"][name])) for name in made["keyfiles"]]
    keys += [Secret("password", made["password"].encode())] if made["password"] else []
    first, copy = bytes.fromhex(made["header"]), bytes.fromhex(made["copy"])
    size = 1 << 20
    for head in (first, bytes(512)):
        image = head.ljust(size - 2 * AREA, b"\0") + copy.ljust(2 * AREA, b"\0")
        table = opened(image, *keys)
        chain = "-".join(reversed(made["chain"].split("-")))
        assert f"TrueCrypt 5, {chain} in xts, pbkdf2-{made['prf']}" in table.version
        assert table.volumes[0].stop == size - 4 * AREA


# --- real ---------------------------------------------------------------------------------------------
def sample(name: str) -> tuple[bytes, dict[str, object]]:
    path = next(CORPUS.glob(f"{name}*.img.xz"))
    truth = json.loads(path.with_name(path.name + ".truth.json").read_text())["volumes"][0]
    return lzma.decompress(path.read_bytes()), truth


def serial(boot: bytes) -> str:
    """Return the serial number of a FAT12 or FAT16 volume as tools print it."""
    number = int.from_bytes(boot[39:43], "little")
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


@real
@pytest.mark.parametrize(
    "name",
    [
        "tc_2-ripemd160-cbc-aes",
        "tc_5-sha512-xts-aes",
        "tc_5-whirlpool-xts-aes",
        "vc_1-sha256-xts-aes",
        "vc_1-blake2s-xts-aes",
        "vc_1-whirlpool-xts-aes",
    ],
)
def test_volumes_of_the_programs_themselves(name) -> None:
    image, truth = sample(name)
    table = opened(image, Secret("password", str(truth["password"]).encode()))
    assert serial(plaintext(image, table)[:512]) == truth["fs_uuid"]


@real
@pytest.mark.parametrize("name", ["tc_3-sha512-xts-aes-hidden", "vc_1-sha512-xts-aes-hidden"])
def test_hidden_volumes_of_the_programs_themselves(name) -> None:
    image, truth = sample(name)
    keys = [Secret("password", str(truth[key]).encode()) for key in ("password", "hidden_password")]
    table = opened(image, *keys)
    assert [serial(plaintext(image, table, slot)[:512]) for slot in (0, 1)] == [truth["fs_uuid"], "CAFE-BABE"]


@real
@pytest.mark.parametrize("name", ["sys_vc_1_gpt_part", "sys_vc_1_mbr_part"])
def test_system_disks_of_the_program_itself(name) -> None:
    image, truth = sample(name)
    table = opened(image, Secret("password", str(truth["password"]).encode()), how=open_system)
    start = int(table.version.partition("encrypted from ")[2].split()[0])
    source = build_all(table.layouts, [Memory(image)], "x")[table.volumes[0].layout]
    assert serial(content(source, start, start + 512)) == truth["fs_uuid"]


@real
@pytest.mark.timeout(300)
def test_argon2id_of_the_program_itself(monkeypatch) -> None:
    """15 iterations over a GiB: only this derivation is tried here."""
    monkeypatch.setattr(
        _tcrypt_trials, "DERIVATIONS", tuple(one for one in DERIVATIONS if one.digest == "argon2id")
    )
    image, truth = sample("vcpim_1_33-argon2id-xts-aes")
    secret = Secret("password", str(truth["password"]).encode(), int(str(truth["pim"])))
    table = opened(image, secret, patience=1000)
    assert serial(plaintext(image, table)[:512]) == truth["fs_uuid"]
