"""Targets of the device-mapper, each the bytes of one line: LVM2 is made of the same, so they are shared.

Source: the kernel's Documentation/admin-guide/device-mapper: linear.rst, striped.rst, zero.rst, dm-crypt.rst,
snapshot.rst, thin-provisioning.rst, dm-raid.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import _lvm2_snapshot, _lvm2_thin
from imgfs.backends._luks import NULL, codec
from imgfs.backends._lvm2_bodies import Body, Stack, hole_body, lost_body
from imgfs.backends._lvm2_group import Group, Logical, Segment
from imgfs.backends._lvm2_mirror import first_of
from imgfs.backends._lvm2_volumes import Volumes
from imgfs.backends._stripes import copies, deal, parity, plain
from imgfs.errors import Malformed, NotSupported
from imgfs.model import Enciphered

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Reader
    from imgfs.backends._lvm2_text import Section

_SECTOR: Final = 512
_MEMBERS_MOST: Final = 253
_PREFIXES: Final = ("/dev/mapper/", "/dev/")
_RAID_DEFAULTS: Final = {"raid5": "raid5_ls", "raid6": "raid6_zr", "raid10_near": "raid10"}


class Devices(Volumes):
    """What the lines of a table refer to: files beside it, and devices of earlier lines."""

    def __init__(self, reader: Reader) -> None:
        group = Group(
            name="",
            uuid="",
            seqno=0,
            extent=_SECTOR,
            physical={},
            logical={},
            status=frozenset(),
            host="",
            notes=(),
        )
        super().__init__(group, {}, Stack([reader, *reader.others]))
        self._files = {other.name: number for number, other in enumerate(reader.others, 1)}
        self._defined: dict[str, Body] = {}
        self.wants: list[str] = []

    def define(self, name: str, body: Body) -> None:
        """Give a device its name; later lines may refer to it."""
        self._defined[name] = body

    def pool(self, name: str, segment: Segment) -> None:
        """Remember what a thin pool is made of."""
        self.group.logical[name] = _logical(name, segment)

    def name(self, word: str) -> str:
        """Return a device's name as lines before gave it, or the word itself."""
        for prefix in ("", *_PREFIXES):
            if word.startswith(prefix) and word[len(prefix) :] in self._defined:
                return word[len(prefix) :]
        return word

    def body(self, name: str) -> Body:
        """Return the bytes of a device; a file that is not here has none, is asked for, and that is said."""
        known = self.name(name)
        if known in self._defined:
            return self._defined[known]
        number = self._files.get(name)
        if number is not None:
            size = self.stack.tickets[number].size
            return Body(size, [(0, size, number, 0)] if size else [], 1)
        if name not in self.wants:
            self.wants.append(name)
            self.say(name, "is not here: what lies on it is lost")
        return lost_body(0)

    def window(self, word: str, sector: str, length: int) -> Body:
        """Return ``length`` bytes from a sector of a device on; what is beyond its end is lost, and said.

        Raises:
            Malformed, ValueError: no such sector.
        """
        start = int(sector) * _SECTOR
        if start < 0:
            raise Malformed(f"sector {sector} of {word}")
        inner = self.body(word)
        if 0 < inner.size < start + length:
            self.say(word, f"ends {start + length - inner.size} bytes before what the table lays on it")
        return self.part(inner, start, length)


def target(name: str, device: str, words: list[str], length: int, devices: Devices) -> Body:
    """Return the bytes of one line of a device.

    Raises:
        Malformed, ValueError, IndexError: its arguments are none.
        NotSupported: the target is not known here.
    """
    known = _TARGETS.get(name)
    if known is None:
        raise NotSupported(f"target {name[:40]!r} is not known here ({', '.join(sorted(_TARGETS))} are)")
    return known(device, words, length, devices)


def _linear(device: str, words: list[str], length: int, devices: Devices) -> Body:
    del device
    return devices.window(words[0], words[1], length)


def _zero(device: str, words: list[str], length: int, devices: Devices) -> Body:
    del device, words, devices
    return hole_body(length)


def _error(device: str, words: list[str], length: int, devices: Devices) -> Body:
    del device, words, devices
    return lost_body(length)


def _origin(device: str, words: list[str], length: int, devices: Devices) -> Body:
    return _linear(device, [words[0], "0"], length, devices)


