"""EROFS, the Enhanced Read-Only File System.

Source: erofs.docs.kernel.org, On-disk format; fs/erofs/erofs_fs.h of Linux (Apache-2.0).
"""

from __future__ import annotations

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.erofs.files import open_erofs
from imgfs.backends.erofs.superblock import AT, MAGIC

BACKEND = Backend(
    name="erofs",
    title="EROFS",
    role=Role.FILES,
    rank=30,
    signatures=(Signature(AT, MAGIC),),
    open=open_erofs,
    imports=("zstandard", "lz4.block"),
    supports="all compressors, chunks, fragments, extended attributes; not: further devices, 48-bit, metabox",
    truth=("kernel", "corpus"),
)
