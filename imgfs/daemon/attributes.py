"""Attributes as the kernel takes them: every number is clamped to its C type first (INV-12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyfuse3

from imgfs import limits
from imgfs.model import Attr, Ino, Kind

_U32: Final = 0xFFFF_FFFF
_I64: Final = (1 << 63) - 1
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
    shown.st_ino = ino
    shown.st_mode = attr.kind << 12 | attr.mode & 0o7777
    shown.st_size = min(max(attr.size, 0), limits.MAX_SIZE)
    shown.st_blocks = min(max((attr.allocated + 511) >> 9, 0), _I64)
    shown.st_blksize = _BLKSIZE
    shown.st_nlink = min(max(attr.nlink, 0), _U32)
    shown.st_rdev = attr.rdev & _U32 if attr.kind in (Kind.CHR, Kind.BLK) else 0
    if forever and ino >> 48:
        shown.st_uid = attr.uid & _U32
        shown.st_gid = attr.gid & _U32
    else:
        shown.st_uid = owner.uid
        shown.st_gid = owner.gid
    shown.st_mtime_ns = _time(attr.m_ns)
    shown.st_atime_ns = _time(attr.a_ns)
    shown.st_ctime_ns = _time(attr.c_ns)
    shown.generation = attr.generation & _U32
    timeout = limits.TTL_FOREVER if forever else limits.TTL_LATE
    shown.attr_timeout = timeout
    shown.entry_timeout = timeout
    return shown


def absent(*, forever: bool) -> pyfuse3.EntryAttributes:
    """Return the answer that lets the kernel remember that a name does not exist."""
    shown = pyfuse3.EntryAttributes()
    shown.st_ino = 0
    shown.entry_timeout = limits.TTL_FOREVER if forever else limits.TTL_LATE
    shown.attr_timeout = 0
    return shown


def _time(ns: int | None) -> int:
    return 0 if ns is None else min(max(ns, -_I64), _I64)
