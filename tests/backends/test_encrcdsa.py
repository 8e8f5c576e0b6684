"""Encrypted Apple disk images: composed by a naive writer; keys and blocks of real ones as known answers."""

from __future__ import annotations

import hashlib
import json
import os
import plistlib
import random
import struct
from pathlib import Path

import pytest

from imgfs.backends import Options, _encrcdsa_keys, discover
from imgfs.backends._encrcdsa import Wrapped, read_header
from imgfs.block import ciphers
from imgfs.errors import EvidenceError, NeedKey, NotMine, NotSupported
from imgfs.model import Secret
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends import dmgimages as dmg
from tests.backends.cdsaimages import AES, DES3, PASSWORD, Writer
from tests.backends.test_dmg import part
from tests.backends.test_sparsebundle import BAND, listed
from tests.backends.test_sparseimage import composed
from tests.mounts import imgfs, mounted
from tests.recipes import MIB, fat

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SHAPES = {
    "128": Writer(128),
    "256": Writer(256, rounds=4000),
    "256 in blocks of 4096": Writer(256, block=4096),
    "128 under AES": Writer(128, wrap=AES),
    "256 under AES": Writer(256, wrap=AES),
}


def given(*keys: tuple[str, bytes]) -> Options:
    return Options(keys=tuple(Secret(kind, value) for kind, value in keys))


def udif() -> tuple[bytes, bytes]:
    """Return an image of UDIF and what it holds."""
    one = part(dmg.ZLIB, 900)
    return dmg.whole(dmg.image([one])), one.data


@pytest.mark.parametrize(
    ("shape", "version"),
    [(shape, 2) for shape in SHAPES] + [(shape, 1) for shape in SHAPES if SHAPES[shape].wrap == DES3],
)
def test_each_key_gives_what_was_encrypted(shape, version) -> None:
    writer = SHAPES[shape]
    inner = udif()[0] if version == 2 else b"ER\2\0" + random.Random(4).randbytes(16 * 4096 - 4)
    image = writer.second(inner) if version == 2 else writer.first(inner)
    for key in (("password", PASSWORD), ("volume-key", writer.keys)):
        options = given(("password", b"wrong"), ("volume-key", bytes(len(writer.keys))), key)
        assert contents("encrcdsa", {"x.dmg": image}, options=options) == inner


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_key_that_fits_it_says_what_would(shape) -> None:
    writer = SHAPES[shape]
    image = writer.second(udif()[0], PASSWORD, b"another", others=(2,))
    for keys in ((), (("password", b"nope"), ("volume-key", random.Random(1).randbytes(len(writer.keys))))):
        with pytest.raises(NeedKey) as need:
            discover()["encrcdsa"].open(MemoryReader(image), given(*keys))
        cost = f"pbkdf2-sha1, {writer.rounds} iterations"
        assert need.value.protectors == (
            ("0", "certificate", "", ""),
            ("1", "password", "", cost),
            ("2", "password", "", cost),
        )
        assert f"AES CBC with {writer.bits} bits in blocks of {writer.block}" in str(need.value)
        assert "nope" not in str(need.value)
    assert contents("encrcdsa", {"x": image}, options=given(("password", b"another"))) == udif()[0]


def test_keys_of_real_images_open() -> None:
    """Known answers: two images that hdiutil wrote, of which crackers of passwords quote the first bytes.

    Of the first the wrapped keys are cut (48 of 64 bytes), and 48 bytes of ciphertext known, in which zeros
    stand; of the second, the wrapped keys without their vector. Source: test vectors of John the Ripper and
    hashcat.
    """
    blob = bytes.fromhex(
        "68a32866b0e67515f35dc67c4d6747a8561a9f4f6a6718a894b0a77a47c452471e04ecef9bf56f0d83d1201a509a374e"
    )
    one = Wrapped(kind=1, bits=192, algorithm=DES3, parts=(blob,))
    derived = hashlib.pbkdf2_hmac(
        "sha1", b"vilefault", bytes.fromhex("fd70ac1e078f01fce55a2e56145a2494446db32a"), 1000, 24
    )
    keys = _encrcdsa_keys._cbc(one, derived, bytes.fromhex("9110b1778f09b1a7"), blob)
    stored = bytearray.fromhex(
        "70ebe6f1d387e33e3d1093cca2e94c9a32e2c9ba47d461d737d49a7dc1b1f69407b7dbc16f7671689ea4a4641652b3f9"
    )
    how = _encrcdsa_keys.codec(256, keys[:32] + bytes(20))
    ciphers.decrypt(how, 48, 14, 1, stored)
    assert stored[16:] == bytes(32)
    blob = bytes.fromhex(
        "17b5d1683f6cd8b076943f1397d96f2d7a966596bd4c816334f444b26c33b6dd"
        "1a2f309a375ed9c3a612b5877c75ea6c2f3053fdb4c2b9a477d6291573fcb7cd"
    )
    salt = bytes.fromhex("20a528dfdc3dc653d5da26923cd7b07d03eda76e")
    one = Wrapped(kind=1, bits=192, algorithm=AES, iv=bytes(8), parts=(blob,))
    assert len(_encrcdsa_keys._both(one, hashlib.pbkdf2_hmac("sha1", b"po99oo", salt, 384_615, 24))) == 52
    assert not _encrcdsa_keys._both(one, hashlib.pbkdf2_hmac("sha1", b"po99o0", salt, 1, 24))


