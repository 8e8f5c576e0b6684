"""The files of a logical image as a tree, by the paths they had; paths are whatever their writer put there.

Source: pyaff4 (Apache-2.0), logical.py and container.py, for AFF4-L 1.1 and winpmem's files of before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._aff4_volume import FILES, FOLDERS, MAPS, SCHEME, STREAMS
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends._aff4_volume import Volume

ROOT: Final = 1
_MAX_NODES: Final = 2_000_000
_MAX_NAME: Final = 4096  # bytes of one component
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_DOTS: Final = "%2E%2E"  # a component that would lead upwards


@dataclass(slots=True)
class Node:
    """A file or folder. ``subject`` is empty for folders that only paths mention."""

    name: bytes
    subject: str = ""
    folder: bool = True
    children: list[int] = field(default_factory=list)


def paths(volume: Volume) -> tuple[list[Node], list[str]]:
    """Return the nodes by number, and notes; number 0 is nothing, ``ROOT`` is the root."""
    nodes = [Node(b""), Node(b"")]
    folders: dict[tuple[int, bytes], int] = {}
    notes: list[str] = []
    for subject in volume.objects:
        types = volume.types(subject)
        told = volume.one(subject, "originalfilename", "pathname")
        folder = bool(types & FOLDERS)
        if not (types & (FILES | FOLDERS) or (told and "Image" in types)):
            continue
        parts = split(told or subject.removeprefix(SCHEME).partition("/")[2])
        if len(nodes) + len(parts) > _MAX_NODES:
            notes.append(f"files beyond {_MAX_NODES} are not shown")
            break
        at = ROOT
        for part in parts if folder else parts[:-1]:
            number = folders.get((at, part))
            if number is None:
                nodes.append(Node(part))
                number = folders[at, part] = len(nodes) - 1
                nodes[at].children.append(number)
            at = number
        if folder:
            nodes[at].subject = subject
            continue
        nodes.append(Node(parts[-1] if parts else b"unnamed", subject, folder=False))
        nodes[at].children.append(len(nodes) - 1)
    return nodes, notes


def split(path: str) -> list[bytes]:
    """Return the components of a path of either kind; none leads upwards."""
    if _WINDOWS.match(path) or "/" not in path:
        path = path.replace("\\", "/")
    parts = [_DOTS if part == ".." else part for part in path.split("/") if part not in ("", ".")]
    return [part.encode("utf-8", "replace")[:_MAX_NAME] for part in parts]


def attr_of(volume: Volume, number: int, node: Node, size: int, damaged: str) -> Attr:
    """Return what was recorded of a file or folder."""
    times = [
        nanoseconds(volume.one(node.subject, name)) if node.subject else None
        for name in ("lastwritten", "lastaccessed", "recordchanged", "birthtime")
    ]
    return Attr(
        kind=Kind.DIR if node.folder else Kind.REG,
        inum=number,
        size=size,
        allocated=size,
        mode=0o555 if node.folder else 0o444,
        nlink=2 if node.folder else 1,
        m_ns=times[0],
        a_ns=times[1],
        c_ns=times[2],
        b_ns=times[3],
        damaged=damaged,
    )


def nanoseconds(text: str) -> int | None:
    """Return an xsd:dateTime in nanoseconds since 1970, UTC without a zone; None: not of 1678 to 2262."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    zone = found[8] or "Z"
    try:
        moment = datetime(*(int(found[i]) for i in range(1, 7)), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        return None
    seconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if zone != "Z":
        digits = zone[1:].replace(":", "")
        seconds -= (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)
    moment_ns = seconds * 10**9 + int((found[7] or "").ljust(9, "0"))
    return moment_ns if -limits.MAX_SIZE <= moment_ns <= limits.MAX_SIZE else None


def sized(volume: Volume, subject: str) -> tuple[int | None, str]:
    """Return the size of a file, None: only its map tells; and what is wrong with it."""
    recorded = volume.number(subject, "size")
    if volume.types(subject) & (STREAMS | MAPS) or volume.get(subject, "datastream"):
        return recorded, ""
    segment = volume.find(subject, volume.one(subject, "stored"))
    if segment is None:
        return recorded or 0, "" if recorded == 0 else "its content is not in the volume"
    if recorded is not None and recorded != segment.size:
        return segment.size, f"recorded with {recorded} bytes, {segment.size} are stored"
    return segment.size, ""
