"""HFS+ and HFSX."""

from __future__ import annotations

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.hfs.files import open_hfs
from imgfs.backends.hfs.volume import HEADER_AT

BACKEND = Backend(
    name="hfs",
    title="HFS+, HFSX",
    role=Role.FILES,
    rank=30,
    signatures=tuple(Signature(HEADER_AT, magic) for magic in (b"H+", b"HX", b"BD")),
    open=open_hfs,
    supports="resource forks, files in zlib, LZVN, LZFSE, hard links, extended attributes, Finder's "
    "information; unreplayed journals said; no deleted files",
    truth=("kernel", "peer", "tsk", "corpus"),
)
