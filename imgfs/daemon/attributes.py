"""Attributes as the kernel takes them: every number is clamped to its C type first (INV-12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyfuse3

from imgfs import limits
from imgfs.model import Attr, Ino, Kind

_U32: Final = 0xFFFF_FFFF
_I64: Final = (1 << 63) - 1
_U64: Final = (1 << 64) - 1  # nanoseconds; the binding divides them into seconds and a rest
_BLKSIZE: Final = 128 * limits.KIB  # nudges cp and cat to reads of the size FUSE carries


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns what imgfs makes itself: the mounting user unless uid= and gid= say otherwise."""

    uid: int
    gid: int


def entry(ino: Ino, attr: Attr, *, forever: bool, owner: Owner) -> pyfuse3.EntryAttributes:
    """Return attributes for the kernel.

    Evidence keeps its owners, modes and types; nodes of ours belong to ``owner``. Times that are not
    recorded are shown as 0.
    """
    shown = pyfuse3.EntryAttributes()
    size, allocated, nlink, kind = attr.size, attr.allocated, attr.nlink, attr.kind
    shown.st_ino = ino
    shown.st_mode = kind << 12 | attr.mode & 0o7777
    shown.st_size = size if 0 <= size <= limits.MAX_SIZE else _clamped(size, limits.MAX_SIZE)
    shown.st_blocks = (
        allocated if 0 <= allocated <= limits.MAX_SIZE else _clamped(allocated, _I64)
    ) + 511 >> 9
    shown.st_blksize = _BLKSIZE
    shown.st_nlink = nlink if 0 <= nlink <= _U32 else _clamped(nlink, _U32)
    if kind is Kind.CHR or kind is Kind.BLK:
        shown.st_rdev = attr.rdev & _U32
    if forever and ino >> 48:
        shown.st_uid = attr.uid & _U32
        shown.st_gid = attr.gid & _U32
    else:
        shown.st_uid = owner.uid
        shown.st_gid = owner.gid
    if attr.m_ns:
        shown.st_mtime_ns = attr.m_ns if -_I64 <= attr.m_ns <= _U64 else _time(attr.m_ns)
    if attr.a_ns:
        shown.st_atime_ns = attr.a_ns if -_I64 <= attr.a_ns <= _U64 else _time(attr.a_ns)
    if attr.c_ns:
        shown.st_ctime_ns = attr.c_ns if -_I64 <= attr.c_ns <= _U64 else _time(attr.c_ns)
    shown.generation = attr.generation & _U32
    shown.attr_timeout = shown.entry_timeout = limits.TTL_FOREVER if forever else limits.TTL_LATE
    return shown


def absent(*, forever: bool) -> pyfuse3.EntryAttributes:
    """Return the answer that lets the kernel remember that a name does not exist."""
    shown = pyfuse3.EntryAttributes()
    shown.st_ino = 0
    shown.entry_timeout = limits.TTL_FOREVER if forever else limits.TTL_LATE
    shown.attr_timeout = 0
    return shown


def _clamped(value: int, highest: int) -> int:
    return min(max(value, 0), highest)


def _time(ns: int) -> int:
    return min(max(ns, -_I64), _U64)
