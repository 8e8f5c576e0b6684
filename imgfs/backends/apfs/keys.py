"""(In a worker) from what the analyst knows to the key of a volume.

Sources: Apple File System Reference (2020-06-22), "Accessing Encrypted Objects"; Sylve, "APFS Advent
Challenge", 2022, day 16 (keys of 128 bits); RFC 8018 (PBKDF2), RFC 3394 (key wrap).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from imgfs.backends import _kdf
from imgfs.errors import EvidenceError
from imgfs.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends.apfs.keybag import Keys
    from imgfs.model import Secret

_KEY, _HALF = 32, 16  # bytes of a key of XTS, and of one that CoreStorage left
_MOST_ROUNDS: Final = 10_000_000  # of one user: some seconds; macOS writes 100,000 and more
_MOST_TOGETHER: Final = 100_000_000  # of all trials: within the deadline of a worker


class Trials:
    """Secrets on their way through the users of volumes. What is left out is ``said``."""

    def __init__(self, secrets: Sequence[Secret], said: list[str]) -> None:
        self._secrets = secrets
        self._said = said
        self._left = _MOST_TOGETHER

    def codecs(self, keys: Keys, family: bytes) -> Iterator[Codec]:
        """Yield ciphers that may be the volume's: of what a password unwraps, and of keys as given."""
        if keys.key is not None:
            for between in self._unwrapped(keys):
                for size in (_KEY, _HALF):
                    key = _unwrap(between[:size], keys.key.key)
                    if len(key) in (_KEY, _HALF):
                        yield codec(key, keys.key.uuid)
        for secret in self._secrets:
            if secret.kind == "volume-key" and len(secret.value) in (_KEY, _HALF):
                yield codec(secret.value, keys.key.uuid if keys.key is not None else family)

    def _unwrapped(self, keys: Keys) -> Iterator[bytes]:
        """Yield the keys that users' passwords unwrap."""
        words = [one.value for one in self._secrets if one.kind in ("password", "recovery")]
        for number, user in enumerate(keys.users):
            for word in words:
                self._left -= user.wrapped.rounds
                if user.wrapped.rounds > _MOST_ROUNDS or self._left < 0:
                    self._said.append(f"user {number} asks for {user.wrapped.rounds} iterations: too many")
                    break
                try:
                    derived = _kdf.pbkdf2("sha256", word, user.wrapped.salt, user.wrapped.rounds, _KEY)
                except EvidenceError as why:
                    self._said.append(f"user {number}: {why}")
                    break
                for size in (_KEY, _HALF):
                    if between := _unwrap(derived[:size], user.wrapped.key):
                        yield between


def _unwrap(key: bytes, wrapped: bytes) -> bytes:
    """Return what a key unwraps, nothing when it is another's."""
    try:
        return aes_key_unwrap(key, wrapped)
    except (InvalidUnwrap, ValueError):
        return b""


def codec(key: bytes, uuid: bytes) -> Codec:
    """Return the cipher of a volume; one that CoreStorage left makes its second key from the first."""
    if len(key) == _HALF:
        key += hashlib.sha256(key + uuid).digest()[:_HALF]
    return Codec("aes-xts", {"key": key, "iv": b"plain64"})


def ready() -> None:
    """Let the library do once what it does the first time."""
    aes_key_unwrap(bytes(16), aes_key_wrap(bytes(16), bytes(16)))


ready()
