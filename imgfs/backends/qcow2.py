"""QCOW2: disks of QEMU in clusters, versions 2 and 3; with the images they build upon.

Only headers and tables are read here. Clusters that are stored verbatim are runs of the file; compressed
ones are units that the daemon decodes. Reference counts are not needed to read.

Source: QEMU docs/interop/qcow2.txt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._qcow2_header import MAGIC
from imgfs.backends._qcow_chain import open_chain

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media


def open_qcow2(reader: Reader, options: Options) -> Media:
    """Read the active disk of an image of version 2 or 3, or one of its internal snapshots.

    Raises:
        NotMine: no QCOW2 signature.
        NotSupported: encrypted, or with a feature nobody here knows.
        Malformed: sizes are impossible.
    """
    return open_chain(reader, 3, options.state)


BACKEND = Backend(
    name="qcow2",
    title="QCOW2",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, MAGIC + b"\0\0\0\x02"), Signature(0, MAGIC + b"\0\0\0\x03")),
    open=open_qcow2,
    imports=("zstandard",),
    supports="versions 2, 3; zlib, zstd; subclusters; backing files and data files beside the image; "
    "internal snapshots as further disks",
    truth=("peer", "corpus"),
)
