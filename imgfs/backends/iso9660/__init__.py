"""ISO 9660 with Rock Ridge and Joliet: all trees of a disc.

Read here and not through TSK, which knows neither links nor times of Rock Ridge as written by several
mastering programs and shows the short names instead.

Source: ECMA-119 4th edition; Joliet Specification, Microsoft 1995; IEEE P1282 RRIP 1.12.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.iso9660.descriptors import read_descriptors
from imgfs.backends.iso9660.files import IsoFiles, View
from imgfs.model import FilesInfo, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader


def open_iso(reader: Reader, _options: Options) -> IsoFiles:
    """Open a volume. Its root is the tree that says most: Rock Ridge, else Joliet, else the plain names.

    The others are trees of their own, ``joliet`` and ``iso9660``.

    Raises:
        NotMine: no primary volume descriptor.
        Malformed: a block size or a root directory that cannot be.
    """
    found = read_descriptors(reader)
    views = [("iso9660", View(root=found.primary.root))]
    if found.joliet is not None:
        views.insert(0, ("joliet", View(root=found.joliet.root, joliet=True)))
    if found.skip is not None:
        views.insert(0, ("rock ridge", View(root=found.primary.root, skip=found.skip)))
    richest = views[0][0]
    trees = [TreeInfo("root" if not index else name, view.root) for index, (name, view) in enumerate(views)]
    info = FilesInfo(
        type="iso9660",
        trees=tuple(trees),
        block=found.block,
        size=struct.unpack_from("<I", found.primary.raw, 80)[0] * found.block,
        label=found.label,
        uuid=found.uuid,
        version="" if richest == "iso9660" else richest,
        notes=tuple(found.boot),
    )
    return IsoFiles(reader, info, tuple(view for _, view in views))


BACKEND = Backend(
    name="iso9660",
    title="ISO 9660",
    role=Role.FILES,
    rank=10,
    open=open_iso,
    signatures=(Signature(32769, b"CD001"),),
    exclusive=False,  # hybrid images carry a partition table as well
    supports=(
        "plain, Joliet and Rock Ridge trees, hard links, attributes and ACLs, multi-extent files, moved"
        " directories, zisofs, El Torito; no deleted files"
    ),
    truth=("kernel", "peer", "corpus"),
)
