"""Laws of decryption: what the reference library encrypts comes back, whichever way it is done here."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imgfs.block import ciphers, gcrypt, kuznyechik, sectors
from imgfs.block.enciphered import CipherMap
from imgfs.block.memory import Memory
from imgfs.errors import Malformed
from imgfs.model import Codec, Enciphered
from tests.backends.bdeimages import Volume

AES = [16, 24, 32]


@pytest.fixture(params=["extension", "library"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with our extension, and without it as on a machine that has no compiler."""
    if request.param == "library":
        monkeypatch.setattr(sectors, "_fast", None)
        for name, value in (("Cipher", Cipher), ("algorithms", algorithms), ("modes", modes)):
            monkeypatch.setattr(sectors, name, value, raising=False)
    elif not sectors.FAST:
        pytest.fail("the extension was not built: gcc and libssl-dev are packages of ./dev")
    return request.param


def vector(iv: str, number: int, sector: int, key: bytes, ivkey: bytes, block) -> bytes:
    """Return an initial vector, written out from dm-crypt.rst without a look at the code under test."""
    if iv == "null":
        return bytes(16)
    if iv == "plain":
        return (number % (1 << 32)).to_bytes(16, "little")
    if iv == "plain64":
        return number.to_bytes(8, "little") + bytes(8)
    if iv == "plain64be":
        return bytes(8) + number.to_bytes(8, "big")
    under, text = (ivkey, number) if iv == "essiv" else (key, number * sector)
    encryptor = Cipher(block(under), modes.ECB()).encryptor()  # noqa: S305  # what ESSIV is
    return encryptor.update(text.to_bytes(8, "little") + bytes(8))


@pytest.mark.parametrize("sector", [512, 1024, 4096])
@pytest.mark.parametrize(
    ("cipher", "mode", "iv"),
    [
        ("aes", "xts", "plain64"),  # the reference library has no XTS but that of AES: see the test below
        ("aes", "xts", "plain"),
        ("aes", "xts", "essiv"),
        *[
            (cipher, "cbc", iv)
            for cipher in ("aes", "camellia")
            for iv in ("plain", "plain64", "plain64be", "essiv", "eboiv", "null")
        ],
        ("aes", "ecb", ""),
        ("camellia", "ecb", ""),
    ],
)
@pytest.mark.parametrize("first", [0, (1 << 32) - 3])
def test_what_was_encrypted_comes_back(way, cipher, mode, iv, sector, first) -> None:
    rng = random.Random(f"{cipher}{mode}{iv}{sector}{first}")
    block = {"aes": algorithms.AES, "camellia": Camellia}[cipher]
    size = rng.choice(AES)
    if mode == "xts":
        size = rng.choice([16, 32])
    key = rng.randbytes(2 * size if mode == "xts" else size)
    ivkey = rng.randbytes(32)
    step = rng.choice([1, 8])
    plain = rng.randbytes(sector * 9)
    stored = bytearray()
    for i in range(9):
        v = vector(iv, first + i * step, sector, key, ivkey, block) if mode != "ecb" else b""
        how = {"xts": modes.XTS, "cbc": modes.CBC}[mode](v) if mode != "ecb" else modes.ECB()  # noqa: S305
        stored += Cipher(block(key), how).encryptor().update(plain[i * sector : (i + 1) * sector])
    codec = Codec(f"{cipher}-{mode}", {"key": key, "iv": iv.encode(), "ivkey": ivkey})
    ciphers.check(Enciphered(size=len(stored), sector=sector, codec=codec))
    ciphers.decrypt(codec, sector, first, step, stored)
    assert bytes(stored) == plain


@pytest.mark.skipif(not sectors.FAST, reason="the extension was not built: see the fixture ``way``")
@pytest.mark.parametrize("lanes", [0, 1, 2, 4])
@pytest.mark.parametrize("half", [16, 32])
def test_xts_is_the_same_in_registers_of_every_width(lanes: int, half: int) -> None:
    """A processor without them takes the next narrower ones: where this is run, the widest may be missing."""
    from imgfs.block import _ciphers

    rng = random.Random(f"{lanes} {half}")
    try:
        _ciphers.widest(lanes)
        for sector in (16, 128, 256, 512, 520 * 16, 4096, 65536):
            key, count, first = rng.randbytes(2 * half), rng.randrange(1, 12), rng.randrange(1 << 63)
            data = rng.randbytes(count * sector)
            found = bytearray(data)
            _ciphers.aes_xts(key, _ciphers.plain(first, 3, count), sector, found)
            for i in range(count):
                mode = modes.XTS((first + 3 * i).to_bytes(16, "little"))
                piece = data[i * sector : (i + 1) * sector]
                expected = Cipher(algorithms.AES(key), mode).decryptor().update(piece)
                assert found[i * sector : (i + 1) * sector] == expected, (sector, i)
    finally:
        _ciphers.widest(4)


