"""(In a worker) from a passphrase to the keys of an encrypted Apple disk image.

Sources: as ``_encrcdsa``; RFC 8018 (PBKDF2); RFC 5652, section 6.3 (padding); RFC 3217, section 3.2 (how
version 1 wraps a key twice). In version 2 what is wrapped are both keys one behind the other and ``CKIE``,
which tells a right passphrase.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imgfs.backends import _kdf
from imgfs.backends._encrcdsa import HMAC, KINDS
from imgfs.backends._plain import HEAD, known
from imgfs.block import ciphers, sectors
from imgfs.errors import EvidenceError, NeedKey
from imgfs.model import Codec, Enciphered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Options
    from imgfs.backends._encrcdsa import Header, Wrapped

_MARK: Final = b"CKIE\0"
_RFC_3217: Final = bytes.fromhex("4adda22c79e82105")
_MOST_ROUNDS: Final = 20_000_000  # of one key: a dozen seconds; recent systems write about 400,000
_MOST_TOGETHER: Final = 100_000_000  # of all trials: within the deadline of a worker


def codec(bits: int, keys: bytes) -> Codec:
    """Return the cipher of the data, by its keys: that of AES, and that of the vectors behind it."""
    length = bits // 8
    return Codec("aes-cbc", {"key": keys[:length], "iv": b"hmac-sha1", "ivkey": keys[length:]})


def unlock(header: Header, options: Options, read: Callable[[int, int], bytes], said: list[str]) -> Codec:
    """Return the cipher of the data, by the first key that opens it.

    ``read`` returns ciphertext of the data, as much as there is; what could not be tried is ``said``.

    Raises:
        NeedKey: none of them does.
    """
    length = header.bits // 8 + HMAC
    tried: list[str] = []
    for keys in _opened(header, options, length, tried):
        said += tried
        return codec(header.bits, keys)
    for secret in options.keys:
        if secret.kind == "volume-key" and len(secret.value) == length:
            how = codec(header.bits, secret.value)
            if _fits(header, how, read):
                said += tried
                return how
            tried.append("a volume key decrypts to nothing that is known here")
    what = f"Encrypted Apple disk image: {header.title}"
    raise NeedKey(
        "; ".join([what, *tried]),
        kinds=KINDS,
        protectors=tuple((one.slot, one.kind, one.id, one.cost) for one in header.protectors),
    )


def _opened(header: Header, options: Options, length: int, tried: list[str]) -> Iterator[bytes]:
    """Yield both keys, one behind the other, for every passphrase that opens one of the wrapped ones."""
    left = _MOST_TOGETHER
    for number, one in enumerate(header.keys):
        passwords = [secret.value for secret in options.keys if secret.kind == "password"]
        if not passwords or not one.rounds:
            continue
        if not one.supported:
            tried.append(f"key {number} is wrapped in a way that is not known here")
            continue
        for password in passwords:
            left -= one.rounds
            if one.rounds > _MOST_ROUNDS or left < 0:
                tried.append(f"key {number} asks for {one.rounds} rounds of PBKDF2: too many")
                break
            try:
                derived = _kdf.pbkdf2("sha1", password, one.salt, one.rounds, one.bits // 8)
            except EvidenceError as why:
                tried.append(f"key {number}: {why}")
                break
            keys = _both(one, derived)
            if len(keys) == length:
                yield keys


def _both(one: Wrapped, derived: bytes) -> bytes:
    """Return the keys that are wrapped; nothing where ``derived`` does not open them."""
    if len(one.parts) == 2:
        data, vectors = (_twice(one, derived, part) for part in one.parts)
        return data + vectors if data and vectors else b""
    keys = _padded(_cbc(one, derived, one.iv, one.parts[0]), one)
    return keys[: -len(_MARK)] if keys.endswith(_MARK) else b""


def _twice(one: Wrapped, derived: bytes, part: bytes) -> bytes:
    """Undo version 1: under a fixed vector, then backwards under the vector that stands first.

    The key follows the length of a description, which is empty: four zeros.
    """
    outer = _padded(_cbc(one, derived, _RFC_3217, part), one)[::-1]
    inner = _padded(_cbc(one, derived, outer[:8], outer[8:]), one)
    return inner[4:] if inner[:4] == bytes(4) else b""


def _cbc(one: Wrapped, key: bytes, iv: bytes, data: bytes) -> bytes:
    size = 8 if one.triple else 16
    if not data or len(data) % size:
        return b""
    how = TripleDES(key) if one.triple else algorithms.AES(key)
    # Recent systems give vectors of 8 bytes for AES, too.
    decryptor = Cipher(how, modes.CBC(iv[:size].ljust(size, b"\0"))).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def _padded(data: bytes, one: Wrapped) -> bytes:
    """Return data without its padding; nothing where that is none."""
    count = data[-1] if data else 0
    if not 0 < count <= (8 if one.triple else 16) or data[-count:] != bytes([count]) * count:
        return b""
    return data[:-count]


def _fits(header: Header, how: Codec, read: Callable[[int, int], bytes]) -> bool:
    """Say whether a key that nothing vouches for gives something known: at the start, or UDIF at the end."""
    block = header.block
    last = max(header.data_length - 512, 0) // block * block
    for at, length in ((0, -(-HEAD // block) * block), (last, 2 * block)):
        try:
            stored = bytearray(read(at, length))
        except EvidenceError:
            continue
        stored = stored[: len(stored) // block * block]
        ciphers.check(Enciphered(size=len(stored), sector=block, codec=how))
        ciphers.decrypt(how, block, at // block, 1, stored)
        if not at and known(stored):
            return True
        if stored[header.data_length - 512 - at :].startswith(b"koly"):
            return True
    return False


def ready() -> None:
    """Let every library do once what it does the first time."""
    Cipher(TripleDES(bytes(range(24))), modes.CBC(bytes(8))).decryptor().update(bytes(8))
    Cipher(algorithms.AES(bytes(24)), modes.CBC(bytes(16))).decryptor().update(bytes(16))
    sectors.hmac_sha1(bytes(20), 0, 1, 1)
    hmac.digest(b"key", b"", "sha1")
    _kdf.pbkdf2("sha1", b"", b"salt", 1, 24)


ready()
