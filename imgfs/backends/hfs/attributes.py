"""The attributes tree of HFS+: what files have besides their two forks.

Source: Apple Technical Note TN1150, Attributes File; the inline record, which it leaves open, as
``HFSPlusAttrData`` of Apple's published ``hfs_format.h`` has it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends.hfs.btree import BTree
from imgfs.backends.hfs.volume import Fork, extents_at, fork_at
from imgfs.errors import Malformed
from imgfs.limits import MAX_RUNS

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.hfs.btree import Record
    from imgfs.backends.hfs.volume import Extent, Rows

_INLINE, _FORK, _EXTENTS = 0x10, 0x20, 0x30
_KEY: Final = struct.Struct(">HHIIH")  # length, pad, number, first block, letters of the name
_LETTERS: Final = 127
_MANY: Final = 4096  # attributes of one file: each may become a stream of it
Key = tuple[int, bytes, int]  # number, stored name, first block


@dataclass(frozen=True, slots=True)
class Extra:
    """An attribute: its value where the record holds it, otherwise the extents it has. Units: bytes."""

    name: bytes
    size: int
    value: bytes | None
    extents: tuple[Extent, ...] = ()


Extras = list[Extra]  # of one file, in the order of the tree


class Attributes:
    """The attributes tree of one volume."""

    def __init__(self, reader: Reader, rows: Rows, fork: Fork) -> None:
        self._tree = BTree(reader, rows, fork.size, "attributes", _key)

    def of(self, number: int) -> tuple[Extras, str]:
        """Return the attributes of a catalog number in the order of the tree, and what is damaged.

        Raises:
            EvidenceError: the way to them is damaged.
        """
        found: Extras = []
        more: dict[bytes, tuple[Fork, list[Extent]]] = {}
        damaged, runs = "", 0
        for record in self._tree.seek((number, b"", 0)):
            if isinstance(record, str):
                damaged = damaged or record
                continue
            owner, name, first = _key(*record[:3])
            if owner != number:
                break
            if len(found) >= _MANY or runs > MAX_RUNS:
                damaged = damaged or f"more attributes of {number}, or extents of them, than are read"
                break
            kind, extra = self._parsed(record, name)
            if kind == _EXTENTS and name in more and extra is not None:
                fork, extents = more[name]
                if first == sum(count for _, count in extents):
                    extents += extra.extents
                    runs += len(extra.extents)
                    continue
            if extra is None or kind == _EXTENTS or first:
                damaged = (
                    damaged or f"an attribute of {number} has a record of type {kind:#x} that is misplaced"
                )
                continue
            if kind == _FORK:
                fork = Fork(extra.size, 0, extra.extents)
                more[name] = fork, list(extra.extents)
            found.append(extra)
        return [_joined(extra, more) for extra in found], damaged

    def _parsed(self, record: Record, name: bytes) -> tuple[int, Extra | None]:
        node, _, at, stop = record
        kind = int.from_bytes(node[at : min(at + 4, stop)], "big")
        if kind == _INLINE and at + 16 <= stop:
            size = int.from_bytes(node[at + 12 : at + 16], "big")
            if at + 16 + size <= stop:
                return kind, Extra(name, size, node[at + 16 : at + 16 + size])
        if kind == _FORK and at + 88 <= stop:
            fork = fork_at(node, at + 8)
            return kind, Extra(name, fork.size, None, fork.extents)
        if kind == _EXTENTS and at + 72 <= stop:
            return kind, Extra(name, 0, None, extents_at(node, at + 8))
        return kind, None


def _joined(extra: Extra, more: dict[bytes, tuple[Fork, list[Extent]]]) -> Extra:
    text = extra.name.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    extents = () if extra.value is not None else tuple(more[extra.name][1])
    return Extra(text, extra.size, extra.value, extents)


def _key(node: bytes, start: int, body: int) -> Key:
    """Return what keys sort by.

    Raises:
        Malformed: the name is longer than the key, or than a name may be.
    """
    if body - start < _KEY.size:
        raise Malformed("attributes: a short key")
    _, _, number, first, letters = _KEY.unpack_from(node, start)
    name_at = start + _KEY.size
    if letters > _LETTERS or name_at + 2 * letters > body:
        raise Malformed(f"attributes: a key of {body - start} bytes with a name of {letters} letters")
    return number, node[name_at : name_at + 2 * letters], first
