"""SquashFS 2, 3 and 4.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs); see ``older`` for versions 2 and 3.
"""

from __future__ import annotations

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.squashfs.files import open_squashfs
from imgfs.backends.squashfs.superblock import MAGICS

BACKEND = Backend(
    name="squashfs",
    title="SquashFS",
    role=Role.FILES,
    rank=30,
    signatures=tuple(Signature(0, magic) for magic in MAGICS),
    open=open_squashfs,
    imports=("zstandard", "lz4.block"),
    supports="versions 2 to 4, both byte orders, all compressors, extended attributes; not: version 1",
    truth=("kernel", "peer", "corpus"),
)