def _striped(device: str, words: list[str], length: int, devices: Devices) -> Body:
    del device
    count, chunk = int(words[0]), int(words[1]) * _SECTOR
    if not 0 < count <= _MEMBERS_MOST or chunk <= 0 or length % (count * _SECTOR):
        raise Malformed(f"{count} stripes of {chunk} bytes in {length}")
    parts = [devices.window(words[2 + 2 * i], words[3 + 2 * i], length // count) for i in range(count)]
    return deal(devices.stack, length, chunk, [devices.disk(part) for part in parts], plain(count))


def _raid(device: str, words: list[str], length: int, devices: Devices) -> Body:
    kind, told = words[0], int(words[1])
    parameters, rest = words[2 : 2 + told], words[2 + told :]
    count, pairs = int(rest[0]), rest[1:]
    if not 0 < count <= _MEMBERS_MOST or len(pairs) < 2 * count or not parameters:
        raise Malformed(f"{count} members of {kind[:40]}")
    kind = _RAID_DEFAULTS.get(kind, kind)
    chunk = int(parameters[0]) * _SECTOR
    options = dict(zip(parameters[1::2], parameters[2::2], strict=False))
    members = [
        devices.body(pairs[2 * i + 1]) if pairs[2 * i + 1] != "-" else lost_body(0) for i in range(count)
    ]
    if kind == "raid1":
        whole = [devices.part(member, 0, length) for member in members]
        return first_of(devices, length, whole)
    if chunk <= 0:
        raise Malformed(f"chunks of {chunk} bytes")
    if kind == "raid0":
        pattern = plain(count)
    elif kind == "raid10":
        if options.get("raid10_format", "near") != "near":
            raise NotSupported(f"raid10 of format {options['raid10_format'][:20]}")
        pattern = copies(count, int(options.get("raid10_copies", "2")))
    elif kind.startswith(("raid4", "raid5_", "raid6_")):
        pattern = parity(kind, count)
    else:
        raise NotSupported(f"raid of type {kind[:40]!r}")
    size = max((member.size for member in members), default=0)
    disks = [devices.disk(devices.part(member, 0, size)) for member in members]
    if any(disk is None for disk in disks):
        devices.say(
            device or "the disk", f"{sum(disk is None for disk in disks)} of {count} members are missing"
        )
    return deal(devices.stack, length, chunk, disks, pattern)


def _snapshot(device: str, words: list[str], length: int, devices: Devices) -> Body:
    del device
    if not words[2].startswith("P"):
        raise NotSupported("a snapshot whose store is not persistent")
    section: Section = {"cow_store": words[1], "origin": words[0], "chunk_size": int(words[3])}
    return _lvm2_snapshot.body(devices, _segment("snapshot", length, section))


def _thin_pool(device: str, words: list[str], length: int, devices: Devices) -> Body:
    section: Section = {"metadata": words[0], "pool": words[1], "chunk_size": int(words[2])}
    devices.pool(device, _segment("thin-pool", length, section))
    return devices.part(devices.body(words[1]), 0, length)


def _thin(device: str, words: list[str], length: int, devices: Devices) -> Body:
    section: Section = {"thin_pool": devices.name(words[0]), "device_id": int(words[1])}
    if len(words) > 2:
        section["external_origin"] = words[2]
    segment = _segment("thin", length, section)
    return _lvm2_thin.body(devices, _logical(device, segment), segment)


def _logical(name: str, segment: Segment) -> Logical:
    return Logical(
        name=name,
        uuid="",
        size=segment.length,
        segments=(segment,),
        visible=True,
        created_ns=None,
        host="",
        status=frozenset(),
    )


def _segment(kind: str, length: int, section: Section) -> Segment:
    return Segment(start=0, length=length, kind=kind, extent=_SECTOR, section=section)


def _crypt(device: str, words: list[str], length: int, devices: Devices) -> Body:
    from imgfs.block import ciphers

    del device
    cipher, key, first = words[0], words[1], int(words[2])
    sector, step = _crypt_options(words[5:])
    large = step == 1 and sector != _SECTOR
    if large and first % (sector // _SECTOR):  # the offset counts 512 bytes, the numbers count sectors
        raise Malformed(f"numbers from {first} in sectors of {sector} bytes")
    first //= sector // _SECTOR if large else 1
    inner = devices.window(words[3], words[4], length)
    if cipher.startswith(NULL) or inner.lost() == [(0, length)]:
        return inner
    if key == "-" or key.startswith(":"):
        raise NotSupported("crypt without its key: dmsetup table --showkeys prints it")
    if length % sector:
        raise Malformed(f"{length} bytes in sectors of {sector}")
    which, base = devices.stack.lower(inner)
    how = codec(cipher, bytes.fromhex(key))
    layout = Enciphered(size=length, sector=sector, codec=how, first=first, step=step, base=base, which=which)
    ciphers.check(layout)
    number = devices.stack.add(layout, 1, {which})
    return Body(length, [(0, length, number, 0)], 1, inner=tuple(inner.lost()))


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


_TARGETS: Final[dict[str, Callable[[str, list[str], int, Devices], Body]]] = {
    "linear": _linear,
    "zero": _zero,
    "error": _error,
    "striped": _striped,
    "raid": _raid,
    "snapshot": _snapshot,
    "snapshot-origin": _origin,
    "thin-pool": _thin_pool,
    "thin": _thin,
    "crypt": _crypt,
}