def multiplied(a: int, b: int) -> int:
    """Multiply in GF(2^8) modulo x^8 + x^7 + x^6 + x + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x1C3 << bit - 8
    return product


def test_kuznyechik_is_what_rfc_7801_says() -> None:
    """Its examples (sections 5.2, 5.4, 5.5): R, keys and a block; and L as its definition has it."""
    key = bytes.fromhex("8899aabbccddeeff0011223344556677fedcba98765432100123456789abcdef")
    plain = bytes.fromhex("1122334455667700ffeeddccbbaa9988")
    found = kuznyechik.ecb(key, plain, decrypt=False)
    assert found.hex() == "7f679d90bebc24305a468d42b9d4edcd"
    assert kuznyechik.ecb(key, found, decrypt=True) == plain
    factors = (148, 32, 133, 16, 194, 192, 1, 251, 1, 192, 194, 16, 133, 32, 148, 1)
    state = list(bytes.fromhex("00000000000000000000000000000100"))
    for _ in range(4):
        total = 0
        for one, factor in zip(state, factors, strict=True):
            total ^= multiplied(one, factor)
        state = [total, *state[:-1]]
    assert bytes(state).hex() == "0d64a594000000000000000000000000"  # so that the definition here is theirs
    rng = random.Random(7801)
    many = rng.randbytes(16 * 500)
    assert kuznyechik.ecb(key, kuznyechik.ecb(key, many, decrypt=False), decrypt=True) == many
    single = [kuznyechik.ecb(key, many[at : at + 16], decrypt=False) for at in range(0, len(many), 16)]
    assert b"".join(single) == kuznyechik.ecb(key, many, decrypt=False)


@pytest.mark.parametrize("cipher", ["serpent", "twofish", "camellia"])
def test_xts_of_other_ciphers_is_what_ieee_1619_says(way, cipher) -> None:
    """A tweak at a time, in integers: the definition, with libgcrypt for single blocks."""
    rng = random.Random(cipher)
    key, sector = rng.randbytes(64), 512
    stored = bytearray(rng.randbytes(3 * sector))
    expected = b""
    for number in range(3):
        tweak = int.from_bytes(
            gcrypt.ecb(cipher, key[32:], (7 + number).to_bytes(16, "little"), decrypt=False), "little"
        )
        for at in range(number * sector, (number + 1) * sector, 16):
            masked = int.from_bytes(stored[at : at + 16], "little") ^ tweak
            block = gcrypt.ecb(cipher, key[:32], masked.to_bytes(16, "little"), decrypt=True)
            expected += (int.from_bytes(block, "little") ^ tweak).to_bytes(16, "little")
            tweak <<= 1
            if tweak >> 128:
                tweak ^= 1 << 128 | 0x87
    codec = Codec(f"{cipher}-xts", {"key": key, "iv": b"plain64"})
    ciphers.decrypt(codec, sector, 7, 1, stored)
    assert bytes(stored) == expected


def test_serpent_and_twofish_are_those_of_their_authors() -> None:
    """Known answers: Serpent's NESSIE vector set 1 number 0 (256 bits), Twofish's ECB_TBL, I=1 (256 bits)."""
    key = bytes([0x80]) + bytes(31)
    assert gcrypt.ecb("serpent", key, bytes(16), decrypt=False).hex() == "a223aa1288463c0e2be38ebd825616c0"
    zero = gcrypt.ecb("twofish", bytes(32), bytes(16), decrypt=False)
    assert zero.hex() == "57ff739d4dc92c1bd7fc01700cc8216f"


@pytest.mark.parametrize(
    "claim",
    [
        {"codec": Codec("aes-xts", {"key": bytes(48), "iv": b"plain64"}), "sector": 500},
        {"codec": Codec("aes-xts", {"key": bytes(31), "iv": b"plain64"})},
        {"codec": Codec("aes-xts", {"key": bytes(64), "iv": b"random"})},
        {"codec": Codec("aes-gcm", {"key": bytes(32), "iv": b"plain64"})},
        {"codec": Codec("rot13-xts", {"key": bytes(64), "iv": b"plain64"})},
        {"codec": Codec("aes-cbc", {"key": bytes(32), "iv": b"essiv"})},
        {"codec": Codec("aes-cbc", {"key": bytes(32), "iv": b"tcw", "ivkey": bytes(16)})},
        {"codec": Codec("aes-xts", {"key": bytes(64), "iv": b"tcw", "ivkey": bytes(32)})},
        {"codec": Codec("aes-xts", {"key": 3, "iv": b"plain64"})},
        {"codec": Codec("aes-cbc", {"key": bytes(32), "iv": b"hmac-sha1", "ivkey": bytes(16)})},
        {"codec": Codec("aes-xts", {"key": bytes(64), "iv": b"hmac-sha1", "ivkey": bytes(20)})},
        {
            "codec": Codec("aes-cbc", {"key": bytes(32), "iv": b"hmac-sha1", "ivkey": bytes(20)}),
            "first": (1 << 32) - 1,
        },
        {"size": 4095},
        {"size": 8192},
        {"base": -1},
        {"which": 1},
        {"first": -1},
        {"step": 0},
        {"sector": 1 << 20},
    ],
)
def test_claims_that_cannot_be_are_refused(claim) -> None:
    good = {"size": 4096, "sector": 512, "codec": Codec("aes-xts", {"key": bytes(64), "iv": b"plain64"})}
    CipherMap.checked(Enciphered(**good), [Memory(bytes(4096))], "x")
    with pytest.raises(Malformed):
        CipherMap.checked(Enciphered(**{**good, **claim}), [Memory(bytes(4096))], "x")


def test_a_key_never_shows() -> None:
    codec = Codec("aes-xts", {"key": b"s3cret" * 4, "iv": b"plain64"})
    layout = Enciphered(size=512, sector=512, codec=codec)
    assert "s3cret" not in f"{codec} {codec!r} {layout!r}"


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("method", ["cbc-128-diffuser", "cbc-256-diffuser"])
def test_the_diffuser_is_undone(way, method, sector) -> None:
    volume = Volume(method=method, sector=sector)
    key = volume.key
    short = 16 if method == "cbc-128-diffuser" else 32
    codec = Codec("aes-elephant", {"key": key[:short] + key[32 : 32 + short], "iv": b"eboiv"})
    plain = random.Random(method).randbytes(3 * sector)
    stored = bytearray(volume.encipher(7 * sector, plain))
    ciphers.check(Enciphered(size=len(stored), sector=sector, codec=codec))
    ciphers.decrypt(codec, sector, 7, 1, stored)
    assert bytes(stored) == plain


def test_the_diffuser_is_refused_where_there_is_none() -> None:
    for name, key, iv in (
        ("serpent-elephant", bytes(64), b"eboiv"),
        ("aes-elephant", bytes(64), b"plain64"),
        ("aes-elephant", bytes(63), b"eboiv"),
        ("aes-elephant", bytes(48 + 32), b"eboiv"),
    ):
        with pytest.raises(Malformed):
            ciphers.check(Enciphered(size=512, sector=512, codec=Codec(name, {"key": key, "iv": iv})))
    if sectors.FAST:
        from imgfs.block import _ciphers

        for keys, sector, size in ((32, 512, 1024), (31, 512, 512), (64, 512, 512), (32, 1 << 15, 1 << 15)):
            with pytest.raises(ValueError, match=r"sector|vector"):
                _ciphers.elephant(bytes(keys), sector, bytearray(size))


@pytest.mark.parametrize("first", [0, (1 << 32) - 40])
def test_vectors_of_apple_are_digests(way, first, monkeypatch) -> None:
    import hashlib
    import hmac

    if way == "library":
        monkeypatch.setattr(sectors, "_fast_vectors", None)
    elif sectors._fast_vectors is None:
        pytest.fail("the extension was not built: gcc and libssl-dev are packages of ./dev")
    rng = random.Random(first)
    key, under, plain = rng.randbytes(32), rng.randbytes(20), rng.randbytes(512 * 9)
    stored = bytearray()
    for i in range(9):
        number = (first + 3 * i).to_bytes(4, "big")
        vector = hmac.new(under, number, hashlib.sha1).digest()[:16]
        encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
        stored += encryptor.update(plain[512 * i : 512 * i + 512])
    codec = Codec("aes-cbc", {"key": key, "iv": b"hmac-sha1", "ivkey": under})
    ciphers.check(Enciphered(size=len(stored), sector=512, codec=codec))
    ciphers.decrypt(codec, 512, first, 3, stored)
    assert bytes(stored) == plain


@pytest.mark.parametrize("rounds", [0, 1, 300])
def test_digests_are_chained(way, rounds) -> None:
    import hashlib

    tail, last = bytes(range(48)), bytes(32)
    for number in range(rounds):
        last = hashlib.sha256(last + tail + number.to_bytes(8, "little")).digest()
    assert sectors.chained(tail, rounds) == last