def test_costs_that_attack_are_refused_before_they_are_paid() -> None:
    image = bytearray(SHAPES["256"].second(udif()[0]))
    at = image.index(struct.pack(">IQ", 103, 4000)) + 4
    for rounds in (1 << 63, 1 << 31, 20_000_001):
        image[at : at + 8] = struct.pack(">Q", rounds)
        with pytest.raises(NeedKey, match="too many"):
            discover()["encrcdsa"].open(MemoryReader(bytes(image)), given(("password", PASSWORD)))


def test_a_hostile_header_is_refused_or_said() -> None:
    writer = SHAPES["128"]
    good = bytearray(writer.second(udif()[0]))
    for at, form, value, wrong in (
        (8, ">I", 3, NotSupported),
        (16, ">I", 9, NotSupported),
        (24, ">I", 64, NotSupported),
        (52, ">I", 500, EvidenceError),
        (52, ">I", 0, EvidenceError),
        (56, ">Q", 1 << 63, EvidenceError),
        (64, ">Q", 1 << 40, EvidenceError),
    ):
        image = bytearray(good)
        struct.pack_into(form, image, at, value)
        with pytest.raises(wrong):
            discover()["encrcdsa"].open(MemoryReader(bytes(image)), given(("password", PASSWORD)))
    image = bytearray(good)
    struct.pack_into(">I", image, 72, 1 << 31)
    assert len(read_header(MemoryReader(bytes(image))).keys) <= 64
    for cut in (b"encrcdsa", bytes(good[:70])):
        with pytest.raises(EvidenceError):
            discover()["encrcdsa"].open(MemoryReader(cut), Options())
    with pytest.raises(NotMine):
        discover()["encrcdsa"].open(MemoryReader(bytes(2000)), Options())


def test_what_the_image_ends_before_is_lost() -> None:
    inner, _ = udif()
    image = SHAPES["128"].second(inner)
    cut = image[: len(image) - 5000]
    options = given(("password", PASSWORD))
    held = (len(cut) - 0x1DE00) // 512 * 512
    assert contents("encrcdsa", {"x": cut}, lost=b"?", options=options) == inner[:held] + b"?" * (
        len(inner) - held
    )


@pytest.mark.parametrize("version", [1, 2])
def test_the_contract_of_media(version, monkeypatch) -> None:
    """200 damages; rounds that take longer than a second are left out: what they cost is tested above."""
    monkeypatch.setattr(_encrcdsa_keys, "_MOST_ROUNDS", 1_000_000)
    writer = Writer(256)
    plain = random.Random(3).randbytes(40 * 512)
    plain = b"ER\2\0" + plain[4:]
    image = writer.second(plain, data_at=1024) if version == 2 else writer.first(plain)
    check_media("encrcdsa", {"x": image}, plain, seeds=200, options=given(("password", PASSWORD)))


# --- sparse bundles ---------------------------------------------------------------------------------------
def bundle(writer: Writer) -> tuple[dict[str, bytes], bytes]:
    """Return the members of an encrypted bundle whose third band is missing and whose last is short."""
    size = 5 * BAND - 512
    plain = random.Random(9).randbytes(size)
    plain = b"ER\2\0" + plain[4:]
    stored = writer.encrypted(plain)
    files = {"Info.plist": listed(size), "token": writer.header(0)}
    files |= {f"{n:x}": stored[n * BAND : (n + 1) * BAND] for n in (0, 1, 3, 4)}
    return files, plain[: 2 * BAND] + bytes(BAND) + plain[3 * BAND :]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_encrypted_bundle_opens(shape) -> None:
    writer = SHAPES[shape]
    files, truth = bundle(writer)
    with pytest.raises(NeedKey, match=f"AES CBC with {writer.bits} bits in blocks of {writer.block}"):
        contents("sparsebundle", files)
    if writer.block > 512:
        files["4"] = files["4"].ljust(BAND, b"x")
    for key in (("password", PASSWORD), ("volume-key", writer.keys)):
        assert contents("sparsebundle", files, options=given(key)) == truth
    files["1"] = files["1"][: 3 * 512 + 7]
    if writer.block == 512:
        found = contents("sparsebundle", files, lost=b"?", options=given(("password", PASSWORD)))
        cut = BAND + 3 * 512
        assert found[cut : 2 * BAND] == b"?" * 512 + bytes(BAND - 4 * 512)
        assert found[:cut] + found[2 * BAND :] == truth[:cut] + truth[2 * BAND :]


