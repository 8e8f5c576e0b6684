"""What comes before the files of a disc: volume descriptors, and the boot images of El Torito.

Source: ECMA-119 4th edition, section 8; Joliet Specification, Microsoft 1995; SUSP 1.12, section 5.3; El
Torito Bootable CD-ROM Format Specification 1.0, section 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.iso9660.records import SECTOR, parse
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader

_JOLIET: Final = (b"%/@", b"%/C", b"%/E")
_DESCRIPTORS: Final = 64  # volume descriptors that are looked at
_TORITO: Final = b"EL TORITO SPECIFICATION"
_IMAGES: Final = 64  # of a boot catalogue
_PLATFORMS: Final = {0: "x86", 1: "PowerPC", 2: "Mac", 0xEF: "EFI"}
_MEDIA: Final = ("no emulation", "1.2 MB diskette", "1.44 MB diskette", "2.88 MB diskette", "hard disk")


class Descriptor(NamedTuple):
    """A volume descriptor and where it is stored, in bytes."""

    at: int
    raw: bytes

    @property
    def root(self) -> int:
        """Return where the record of the root directory is."""
        return self.at + 156


@dataclass(slots=True, kw_only=True)
class Descriptors:
    """What the descriptors say. ``skip``: bytes before Rock Ridge entries, None: there are none."""

    primary: Descriptor
    joliet: Descriptor | None
    block: int
    skip: int | None
    boot: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Return the name of the volume; of a Joliet one, which has room for 16 letters, the rest too."""
        label = self.primary.raw[40:72].decode("ascii", "replace")
        if self.joliet is not None:
            wide = self.joliet.raw[40:72].decode("utf-16-be", "replace").rstrip(" \0")
            label = wide + label[16:] if len(wide) == 16 else wide or label
        return label.rstrip(" \0")

    @property
    def uuid(self) -> str:
        """Return when the volume was changed or made, which is what Linux calls its UUID."""
        return _stamp(self.primary.raw[830:846]) or _stamp(self.primary.raw[813:829])


def read_descriptors(reader: Reader) -> Descriptors:
    """Read the volume descriptors.

    Raises:
        NotMine: no primary volume descriptor.
        Malformed: a block size or a root directory that cannot be.
    """
    primary: Descriptor | None = None
    joliet: Descriptor | None = None
    catalogue = 0
    for number in range(16, 16 + _DESCRIPTORS):
        at = number * SECTOR
        if at + SECTOR > reader.size:
            break
        raw = reader.read(at, SECTOR)
        if raw[1:6] != b"CD001" or raw[0] == 255:
            break
        if raw[0] == 1 and primary is None:
            primary = Descriptor(at, raw)
        elif raw[0] == 2 and raw[88:91] in _JOLIET and joliet is None:
            joliet = Descriptor(at, raw)
        elif raw[0] == 0 and raw[7:39].rstrip(b"\0") == _TORITO and not catalogue:
            (catalogue,) = struct.unpack_from("<I", raw, 71)
    if primary is None:
        raise NotMine("iso9660")
    (block,) = struct.unpack_from("<H", primary.raw, 128)
    if block not in {512, 1024, 2048}:
        raise Malformed(f"blocks of {block} bytes", start=primary.at + 128, stop=primary.at + 130)
    return Descriptors(
        primary=primary,
        joliet=joliet,
        block=block,
        skip=_rock_ridge_skip(reader, primary.raw, block),
        boot=_boot_images(reader, catalogue) if catalogue else [],
    )


def _rock_ridge_skip(reader: Reader, primary: bytes, block: int) -> int | None:
    """Return how many bytes precede system use entries, None: there are none.

    Source: SUSP 1.12 section 5.3: SP stands at the start of the first record of the root directory.
    """
    root = parse(primary, 156, 0)
    if root is None:
        raise Malformed("no record of the root directory", start=16 * SECTOR + 156, stop=16 * SECTOR + 190)
    at = root.extent * block
    if at + SECTOR > reader.size:
        return None
    own = parse(reader.read(at, SECTOR), 0, at)
    if own is None:
        return None
    for start in (0, 14):  # CD-XA puts 14 bytes of its own before
        use = own.use[start:]
        if use[:2] == b"SP" and use[4:6] == b"\xbe\xef" and len(use) >= 7:
            return use[6]
    return None


def _boot_images(reader: Reader, catalogue: int) -> list[str]:
    """Say what a disc boots: entries of 32 bytes, the first one to be validated."""
    try:
        raw = reader.read(catalogue * SECTOR, SECTOR)
    except EvidenceError as why:
        return [f"El Torito: {why.message}"]
    words = struct.unpack_from("<16H", raw)
    if raw[0] != 1 or raw[30:32] != b"\x55\xaa" or sum(words) & 0xFFFF:
        return [f"El Torito: the catalogue in block {catalogue} is not valid"]
    platform, said = raw[1], list[str]()
    for at in range(32, SECTOR, 32):
        kind = raw[at]
        if kind in (0x90, 0x91):  # header of a section
            platform = raw[at + 1]
        elif kind in (0x88, 0x00) and any(raw[at : at + 32]):
            media = (
                _MEDIA[raw[at + 1] & 15] if raw[at + 1] & 15 < len(_MEDIA) else f"media {raw[at + 1] & 15}"
            )
            sectors, block = struct.unpack_from("<HI", raw, at + 6)
            name = _PLATFORMS.get(platform, f"platform {platform}")
            bootable = "" if kind else ", not bootable"
            place = f"at byte {block * SECTOR}, {media}, loads {sectors} sectors{bootable}"
            said.append(f"El Torito: {name} boot image {place}")
        elif kind != 0x44:  # an extension of the entry before
            break
        if len(said) >= _IMAGES:
            break
    return said


def _stamp(digits: bytes) -> str:
    if not digits.isdigit() or not digits.strip(b"0"):
        return ""
    text = digits.decode()
    return "-".join([text[:4], *(text[at : at + 2] for at in range(4, 16, 2))])
