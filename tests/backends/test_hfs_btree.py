from __future__ import annotations

import struct

from imgfs.backends.hfs.btree import BTree
from imgfs.backends.hfs.files import _extent_key
from imgfs.backends.hfs.volume import extents_at
from imgfs.testing.fakes import MemoryReader

NODE = 512


def node(kind: int, height: int, records: list[bytes], following: int = 0) -> bytes:
    data = bytearray(NODE)
    struct.pack_into(">IIbBHH", data, 0, following, 0, kind, height, len(records), 0)
    at, offsets = 14, []
    for record in records:
        offsets.append(at)
        data[at : at + len(record)] = record
        at += len(record)
    offsets.append(at)
    struct.pack_into(f">{len(offsets)}H", data, NODE - 2 * len(offsets), *offsets[::-1])
    return bytes(data)


def key(number: int, fork: int, first: int) -> bytes:
    return struct.pack(">HBBII", 10, fork, 0, number, first)


def tree(*, last: int = 0) -> BTree:
    keys = [(20, 0, 8), (20, 0, 16), (20, 255, 8), (21, 0, 8)]
    leaves = [key(*k) + struct.pack(">16I", 100 + k[2], 3, *[0] * 14) for k in keys]
    header = struct.pack(">HIIIIHHIIHIBBI", 2, 3, 4, 1, 2, NODE, 10, 4, 0, 0, 0, 0, 0, 2) + bytes(64)
    index = [key(*keys[0]) + struct.pack(">I", 1), key(*keys[2]) + struct.pack(">I", 2)]
    data = node(1, 0, [header]) + node(-1, 1, leaves[:2], 2) + node(-1, 1, leaves[2:], last)
    data += node(0, 2, index)
    return BTree(MemoryReader(data), [(0, len(data), 0)], len(data), "extents", _extent_key)


def test_a_search_begins_at_the_first_record_not_below() -> None:
    for target in [(20, 0, 8), (20, 0, 16), (20, 255, 8), (21, 0, 8)]:
        record = next(tree().seek(target))
        assert not isinstance(record, str)
        assert _extent_key(*record[:3]) == target
        assert extents_at(record[0], record[2]) == ((100 + target[2], 3),)
    assert next(tree().seek((22, 0, 0)), None) is None
    assert len(list(tree().seek((0, 0, 0)))) == 4


def test_leaves_in_a_circle_end() -> None:
    found = list(tree(last=1).first())
    assert len(found) == 5
    assert isinstance(found[-1], str)
