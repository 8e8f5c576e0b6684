"""DiskDescriptor.xml, which names the images of a Parallels bundle and the snapshots they belong to.

Everything in it is a claim, and its form is simple: elements of text. It is read by a scanner that knows no
entities and no document types, so that nothing in it can grow.

Source: libphdi documentation, "Parallels Hard Disk image format", "Disk descriptor".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from imgfs import limits
from imgfs.backends._parallels_disk import SECTOR
from imgfs.errors import Malformed, NotMine, NotSupported

NAME: Final = "DiskDescriptor.xml"
MAX_TEXT: Final = 1 * limits.MIB
MAX_STORAGES: Final = 256
NOBODY: Final = "00000000-0000-0000-0000-000000000000"
_ROOT: Final = "Parallels_disk_image"
_TOP: Final = "5fbaabe3-6958-40ff-92a7-860e329aab41"  # of a disk that says no other
_TOKEN: Final = re.compile(r"<(/?)([A-Za-z_][\w.-]{0,63})[^<>]*?(/?)>([^<]*)", re.ASCII)
_DEPTH: Final = 16


@dataclass(slots=True)
class Storage:
    """A range of the disk, in bytes, and the image of each snapshot: (type, file name) by its GUID."""

    start: int = 0
    stop: int = 0
    images: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class Bundle:
    """What a descriptor says. ``parents`` maps a snapshot to the one below; ``top`` is the live one."""

    size: int = 0
    storages: list[Storage] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)
    top: str = _TOP
    facts: dict[str, str] = field(default_factory=dict)

    def below(self, guid: str) -> str:
        """Return the snapshot below another; empty: there is none."""
        parent = self.parents.get(guid, NOBODY)
        return "" if parent == NOBODY else parent


def parse_bundle(raw: bytes) -> Bundle:
    """Read a descriptor.

    Raises:
        NotMine: it is none.
        NotSupported: the disk is encrypted.
        Malformed: storages that overlap or leave gaps, or none at all.
    """
    bundle, path = Bundle(), list[str]()
    shot, image = "", ["", "", ""]
    if f"<{_ROOT}".encode() not in raw[:4096]:
        raise NotMine("parallels")
    for token in _TOKEN.finditer(_without_comments(raw.decode("utf-8", "replace"))):
        closing, name, empty, text = token.groups()
        if closing:
            if not path or path.pop() != name:
                raise Malformed(f"{NAME}: the element {name} ends where it does not begin")
            if name == "Image" and path[-1:] == ["Storage"] and bundle.storages:
                bundle.storages[-1].images[image[0]] = (image[1], image[2])
                image = ["", "", ""]
            continue
        value = _unescaped(text.strip())
        match [*path[1:], name]:
            case ["Disk_Parameters", "Disk_size"]:
                bundle.size = _number(value) * SECTOR
            case ["Disk_Parameters", "Name" | "UID" as what] if value:
                bundle.facts[what.lower()] = value[:200]
            case ["Disk_Parameters", "Encryption", "Engine"] if _guid(value) not in ("", NOBODY):
                raise NotSupported("an encrypted Parallels disk: a passphrase opens it")
            case ["StorageData", "Storage"]:
                bundle.storages.append(Storage())
                if len(bundle.storages) > MAX_STORAGES:
                    raise Malformed(f"{NAME}: more than {MAX_STORAGES} storages")
            case ["StorageData", "Storage", "Start"]:
                bundle.storages[-1].start = _number(value) * SECTOR
            case ["StorageData", "Storage", "End"]:
                bundle.storages[-1].stop = _number(value) * SECTOR
            case ["StorageData", "Storage", "Image", "GUID"]:
                image[0] = _guid(value)
            case ["StorageData", "Storage", "Image", "Type"]:
                image[1] = value
            case ["StorageData", "Storage", "Image", "File"]:
                image[2] = value
            case ["Snapshots", "TopGUID"]:
                bundle.top = _guid(value)
            case ["Snapshots", "Shot", "GUID"]:
                shot = _guid(value)
            case ["Snapshots", "Shot", "ParentGUID"]:
                bundle.parents[shot] = _guid(value)
            case _:
                pass
        if not empty:
            path.append(name)
            if len(path) > _DEPTH:
                raise Malformed(f"{NAME}: elements {_DEPTH} deep")
    return _checked(bundle)


def _checked(bundle: Bundle) -> Bundle:
    at = 0
    for storage in bundle.storages:
        if storage.start != at or not storage.start < storage.stop <= limits.MAX_SIZE:
            raise Malformed(f"{NAME}: a storage from {storage.start} to {storage.stop}, {at} expected")
        at = storage.stop
    if not at:
        raise Malformed(f"{NAME}: no storages")
    if bundle.size not in (0, at):
        raise Malformed(f"{NAME}: a disk of {bundle.size} bytes, storages of {at}")
    if len(bundle.storages[0].images) == 1 and bundle.top not in bundle.storages[0].images:
        bundle.top = next(iter(bundle.storages[0].images))
    return bundle


def _without_comments(text: str) -> str:
    parts: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0:
        parts.append(text[at:start])
        at = text.find("-->", start) + 3
        if at < 3:
            raise Malformed(f"{NAME}: a comment that does not end")
    return "".join([*parts, text[at:]])


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise Malformed(f"{NAME}: {text[:40]!r} is no number of sectors")
    return int(text)


def _guid(text: str) -> str:
    return text.strip("{}").lower()[:64]


def _unescaped(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text
