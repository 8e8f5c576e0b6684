"""Tables of the kernel's device-mapper as disks: what ``dmsetup table`` prints, over image files.

A line is ``[NAME:] START LENGTH TARGET ARGUMENTS``, in sectors of 512 bytes. Devices are files beside the
table (or where the analyst points), or the names of devices of earlier lines, also as /dev/mapper/NAME; the
last device is the disk. Nothing tells such a file from other text: ``imgfs map`` asks for it.

Source: the kernel's Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role
from imgfs.backends._dm_targets import Devices, target
from imgfs.backends._lvm2_bodies import Body, joined, lost_body
from imgfs.errors import EvidenceError, Malformed, NotSupported
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_TEXT_MOST: Final = 16 << 20
_LINES_MOST: Final = 500_000
_DEVICES_MOST: Final = 4096
_SECTOR: Final = 512
_SIZE_MOST: Final = (1 << 63) - 1
_LOST: Final = 64


@dataclass(slots=True)
class Row:
    """One line: a range of a device in sectors, its target and what that is told."""

    number: int
    start: int
    length: int
    target: str
    words: list[str] = field(default_factory=list)


def open_dmtable(reader: Reader, options: Options) -> Media:
    """Read a table and lay its devices over files.

    Raises:
        Malformed: it is none, or contradicts itself; the message names the line.
        NotSupported: a target is not known here.
    """
    del options
    if reader.size > _TEXT_MOST:
        raise Malformed(f"a table of {reader.size} bytes")
    try:
        text = reader.read(0, reader.size).decode()
    except UnicodeDecodeError:
        raise Malformed("a table is text") from None
    tables = _tables(text)
    devices = Devices(reader)
    body = lost_body(0)
    for name, rows in tables.items():
        body = _device(name, rows, devices)
    if not body.size:
        raise Malformed("no device")
    devices.stack.lay(body.size, body.runs)  # the last layout is the disk
    devices.stack.write(reader)
    return Media(
        layouts=tuple(devices.stack.layouts),
        version=f"{len(tables)} devices" if len(tables) > 1 else "",
        wants=tuple(devices.wants),
        notes=tuple(note for note in devices.notes if "the group says" not in note),
        lost=tuple((a, b, "the table says error, or its file is not here") for a, b in body.lost()[:_LOST]),
    )


def _tables(text: str) -> dict[str, list[Row]]:
    """Return the lines of each device, in order."""
    tables: dict[str, list[Row]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if number > _LINES_MOST or len(tables) > _DEVICES_MOST:
            raise Malformed(f"line {number}: a table of more lines or devices than are read")
        name = words.pop(0)[:-1] if words[0].endswith(":") else ""
        try:
            row = Row(number, int(words[0]), int(words[1]), words[2], words[3:])
        except (ValueError, IndexError):
            raise Malformed(f"line {number}: START LENGTH TARGET expected") from None
        tables.setdefault(name, []).append(row)
    return tables


def _device(name: str, rows: list[Row], devices: Devices) -> Body:
    """Return the bytes of one device, and give it its name."""
    areas: list[tuple[int, int, Body]] = []
    end = 0
    for row in sorted(rows, key=lambda one: one.start):
        if row.start != end or row.length <= 0 or (row.start + row.length) * _SECTOR > _SIZE_MOST:
            raise Malformed(f"line {row.number}: sectors {row.start}+{row.length}, {end} is next")
        length = row.length * _SECTOR
        try:
            found = target(row.target, name, row.words, length, devices)
        except EvidenceError as why:
            if not devices.wants:
                raise Malformed(f"line {row.number}: {why.message}") from None
            found = lost_body(length)  # its metadata lies on a file that is not here
            devices.say(name or "the disk", why.message)
        except NotSupported as why:
            raise NotSupported(f"line {row.number}: {why.message}") from None
        except (ValueError, IndexError):
            raise Malformed(f"line {row.number}: arguments of {row.target}") from None
        areas.append((row.start * _SECTOR, length, found))
        end = row.start + row.length
    runs = joined(end * _SECTOR, devices.runs_of(areas))
    lost = [(at + a, at + b) for at, _, body in areas for a, b in body.inner]
    body = Body(end * _SECTOR, runs, sum(body.weight for _, _, body in areas), tuple(lost))
    devices.define(name, body)
    return body


BACKEND = Backend(
    name="dmtable",
    title="Device-mapper table",
    role=Role.MEDIA,
    rank=900,
    by_name="",
    open=open_dmtable,
    imports=("imgfs.backends._kdf",),
    supports="linear, striped, zero, error, crypt, snapshot, thin, raid, over image files (`imgfs map`)",
    truth=("composed", "peer"),
)