def test_the_contract_of_an_encrypted_bundle(monkeypatch) -> None:
    monkeypatch.setattr(_encrcdsa_keys, "_MOST_ROUNDS", 1_000_000)
    files, truth = bundle(SHAPES["128"])
    files["token"] = SHAPES["128"].header(0, data_at=512)
    check_media("sparsebundle", files, truth, seeds=40, options=given(("password", PASSWORD)))


# --- through a mount --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("volume")
    source = folder / "source"
    source.mkdir()
    (source / "secret.txt").write_text("found in the vault\n" * 3000)
    return fat(folder / "volume", source, 12, 4 * MIB).read_bytes()


def shaped(kind: str, folder: Path, plain: bytes) -> Path:
    """Write a volume as an encrypted image of a kind; return its path."""
    writer = Writer(256 if kind != "sparse" else 128)
    if kind == "udif":
        kinds = [(512, dmg.ZLIB)] * (len(plain) // 512 // 512)
        inner = dmg.whole(dmg.image([dmg.Part(plain, kinds, "disk image (Apple_HFS : 0)")]))
    elif kind == "sparse":
        bands = {n: plain[n * MIB : (n + 1) * MIB] for n in range(4)}
        inner = composed(bands, len(plain) // 512, band=MIB // 512)
    else:
        inner = plain
    path = folder / f"vault.{kind}"
    if kind != "bundle":
        path.write_bytes(writer.second(inner))
        return path
    (path / "bands").mkdir(parents=True)
    (path / "Info.plist").write_bytes(listed(len(plain), MIB))
    (path / "token").write_bytes(writer.header(0))
    stored = writer.encrypted(plain)
    for number in range(4):
        (path / f"bands/{number:x}").write_bytes(stored[number * MIB : (number + 1) * MIB])
    return path


@pytest.mark.parametrize("kind", ["udif", "sparse", "disk", "bundle"])
def test_a_mounted_image_is_read_through_its_cipher(kind, volume, tmp_path) -> None:
    path = shaped(kind, tmp_path, volume)
    keys, wrong = tmp_path / "keys.toml", tmp_path / "wrong.toml"
    for file, value in ((keys, PASSWORD.decode()), (wrong, "wrong")):
        file.write_text(f'[[key]]\ntype = "password"\nvalue = "{value}"\n')
        file.chmod(0o600)
    rows = json.loads(imgfs("info", "--json", path).stdout)["layers"]
    (locked,) = [row for row in rows if row["state"] == "locked"]
    assert [row[1:] for row in locked["protectors"]] == [["password", "", "pbkdf2-sha1, 1000 iterations"]]
    assert "key slot 0" in imgfs("info", path).stdout

    def right(root: Path) -> None:
        disk = root / path.name
        assert (disk / "disk.raw").read_bytes() == volume
        (found,) = disk.glob("*/root/secret.txt")
        assert found.read_text() == "found in the vault\n" * 3000
        told = json.loads((root / ".imgfs/layers.json").read_text())["layers"]
        assert not {"locked", "damaged"} & {row["state"] for row in told}
        assert [row["protectors"] for row in told if row["protectors"]] == [locked["protectors"]]

    (tmp_path / "m").mkdir()
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        right(root)
    with mounted(path, at=tmp_path / "m") as root:
        assert os.listdir(root / path.name) == ["disk.raw"]
        for file, code, said in (
            (wrong, 7, "the key does not open it"),
            (keys, 0, "unlocked"),
            (keys, 2, ""),
        ):
            done = imgfs("unlock", root, "--keys", file, check=False)
            assert done.returncode == code, done.stderr
            assert said in done.stdout + done.stderr
            if code == 7:
                assert os.listdir(root / path.name) == ["disk.raw"]
        right(root)
    volume_key = Writer(256 if kind != "sparse" else 128).keys.hex()
    keys.write_text(f'[[key]]\ntype = "volume-key"\nvalue = "{volume_key}"\n')
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        right(root)


def test_ndif_in_macbinary_is_named() -> None:
    with pytest.raises(NotSupported, match="NDIF"):
        discover()["ndif"].open(MemoryReader((bytes(65) + b"rohdddsk").ljust(4096, b"\0")), Options())


def test_bundles_without_encryption_need_no_key() -> None:
    files = {"Info.plist": plistlib.dumps(plistlib.loads(listed(BAND))), "token": b"", "0": b"x" * BAND}
    assert contents("sparsebundle", files) == b"x" * BAND
