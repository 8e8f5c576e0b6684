"""Encrypted Apple disk images: ciphertext around UDIF, a sparse image, or a disk as it is.

The worker finds the keys; the daemon decrypts, block by block, in its pool. What is inside is a container
of its own, read from the plaintext: its trailer lies at the end that the header states.
Sources: see ``_encrcdsa`` and ``_encrcdsa_keys``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._encrcdsa import KINDS, MAGIC, MAGIC_1, read_header
from imgfs.errors import Malformed
from imgfs.model import LOST, Enciphered, Linear, Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Layout

_SECTOR: Final = 512


def open_encrcdsa(reader: Reader, options: Options) -> Media:
    """Open an image with the analyst's keys.

    Raises:
        NotMine: no signature.
        NeedKey: no key, or none of them opens it.
        NotSupported: its cipher is not known here.
        Malformed: the header contradicts itself.
    """
    from imgfs.backends import _encrcdsa_keys as keys

    header = read_header(reader)
    header.check()
    block, at, size = header.block, header.data_at, header.data_length
    if not size or size > limits.MAX_SIZE or not 0 <= at <= reader.size:
        raise Malformed(f"{size} bytes at {at} of {reader.size}")
    said = list(header.notes)

    def read(start: int, length: int) -> bytes:
        return reader.read(at + start, max(min(length, reader.size - at - start), 0))

    how = keys.unlock(header, options, read, said)
    # The last block is stored whole; the plaintext ends where the header says.
    held = min(-(-size // block) * block, (reader.size - at) // block * block)
    layouts: list[Layout] = [Enciphered(size=held, sector=block, codec=how, base=at)]
    lost: tuple[tuple[int, int, str], ...] = ()
    whole = min(held, size)
    runs = [(0, whole, 0)] if whole else []
    which = [1 + len(reader.others)] if whole else []
    if whole < size:
        lost = ((whole, size, "the image ends before it"),)
        runs.append((whole, size - whole, LOST))
        which.append(0)
    return Media(
        layouts=(*layouts, Linear.of(size, runs, which)),
        sector=_SECTOR,
        version=header.title,
        metadata={"uuid": header.uuid} if any(bytes.fromhex(header.uuid)) else {},
        lost=lost,
        notes=tuple(said),
    )


BACKEND = Backend(
    name="encrcdsa",
    title="Encrypted Apple disk image",
    role=Role.MEDIA,
    rank=5,
    signatures=(Signature(0, MAGIC), Signature(-8, MAGIC_1)),
    open=open_encrcdsa,
    keys=KINDS,
    imports=("imgfs.backends._kdf", "imgfs.backends._encrcdsa_keys"),
    supports=(
        "version 2 and the trailer of version 1 (FileVault of 10.3); AES-128 and AES-256 in CBC; passphrase"
        " under 3DES or AES, keys of data and vectors; around UDIF, sparse images, sparse bundles, disks"
    ),
    truth=("composed",),
)
