"""(In a worker) from a password to the key of a CoreStorage volume: what FileVault 2 is.

Sources: libfvde, "FileVault Drive Encryption (FVDE)", sections "Keys", "Encryption context"; Infiltrate the
Vault, Omar Choudary, Felix Gröbert and Joachim Metz, 2012; RFC 8018 (PBKDF2), RFC 3394 (key wrap).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from imgfs.backends import _cs_xml, _kdf
from imgfs.errors import EvidenceError
from imgfs.model import Codec, Protector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.model import Secret

_CONTEXT: Final = "com.apple.corestorage.lvf.encryption.context"
_RECOVERY: Final = "EBC6C064-0000-11AA-AA11-00306543ECAC"  # the user that a recovery password is of
_USER: Final = 284  # bytes of a PassphraseWrappedKEKStruct
_VOLUME: Final = 256  # bytes of a KEKWrappedVolumeKeyStruct
_MOST_USERS: Final = 64
_MOST_ROUNDS: Final = 10_000_000  # of one user: some seconds; Mac OS writes 41,000 to 250,000
_MOST_TOGETHER: Final = 100_000_000  # of all trials: within the deadline of a worker
VMK: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who can open a volume: a password under PBKDF2 wraps a key, which wraps that of the volume."""

    uuid: str
    salt: bytes
    rounds: int
    wrapped: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How a family of volumes is encrypted. ``encrypted`` None: it is not said."""

    encrypted: bool | None
    users: tuple[User, ...]
    wrapped: tuple[bytes, ...]
    status: str
    others: int

    @property
    def protectors(self) -> tuple[Protector, ...]:
        """Return what can open the volumes."""
        return tuple(
            Protector(
                str(number),
                "recovery" if user.uuid.upper() == _RECOVERY else "password",
                user.uuid,
                f"pbkdf2-sha256, {user.rounds} iterations",
            )
            for number, user in enumerate(self.users)
        )


def context(listed: dict[str, object]) -> Context:
    """Take what a property list says of encryption, in the metadata or in a file of its own."""
    inner = _cs_xml.inner(listed, _CONTEXT) or listed
    keys = _cs_xml.rows(inner, "WrappedVolumeKeys")
    users = _cs_xml.rows(inner, "CryptoUsers")[:_MOST_USERS]
    read = [user for row in users if (user := _user(row)) is not None]
    wrapped = []
    for row in keys[:_MOST_USERS]:
        held = row.get("KEKWrappedVolumeKeyStruct")
        if isinstance(held, bytes) and len(held) == _VOLUME:
            wrapped.append(held[8:32])
    names = {_cs_xml.text(row, "BlockAlgorithm") for row in keys}
    encrypted = None if not keys else bool(names - {"None", ""}) or bool(wrapped)
    return Context(
        encrypted=encrypted,
        users=tuple(read),
        wrapped=tuple(wrapped),
        status=_cs_xml.text(_cs_xml.inner(inner, "ConversionInfo"), "ConversionStatus"),
        others=len(users) - len(read),
    )


def _user(row: dict[str, object]) -> User | None:
    held = row.get("PassphraseWrappedKEKStruct")
    if not isinstance(held, bytes) or len(held) != _USER:
        return None
    kind, salted, salt, key_kind, key_held, wrapped = struct.unpack_from("<II16sII24s", held)
    (rounds,) = struct.unpack_from("<I", held, 168)
    if (kind, salted, key_kind, key_held) != (3, 16, 16, 24):
        return None
    return User(uuid=_cs_xml.text(row, "UserIdent"), salt=salt, rounds=rounds, wrapped=wrapped)


def file_context(raw: bytes, key: bytes) -> Context | None:
    """Return what EncryptedRoot.plist.wipekey says, encrypted under a header's key or not; None: nothing."""
    if len(raw) > _cs_xml.SIZE_MOST or len(raw) < 16:
        return None
    if not raw.lstrip().startswith(b"<"):
        # One unit of XTS, whose tweak is zero, under a second key of zeros.
        raw = Cipher(algorithms.AES(key + bytes(16)), modes.XTS(bytes(16))).decryptor().update(raw)
    try:
        return context(_cs_xml.parse(raw))
    except EvidenceError:
        return None


class Trials:
    """Passwords on their way through the users of contexts. What is left out is ``said``."""

    def __init__(self, secrets: Sequence[Secret], said: list[str]) -> None:
        self._passwords = [one.value for one in secrets if one.kind in ("password", "recovery")]
        self._said = said
        self._left = _MOST_TOGETHER
        self._found: dict[Context, bytes] = {}

    def master(self, one: Context) -> bytes:
        """Return the key of a volume that a password opens; nothing where none does."""
        if one not in self._found:
            self._found[one] = self._master(one)
        return self._found[one]

    def _master(self, one: Context) -> bytes:
        for number, user in enumerate(one.users):
            for password in self._passwords:
                self._left -= user.rounds
                if user.rounds > _MOST_ROUNDS or self._left < 0:
                    self._said.append(f"user {number} asks for {user.rounds} iterations of PBKDF2: too many")
                    break
                try:
                    derived = _kdf.pbkdf2("sha256", password, user.salt, user.rounds, 16)
                except EvidenceError as why:
                    self._said.append(f"user {number}: {why}")
                    break
                try:
                    between = aes_key_unwrap(derived, user.wrapped)
                except InvalidUnwrap:
                    continue
                for wrapped in one.wrapped:
                    try:
                        return aes_key_unwrap(between, wrapped)
                    except InvalidUnwrap:
                        continue
                self._said.append(f"user {number}: the password is right, and opens no key of the volume")
        return b""


def codec(key: bytes, family: bytes) -> Codec:
    """Return the cipher of a volume; its second key is a digest of the first and of the family."""
    tweak = hashlib.sha256(key + family).digest()[:16] if len(key) == VMK else key[VMK:]
    return Codec("aes-xts", {"key": key[:VMK] + tweak, "iv": b"plain64"})


def ready() -> None:
    """Let every library do once what it does the first time."""
    aes_key_unwrap(bytes(16), aes_key_wrap(bytes(16), bytes(16)))
    Cipher(algorithms.AES(bytes(range(32))), modes.XTS(bytes(16))).decryptor().update(bytes(32))
    _kdf.pbkdf2("sha256", b"", b"salt", 1, 16)
    _cs_xml.parse(b"<plist><dict><key>a</key><data>AA==</data></dict></plist>")


ready()
