"""APFS: every volume of a container a tree, and every snapshot of a volume.

A container may hold volumes that are locked and others that are not: with no key the others are shown.
The worker finds the keys and decrypts records; file contents are decrypted by the daemon.

Source: Apple File System Reference, 2020-06-22; libfsapfs, "Apple File System (APFS)".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.apfs.container import MAGIC, MAGIC_AT, open_container
from imgfs.backends.apfs.files import ApfsFiles
from imgfs.backends.apfs.opening import KINDS, Opening

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader


def open_apfs(reader: Reader, options: Options) -> Files:
    """Open the volumes of a container, with the analyst's keys where they are encrypted.

    Raises:
        NotMine: no superblock.
        NeedKey: a volume is encrypted, and no key opens one.
        NotSupported: a Fusion drive, features that lay it out in another way, or keys in hardware.
        Malformed: no state of it can be read, or it has no volume.
    """
    opening = Opening(open_container(reader), options)
    info = opening.info()
    return ApfsFiles(reader, opening.container.blocks, opening.states, info)


BACKEND = Backend(
    name="apfs",
    title="APFS",
    role=Role.FILES,
    rank=27,
    signatures=(Signature(MAGIC_AT, MAGIC),),
    open=open_apfs,
    keys=KINDS,
    sets=True,
    partly=True,
    imports=("imgfs.backends._kdf", "imgfs.backends.apfs.keys"),
    supports=(
        "volumes and snapshots as trees, sealed volumes, compressed files, extended attributes; software"
        " encryption: password, recovery key, volume key; not: Fusion, keys in hardware"
    ),
    truth=("kernel", "peer", "composed", "corpus"),
)
