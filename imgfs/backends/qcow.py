"""QCOW, the first version: disks of QEMU in clusters, plain or compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._qcow2_header import MAGIC
from imgfs.backends._qcow_chain import open_chain

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media


def open_qcow(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read an image of version 1.

    Raises:
        NotMine: no QCOW signature.
        NotSupported: encrypted.
        Malformed: sizes are impossible.
    """
    return open_chain(reader, 1)


BACKEND = Backend(
    name="qcow",
    title="QCOW",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, MAGIC + b"\0\0\0\x01"),),
    open=open_qcow,
    supports="plain and compressed clusters; backing files beside the image",
    truth=("peer",),
)
