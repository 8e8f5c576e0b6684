"""Containers that are named but not read.

Source: signatures as the documentation of each format gives them: ADCRYPT (ad1-forensic), types and
creators of Disk Copy 6 (NDIF), AFF standard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Role
from imgfs.backends._recognised import at, row

if TYPE_CHECKING:
    from imgfs.backends import Backend

_CONVERT = "convert it first: qemu-img convert -O raw"


RECOGNISED: tuple[Backend, ...] = (
    row(
        "adcrypt",
        "Encrypted AccessData image",
        Role.MEDIA,
        at(0, b"ADCRYPT\0"),
        needs="a passphrase or certificate opens it: decrypt it with FTK Imager first",
    ),
    row("qed", "QED", Role.MEDIA, at(0, b"QED\0"), needs=_CONVERT),
    row(  # in MacBinary: the chunks of the data fork are named in the resource fork behind it
        "ndif",
        "NDIF",
        Role.MEDIA,
        at(65, b"rohdddsk", b"hdroddsk", b"hdrwddsk", b"dImgddsk"),
        needs="convert it on a Mac: hdiutil convert",
    ),
    row("aff", "AFF", Role.MEDIA, at(0, b"AFF10\r\n\0"), needs="convert it first: affconvert -r"),
    row("bochs", "Bochs disk", Role.MEDIA, at(0, b"Bochs Virtual HD Image\0"), needs=_CONVERT),
    row(
        "partclone",
        "partclone image",
        Role.MEDIA,
        at(0, b"partclone-image\0"),
        needs="restore it first: partclone",
    ),
)
