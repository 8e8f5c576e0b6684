"""Targets of the device-mapper as runs over layouts: each returns (logical, length, target, which) in bytes.

Source: the kernel's Documentation/admin-guide/device-mapper: linear.rst, striped.rst, zero.rst, dm-crypt.rst.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed, NotSupported
from imgfs.model import HOLE, LOST, Enciphered, Linear, Striped

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Reader
    from imgfs.model import Layout

_SECTOR: Final = 512
_STRIPES_MOST: Final = 1024
_PREFIXES: Final = ("/dev/mapper/", "/dev/")

Run = tuple[int, int, int, int]


class Devices:
    """What the lines of a table refer to: files, and devices of earlier lines."""

    def __init__(self, reader: Reader) -> None:
        self._sizes = [reader.size, *(other.size for other in reader.others)]
        self._files = {other.name: index for index, other in enumerate(reader.others, 1)}
        self._tickets = len(self._sizes)
        self._named: dict[str, int] = {}
        self.layouts: list[Layout] = []
        self.wants: list[str] = []
        self.notes: list[str] = []
        self.lost: list[tuple[int, int, str]] = []

    def define(self, name: str, layout: Layout) -> None:
        """Give a device its name; later lines may refer to it."""
        self._named[name] = self.add(layout)

    def add(self, layout: Layout) -> int:
        """Add a layout; return its number as layouts count each other."""
        self.layouts.append(layout)
        self._sizes.append(layout.size)
        return self._tickets + len(self.layouts) - 1

    def find(self, word: str) -> int:
        """Return the number of a device; -1: its file is not here, which is noted, and asked for."""
        for prefix in ("", *_PREFIXES):
            if word.startswith(prefix) and word[len(prefix) :] in self._named:
                return self._named[word[len(prefix) :]]
        if word in self._files:
            return self._files[word]
        if word not in self.wants:
            self.wants.append(word)
            self.notes.append(f"{word} is not here: what lies on it is lost")
        return -1

    def size(self, number: int) -> int:
        """Return the bytes of a device."""
        return self._sizes[number]

    def window(self, word: str, sector: int, length: int) -> tuple[int, int, int]:
        """Return (target, usable length, which) of ``length`` bytes from a sector of a device on.

        Raises:
            Malformed: a negative sector.
        """
        if sector < 0:
            raise Malformed(f"sector {sector} of {word}")
        which = self.find(word)
        at = sector * _SECTOR
        if which < 0:
            return LOST, 0, 0
        held = min(max(self.size(which) - at, 0), length)
        if held < length:
            self.notes.append(f"{word} ends {length - held} bytes before what the table lays on it")
        return at, held, which


def target(name: str, words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    """Return the runs of one line: ``length`` bytes, from 0 on.

    Raises:
        Malformed, ValueError, IndexError: its arguments are none.
        NotSupported: the target is not known here.
    """
    known = _TARGETS.get(name)
    if known is None:
        raise NotSupported(f"target {name[:40]!r} is not known here ({', '.join(sorted(_TARGETS))} are)")
    return known(words, start, length, devices)


def _linear(words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    del start
    return _whole(devices, words[0], int(words[1]), length)


def _whole(devices: Devices, word: str, sector: int, length: int) -> list[Run]:
    at, held, which = devices.window(word, sector, length)
    runs = [(0, held, at, which)] if held else []
    return runs + ([(held, length - held, LOST, 0)] if held < length else [])


def _zero(words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    del words, start, devices
    return [(0, length, HOLE, 0)]


def _error(words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    del words, start, devices
    return [(0, length, LOST, 0)]


def _striped(words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    del start
    count, chunk = int(words[0]), int(words[1]) * _SECTOR
    if not 0 < count <= _STRIPES_MOST or chunk <= 0 or length % (count * _SECTOR):
        raise Malformed(f"{count} stripes of {chunk} bytes in {length}")
    each = length // count
    members = [devices.window(words[2 + 2 * i], int(words[3 + 2 * i]), each) for i in range(count)]
    ends, which, base = array("I"), array("H"), array("q")
    for at, held, lower in members:
        if held == each:
            which.append(lower)
            base.append(at)
        ends.append(len(which))
    layout = Striped(
        size=length,
        chunk=chunk,
        stride=chunk,
        ends=ends.tobytes(),
        which=which.tobytes(),
        base=base.tobytes(),
        factor=b"\1" * len(which),
    )
    return [(0, length, 0, devices.add(layout))]


def _crypt(words: list[str], start: int, length: int, devices: Devices) -> list[Run]:
    from imgfs.backends._luks import NULL, codec

    del start
    cipher, key, first, device, at = words[0], words[1], int(words[2]), words[3], int(words[4])
    sector, step = _crypt_options(words[5:])
    runs = _whole(devices, device, at, length)
    if cipher.startswith(NULL):
        return runs
    if key in ("-", ":") or key.startswith(":"):
        raise NotSupported("crypt without its key: dmsetup table --showkeys prints it")
    if runs[0][2] == LOST:
        return runs
    _, held, where, which = runs[0]
    held -= held % sector
    if not held:
        return [(0, length, LOST, 0)]
    layout = Enciphered(
        size=held,
        sector=sector,
        codec=codec(cipher, bytes.fromhex(key)),
        first=first,
        step=step,
        base=where,
        which=which,
    )
    made = [(0, held, 0, devices.add(layout))]
    return made + ([(held, length - held, LOST, 0)] if held < length else [])


def _crypt_options(words: list[str]) -> tuple[int, int]:
    """Return the bytes of a sector, and by how much the number of one differs from the next."""
    sector, large = _SECTOR, False
    for word in words[1 : 1 + int(words[0])] if words else []:
        name, _, value = word.partition(":")
        if name == "sector_size":
            sector = int(value)
        elif name == "iv_large_sectors":
            large = True
        elif name == "integrity":
            raise NotSupported("crypt with integrity")
    if sector not in (512, 1024, 2048, 4096):
        raise Malformed(f"sectors of {sector} bytes")
    return sector, 1 if large else sector // _SECTOR


def whole(size: int, runs: list[Run]) -> Linear:
    """Return runs as a layout."""
    return Linear.of(size, [run[:3] for run in runs], [run[3] for run in runs])


_TARGETS: Final[dict[str, Callable[[list[str], int, int, Devices], list[Run]]]] = {
    "linear": _linear,
    "zero": _zero,
    "error": _error,
    "striped": _striped,
    "crypt": _crypt,
}
