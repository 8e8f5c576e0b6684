"""Superblocks of md: what one member says of itself and of its array.

Source: md(4); "RAID superblock formats" of the Linux RAID wiki; the layout of both structures as published in
the kernel's user-space header linux/raid/md_p.h. Units: sectors of 512 bytes there, bytes here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Signature
from imgfs.backends._md_slot import within_a_slot
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.limits import KIB, MAX_SIZE

if TYPE_CHECKING:
    from imgfs.backends import Reader

SECTOR: Final = 512
_MAGIC: Final = 0xA92B4EFC
_LITTLE, _BIG = _MAGIC.to_bytes(4, "little"), _MAGIC.to_bytes(4, "big")
_OLD: Final = 64 * KIB  # version 0.90: in the last whole block of these but one
_OLD_SIZE: Final = 4 * KIB
_OLD_DISKS: Final = 27
_OLD_BITMAP: Final = 1 << 8
_ONE: Final = struct.Struct("<4I16s32sQiiQIIiiQiiIiQQQQII16sBBHiQQQII")
_ROLES_AT: Final = 256
_MOST: Final = 1920  # members that a superblock of 4 KiB can name
BITMAP, RECOVERY, RESHAPE, BAD_BLOCKS, REPLACEMENT, BACKWARDS, NEW_OFFSET = (1 << bit for bit in range(7))
JOURNAL, PARTIAL = 1 << 9, 1 << 10
SPARE, FAULTY, JOURNALED = 0xFFFF, 0xFFFE, 0xFFFD
_BAD_SECTORS: Final = 128  # of its log: mdadm reserves 8
_ROLES: Final = 0xFF00
IN_SYNC: Final = -1

SIGNATURES: Final = (
    Signature(4096, _LITTLE + b"\1\0\0\0"),
    Signature(0, _LITTLE + b"\1\0\0\0"),
    Signature(-8192, _LITTLE + b"\1\0\0\0", 4096),
    Signature(-_OLD, _LITTLE + b"\0\0\0\0", _OLD),
    Signature(-_OLD, _BIG + b"\0\0\0\0", _OLD),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How chunks are dealt out. Units: ``chunk`` bytes."""

    level: int
    layout: int
    chunk: int
    members: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """A change of shape under way: the array's bytes before ``position`` have one, the others the other."""

    shape: Shape  # the new one
    position: int
    backwards: bool  # the new one is behind the position


@dataclass(frozen=True, slots=True, kw_only=True)
class Super:
    """A superblock, checked. Units: bytes; ``size`` of the part of a member that is used, 0: all of it.

    ``start`` and ``length`` are the data area of this member. ``number`` is the member's own, ``roles`` say
    which place every number has: an index, or SPARE, FAULTY, JOURNALED. ``resynced`` and ``recovered``:
    parity, or this member, is right up to there; IN_SYNC: everywhere.
    """

    version: str
    uuid: str
    name: str
    created_ns: int | None
    updated: int
    events: int
    shape: Shape
    reshape: Reshape | None
    size: int
    start: int
    length: int
    moved: int  # what reshaping adds to ``start``
    number: int
    roles: dict[int, int]
    resynced: int
    recovered: int
    clean: bool
    features: int
    bitmap: int = 0  # where it lies on the member; 0: there is none
    bad: tuple[tuple[int, int], ...] = ()  # [start, stop) of the member that could not be written
    notes: tuple[str, ...] = ()

    @property
    def role(self) -> int:
        """Return the place of this member, as it says itself."""
        return self.roles.get(self.number, SPARE)


