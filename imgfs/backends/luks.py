"""LUKS, versions 1 and 2: a volume that a passphrase, a key file or the volume key opens.

The worker derives the key and answers with a cipher; the daemon decrypts, sector by sector, in its pool.
Sources: see ``_luks1`` and ``_luks2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._luks import KINDS
from imgfs.backends._luks1 import open_1
from imgfs.backends._luks2 import MAGIC, MAGIC_2, SECONDS, open_2
from imgfs.errors import NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import VolumeTable


def open_luks(reader: Reader, options: Options) -> VolumeTable:
    """Open a volume with the analyst's keys.

    Raises:
        NotMine: no header, first or second.
        NeedKey: no key, or none of them opens it.
        NotSupported, Malformed: as ``open_1`` and ``open_2``.
    """
    if reader.size >= 592 and reader.read(0, 6) == MAGIC:
        version = int.from_bytes(reader.read(6, 2), "big")
        if version == 1:
            return open_1(reader, options)
        if version != 2:
            raise NotSupported(f"LUKS version {version}")
        return open_2(reader, options)
    if any(at + 6 <= reader.size and reader.read(at, 6) == MAGIC_2 for at in SECONDS):
        return open_2(reader, options)
    raise NotMine("luks")


BACKEND = Backend(
    name="luks",
    title="LUKS",
    role=Role.VOLUMES,
    rank=5,  # before tables: plaintext may begin with one, ciphertext never does
    signatures=(Signature(0, MAGIC), *(Signature(at, MAGIC_2) for at in SECONDS[:3])),
    open=open_luks,
    keys=KINDS,
    imports=("imgfs.backends._kdf",),
    supports=(
        "versions 1 and 2; aes, serpent, twofish, camellia in xts, cbc, ecb; plain, plain64, essiv; pbkdf2,"
        " argon2i, argon2id; all slots, key files, volume key; second header"
    ),
    truth=("peer", "composed", "corpus"),
)
