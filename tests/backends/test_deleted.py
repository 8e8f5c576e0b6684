from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import _deleted
from imgfs.backends._deleted import ORPHANS, SHIFT, Deleted
from imgfs.backends._deleted_source import Name
from imgfs.errors import NotFound
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found
    from imgfs.model import Layout

ROOT, PAUSES = 2, 30


class Long:
    """A root directory that is long, without names but for a last deleted one whose inode is 5."""

    label = b"long"
    names_all = False

    def inode(self, number: int) -> int:
        if number not in {ROOT, 5}:
            raise NotFound("no inode")
        return number

    def number(self, inode: int) -> int:
        return inode

    def kind(self, inode: int) -> Kind:
        return Kind.DIR if inode == ROOT else Kind.REG

    def kind_of(self, name: Name) -> Kind | None:
        del name

    def is_in_use(self, number: int) -> bool:
        return number == ROOT

    def is_linked(self, inode: int) -> bool:
        return inode == ROOT

    def is_file(self, inode: int) -> bool:
        return inode > ROOT

    def is_searched(self, number: int) -> bool:
        return number == ROOT

    def names(self, inode: int, *, deleted: bool) -> Iterator[Found]:
        del inode
        for _ in range(PAUSES):
            yield None
        if deleted:
            yield Name(4096, 5, 0, b"last")

    def attr(self, inode: int, inum: int, *, deleted: bool) -> Attr:
        return Attr(kind=self.kind(inode), inum=inum, deleted=deleted)

    def layout(self, inode: int) -> tuple[Layout, ...]:
        raise NotImplementedError(inode)

    def listed(self, inode: int) -> tuple[Layout, ...] | None:
        del inode

    def link(self, inode: int) -> bytes:
        raise NotImplementedError(inode)

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        del inode
        return {}

    def scan(self, number: int) -> Iterator[tuple[int, array[int]]]:
        modes = {ROOT: 0o40755, 5: 0o100644}
        if number < 6:
            yield number, array("H", [modes.get(at, 0) for at in range(number, 6)])


def pages_of(tree: Deleted[int], inum: int) -> tuple[list[bytes], int]:
    names, cursor, count = list[bytes](), 0, 0
    while cursor >= 0:
        page = tree.list(inum, cursor, 10)
        assert page.next == -1 or page.next > cursor
        names += [entry.name for entry in page.entries]
        cursor, count = page.next, count + 1
    return names, count


@pytest.mark.parametrize(("inum", "names"), [(ROOT << SHIFT, [b"last", b"$Orphans"]), (ORPHANS, [])])
def test_a_page_ends_where_only_time_has_passed(
    monkeypatch: pytest.MonkeyPatch, inum: int, names: list[bytes]
) -> None:
    monkeypatch.setattr(_deleted, "PAGE_SECONDS", -1)
    found, count = pages_of(Deleted(Long(), ROOT), inum)
    assert found == names
    assert count > 2 * PAUSES
    monkeypatch.setattr(_deleted, "PAGE_SECONDS", 1000)
    assert pages_of(Deleted(Long(), ROOT), inum) == (names, 1)


def test_the_name_is_where_it_lies() -> None:
    tree = Deleted(Long(), ROOT)
    assert tree.stat(ROOT << SHIFT | 4096 // 4 + 1).deleted
    with pytest.raises(NotFound):
        tree.stat(ROOT << SHIFT | 7)