def read_super(reader: Reader) -> Super:
    """Return the superblock of a member, the latest where it has several.

    Raises:
        NotMine: there is none.
        Malformed: there is one, damaged.
    """
    found: list[Super] = []
    damage: list[str] = []
    places = [(_one, 4096), (_one, 0), (_one, (reader.size - 8192) // 4096 * 4096)]
    for parse, at in [*places, (_old, (reader.size - _OLD) // _OLD * _OLD)]:
        try:
            found.append(parse(reader, at))
        except NotMine:
            continue
        except EvidenceError as why:
            damage.append(str(why))
    if not found:
        if damage:
            raise Malformed("; ".join(damage))
        raise NotMine("md")
    return max(found, key=lambda block: block.updated)


def _one(reader: Reader, at: int) -> Super:
    """Return a superblock of version 1 at a place."""
    if at < 0 or at + 4096 > reader.size:
        raise NotMine("md")
    raw = reader.read(at, 4096)
    (
        magic, major, features, _, uuid, name, ctime, level, layout, size, chunk, members, bitmap,
        new_level, position, delta, new_layout, new_chunk, new_offset, data_at, data_size, super_at,
        recovered, number, _, _device, _flags, shift, bad_size, bad_at, utime, events, resynced, total, most,
    ) = _ONE.unpack_from(raw)  # fmt: skip
    if magic != _MAGIC or major != 1:
        raise NotMine("md")
    if super_at * SECTOR != at:
        raise NotMine("md: the superblock of something that begins elsewhere")
    if at > 4096 and within_a_slot(reader, at):
        raise NotMine("md: a superblock in a slot, of what was there before")
    here = f"superblock at {at}"
    if most > _MOST:
        raise Malformed(f"{here}: {most} members", start=at, stop=at + 4096)
    covered = raw[:216] + bytes(4) + raw[220 : _ROLES_AT + 2 * most] + bytes(2 * (most % 2))
    if _folded(covered, "<") != total:
        raise Malformed(f"{here}: checksum", start=at, stop=at + 4096)
    sectors = (size, data_at, data_size, recovered, resynced, position)
    chosen = [0 if n == (1 << 64) - 1 else n for n in sectors]
    before = members - delta if features & RESHAPE else members
    if any(n * SECTOR > MAX_SIZE for n in chosen) or not (0 < members <= _MOST and 0 < before <= _MOST):
        raise Malformed(f"{here}: {members} members of {size} sectors", start=at, stop=at + 4096)
    roles = struct.unpack_from(f"<{most}H", raw, _ROLES_AT)
    reshape = None
    if features & RESHAPE:
        shape = Shape(level=new_level, layout=new_layout, chunk=new_chunk * SECTOR, members=members)
        backwards = delta < 0 or (delta == 0 and bool(features & BACKWARDS))
        reshape = Reshape(shape=shape, position=position * SECTOR, backwards=backwards)
    label = name.split(b"\0")[0].decode("utf-8", "replace")
    return Super(
        version="1." + {0: "1", 4096: "2"}.get(at, "0"),
        uuid=_colons(uuid.hex()),
        name=label,
        created_ns=_time(ctime),
        updated=utime & (1 << 40) - 1,
        events=events,
        shape=Shape(level=level, layout=layout, chunk=chunk * SECTOR, members=before),
        reshape=reshape,
        size=size * SECTOR,
        start=data_at * SECTOR,
        length=data_size * SECTOR,
        moved=new_offset * SECTOR if features & NEW_OFFSET else 0,
        number=number,
        roles={i: role for i, role in enumerate(roles) if role < _ROLES or role >= JOURNALED},
        resynced=_until(resynced),
        recovered=recovered * SECTOR if features & RECOVERY and not features & JOURNAL else IN_SYNC,
        clean=resynced != 0,
        features=features,
        bitmap=at + bitmap * SECTOR if features & BITMAP else 0,
        bad=_bad(reader, at + bad_at * SECTOR, bad_size, shift) if features & BAD_BLOCKS else (),
    )


def _old(reader: Reader, at: int) -> Super:
    """Return a superblock of version 0.90 at a place, in the byte order of whoever wrote it."""
    if at < 0 or at + _OLD_SIZE > reader.size:
        raise NotMine("md")
    raw = reader.read(at, _OLD_SIZE)
    order = {_LITTLE: "<", _BIG: ">"}.get(raw[:4])
    if order is None:
        raise NotMine("md")
    words = struct.unpack(f"{order}1024I", raw)
    minor = words[2]
    if words[1] != 0 or minor not in (90, 91):
        raise NotMine("md: no version 0.90")
    here = f"superblock at {at}"
    if _folded(raw[:152] + bytes(4) + raw[156:], order) != words[38]:
        raise Malformed(f"{here}: checksum", start=at, stop=at + _OLD_SIZE)
    members = words[10]
    if not 0 < members <= _OLD_DISKS:
        raise Malformed(f"{here}: {members} members", start=at, stop=at + _OLD_SIZE)
    if within_a_slot(reader, at):
        raise NotMine("md: the superblock of a slot that ends where the disk does")
    level, chunk, layout = _signed(words[7]), words[65], words[64]
    low, high = (39, 40) if order == "<" else (40, 39)
    reshape = None
    if minor == 91:
        (position,) = struct.unpack_from(order + "Q", raw, 4 * 44)
        delta = _signed(words[47])
        if position * SECTOR > MAX_SIZE or not 0 < members - delta <= _OLD_DISKS:
            raise Malformed(
                f"{here}: {delta} more members, reshaped up to sector {position}",
                start=at,
                stop=at + _OLD_SIZE,
            )
        shape = Shape(level=_signed(words[46]), layout=words[48], chunk=words[49], members=members)
        reshape = Reshape(shape=shape, position=position * SECTOR, backwards=delta < 0)
        members -= delta
    roles = {}
    for number in range(_OLD_DISKS):
        place, state = words[128 + 32 * number + 3], words[128 + 32 * number + 4]
        if state & 1 << 18:
            roles[number] = JOURNALED
        elif state & 1:
            roles[number] = FAULTY
        elif state & 6 == 6:  # active and in sync
            roles[number] = place
    clean = bool(words[33] & 1)
    ids = (words[5], words[13], words[14], words[15])
    return Super(
        version="0.90",
        uuid=":".join(f"{word:08x}" for word in ids),
        name=f"md{words[11]}",
        created_ns=words[6] * 10**9,
        updated=words[32],
        events=words[high] << 32 | words[low],
        shape=Shape(level=level, layout=layout, chunk=chunk, members=members),
        reshape=reshape,
        size=words[8] * KIB if level not in (-1, 0) else 0,
        start=0,
        length=at,
        moved=0,
        number=words[992],
        roles=roles,
        resynced=(_until(words[43]) if words[43] != 0xFFFF_FFFF else IN_SYNC) if clean else 0,
        recovered=IN_SYNC,
        clean=clean,
        features=BITMAP if words[33] & _OLD_BITMAP else 0,
        bitmap=at + _OLD_SIZE if words[33] & _OLD_BITMAP else 0,
        notes=("its numbers are big-endian",) if order == ">" else (),
    )


def _until(sectors: int) -> int:
    return IN_SYNC if sectors == (1 << 64) - 1 else sectors * SECTOR


def _time(stamp: int) -> int | None:
    """Return nanoseconds of a stamp: 40 bits of seconds, 24 of microseconds; None: beyond any clock."""
    time = (stamp & (1 << 40) - 1) * 10**9 + (stamp >> 40) * 1000
    return time if time <= MAX_SIZE else None


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 8] for at in range(0, 32, 8))


def _folded(raw: bytes, order: str) -> int:
    """Return the sum of all words, the carries added."""
    total: int = sum(struct.unpack(f"{order}{len(raw) // 4}I", raw))
    return (total & 0xFFFF_FFFF) + (total >> 32) & 0xFFFF_FFFF


def _bad(reader: Reader, at: int, sectors: int, shift: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of the log of bad blocks.

    Raises:
        Malformed: it does not lie on the member.
    """
    if not 0 <= at <= at + sectors * SECTOR <= reader.size or sectors > _BAD_SECTORS or shift > 16:
        raise Malformed(f"a log of bad blocks of {sectors} sectors at {at}")
    found = []
    for (entry,) in struct.iter_unpack("<Q", reader.read(at, sectors * SECTOR)):
        if entry == (1 << 64) - 1:
            break
        first, count = entry >> 10 << shift, (entry & 0x3FF) << shift
        if count and (first + count) * SECTOR <= MAX_SIZE:
            found.append((first * SECTOR, (first + count) * SECTOR))
    apart: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(stop, apart[-1][1]))
        else:
            apart.append((start, stop))
    return tuple(apart)
