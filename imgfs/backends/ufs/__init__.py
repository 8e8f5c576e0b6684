"""UFS1 and UFS2, read here: TSK does not return from sparse block maps and divides by zero."""

from __future__ import annotations

import struct

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.ufs.files import open_ufs
from imgfs.backends.ufs.structures import MAGIC_AT, MAGICS, PLACES

BACKEND = Backend(
    name="ufs",
    title="UFS1, UFS2",
    role=Role.FILES,
    rank=30,
    signatures=tuple(
        Signature(at + MAGIC_AT, struct.pack(order + "I", magic))
        for at in PLACES[:3]
        for magic in MAGICS
        for order in "<>"
    ),
    open=open_ufs,
    supports="both byte orders, sparse files, fragments, deleted files, orphans; no extended attributes",
    truth=("tsk", "corpus"),
)
