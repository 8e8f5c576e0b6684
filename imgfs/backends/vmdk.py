"""VMDK: disks of VMware in extents, with the images they build upon.

A descriptor, in a file of its own or in the first extent, names the extents. Flat ones and grains that are
stored verbatim are runs; compressed grains are units that the daemon decodes.

Source: VMware, "Virtual Disk Format 5.0" (2011); libvmdk documentation, "VMware Virtual Disk (VMDK) format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._vmdk_chain import open_chain
from imgfs.backends._vmdk_sparse import HOSTED, SERVER, SESPARSE

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media


def open_vmdk(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read a descriptor, or a sparse extent.

    Raises:
        NotMine: it is neither.
        NotSupported: a version, compression or state that is not known.
        Malformed: sizes or extent lines that cannot be.
    """
    return open_chain(reader)


BACKEND = Backend(
    name="vmdk",
    title="VMDK",
    role=Role.MEDIA,
    rank=20,
    signatures=(
        Signature(0, HOSTED),
        Signature(0, SERVER),
        Signature(0, SESPARSE),
        Signature(0, b"# Disk DescriptorFile"),
    ),
    by_name=r".*\.vmdk",  # descriptors that start with an empty line or in small letters
    open=open_vmdk,
    supports="flat, sparse, split, stream-optimised, COWD, SESparse; extents and parents beside the image",
    truth=("peer", "composed", "corpus"),
)
