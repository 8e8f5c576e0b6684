"""The text that names the extents of a VMDK disk and its parent. Everything in it is a claim.

Source: VMware, "Virtual Disk Format 5.0", "The Descriptor File"; libvmdk documentation, same title.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from encodings import cp1252  # a worker cannot load what it meets
from typing import Final

from imgfs import limits
from imgfs.errors import Malformed

SECTOR: Final = 512
NO_PARENT: Final = 0xFFFF_FFFF
MAX_TEXT: Final = 2 * limits.MIB  # bytes: sixteen thousand extents take half of that
MAX_EXTENTS: Final = 16_384
_SIGNATURE: Final = b"# disk descriptorfile"
_EXTENT: Final = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+(\d{1,19})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,19}))?.*)?', re.ASCII
)
_ACCESS: Final = re.compile(r"(?:RW|RDONLY|NOACCESS)\s")
_PAIR: Final = re.compile(r'([A-Za-z][\w.]*)\s*=\s*(?:"([^"]*)"|(\S+))')
_FACTS: Final = {
    "createtype": "type",
    "ddb.adaptertype": "adapter",
    "ddb.uuid": "uuid",
    "ddb.longcontentid": "long content id",
    "ddb.virtualhwversion": "virtual hardware",
    "changetrackpath": "change tracking",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A line of the extent description. Units: bytes; ``offset`` is into the file of a flat extent."""

    access: str
    size: int
    kind: str
    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a descriptor says. ``parent`` is the name of the image below, as it stands there.

    A content id of None stands nowhere.
    """

    extents: tuple[Extent, ...]
    facts: dict[str, str]
    create_type: str = ""
    cid: int | None = None
    parent_cid: int | None = None
    parent: str = ""

    @property
    def is_child(self) -> bool:
        """Say whether what no extent holds is another image's, or may be."""
        return bool(self.parent) or self.parent_cid != NO_PARENT


def is_descriptor(head: bytes) -> bool:
    """Say whether a file that starts with ``head`` is a descriptor of its own."""
    return head.lstrip()[: len(_SIGNATURE)].lower() == _SIGNATURE


def parse(raw: bytes) -> Descriptor:
    """Read a descriptor up to its first NUL.

    Raises:
        Malformed: an extent line that cannot be read, or too many of them: what follows has no place.
    """
    pairs: dict[str, str] = {}
    extents: list[Extent] = []
    for line in _text(raw).split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if _ACCESS.match(stripped):
            extents.append(_extent(stripped))
            if len(extents) > MAX_EXTENTS:
                raise Malformed(f"a descriptor of more than {MAX_EXTENTS} extents")
        elif pair := _PAIR.match(stripped):
            pairs.setdefault(pair[1].lower(), pair[2] if pair[2] is not None else pair[3])
    if sum(extent.size for extent in extents) > limits.MAX_SIZE:
        raise Malformed(f"a disk of {sum(extent.size for extent in extents)} bytes")
    facts = {shown: pairs[key][:200] for key, shown in _FACTS.items() if pairs.get(key)}
    cid = _number(pairs, "cid")
    if cid is not None:
        facts["content id"] = f"{cid:08x}"
    return Descriptor(
        extents=tuple(extents),
        facts=facts,
        create_type=pairs.get("createtype", "")[:64],
        cid=cid,
        parent_cid=_number(pairs, "parentcid"),
        parent=pairs.get("parentfilenamehint", ""),
    )


def _text(raw: bytes) -> str:
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if b'encoding="windows-1252"' in raw:
            return cp1252.Codec().decode(raw, "replace")[0]
        return raw.decode(errors="replace")  # such a name is that of no file


def _extent(line: str) -> Extent:
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise Malformed(f"an extent line that cannot be read: {line[:100]!r}")
    size, offset = int(match[2]) * SECTOR, int(match[5] or 0) * SECTOR
    if not 0 < size <= limits.MAX_SIZE or offset > limits.MAX_SIZE:
        raise Malformed(f"an extent of {size} bytes at {offset}")
    return Extent(access=match[1], size=size, kind=match[3], name=match[4] or "", offset=offset)


def _number(pairs: dict[str, str], key: str) -> int | None:
    text = pairs.get(key, "")
    return int(text, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,8}", text) else None
