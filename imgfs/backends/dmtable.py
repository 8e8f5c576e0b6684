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
from imgfs.errors import Malformed, NotSupported
from imgfs.model import LOST, Linear, Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Layout

_TEXT_MOST: Final = 16 << 20
_LINES_MOST: Final = 500_000
_DEVICES_MOST: Final = 4096
_SECTOR: Final = 512
_SIZE_MOST: Final = 1 << 63


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
    for name, rows in tables.items():
        _device(name, rows, devices)
    if not devices.layouts:
        raise Malformed("no device")
    return Media(
        layouts=tuple(devices.layouts),
        version=f"{len(tables)} devices" if len(tables) > 1 else "",
        wants=tuple(devices.wants),
        notes=tuple(devices.notes),
        lost=tuple(devices.lost),
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


def _device(name: str, rows: list[Row], devices: Devices) -> None:
    """Add the layouts of one device."""
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    end = 0
    for row in sorted(rows, key=lambda one: one.start):
        if row.start != end or row.length <= 0 or (row.start + row.length) * _SECTOR >= _SIZE_MOST:
            raise Malformed(f"line {row.number}: sectors {row.start}+{row.length}, {end} is next")
        try:
            found = target(row.target, row.words, row.start, row.length * _SECTOR, devices)
        except Malformed as why:
            raise Malformed(f"line {row.number}: {why.message}") from None
        except NotSupported as why:
            raise NotSupported(f"line {row.number}: {why.message}") from None
        except (ValueError, IndexError):
            raise Malformed(f"line {row.number}: arguments of {row.target}") from None
        at = row.start * _SECTOR
        for logical, length, where, lower in found:
            runs.append((at + logical, length, where))
            which.append(lower)
        end = row.start + row.length
    lost = [(start, start + length) for start, length, where in runs if where == LOST]
    # of the disk, which is the last device
    devices.lost = [(a, b, "the table says error, or its file is not here") for a, b in lost[:64]]
    layout: Layout = Linear.of(end * _SECTOR, runs, which)
    devices.define(name, layout)


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
