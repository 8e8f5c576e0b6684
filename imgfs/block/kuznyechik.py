"""Kuznyechik (RFC 7801), which VeraCrypt has and libgcrypt has not: by an extension of our own.

There is no slow way beside it: a header alone is tried under a hundred derived keys.
"""

from __future__ import annotations

from typing import Final

from imgfs.errors import BadUnit

try:
    from imgfs.block import _kuznyechik as _fast
except ImportError:  # no compiler when imgfs was installed
    _fast = None  # type: ignore[assignment]

KEY: Final = 32


def available() -> bool:
    """Say whether the extension was built."""
    return _fast is not None


def ecb(key: bytes, data: bytes | bytearray | memoryview, *, decrypt: bool) -> bytearray:
    """Return blocks decrypted or encrypted, one by one.

    Raises:
        BadUnit: the extension was not built, or takes no such key.
    """
    if _fast is None or len(key) != KEY:
        raise BadUnit(f"no Kuznyechik with a key of {8 * len(key)} bits here")
    out = bytearray(data)
    _fast.ecb(key, out, not decrypt)
    return out
