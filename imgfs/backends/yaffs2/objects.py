"""The tree that the headers of a dump make: who is where, now and before it was removed."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends.yaffs2.structures import DELETED, FILE, HARD_LINK, ROOT, UNLINKED
from imgfs.errors import NotFound
from imgfs.model import Kind

if TYPE_CHECKING:
    from imgfs.backends.yaffs2.history import Life
    from imgfs.model import Attr

_RESERVED: Final = 0xFF  # numbers up to here belong to the file system; some carry no files


class Objects:
    """The lives of all objects, by number and by the directory that holds them."""

    __slots__ = ("_by_number", "children", "live", "lives", "orphans", "removed")

    def __init__(self, lives: list[Life]) -> None:
        self.lives = lives
        self.live: dict[int, int] = {}  # by number: the life that has a place in the tree now
        self._by_number: dict[int, tuple[list[int], list[int]]] = {}  # ends and indexes, oldest first
        for index in range(len(lives) - 1, -1, -1):
            life = lives[index]
            ends, indexes = self._by_number.setdefault(life.number, ([], []))
            ends.append(life.until)
            indexes.append(index)
            if life.gone is None and life.header is not None:
                self.live[life.number] = index
        self.children: dict[int, list[int]] = {}  # numbers in a live directory
        for life in reversed(lives):
            header = life.header
            if header is not None and life.gone is None and header.parent != life.number:
                self.children.setdefault(header.parent, []).append(life.number)
        self.removed: dict[int, list[int]] = {}  # by life of a directory: lives that only were in it
        self.orphans: list[int] = []  # lives without a directory
        self._place()

    def _place(self) -> None:
        """Give each life that no live directory holds its last directory, else call it an orphan."""
        reached = self._below_root()
        homeless: list[int] = []
        for index, life in enumerate(self.lives):
            if life.number in {ROOT, UNLINKED, DELETED}:
                continue
            if life.gone is None and (life.header is None or life.number in reached):
                if life.header is None and life.number > _RESERVED:
                    self.orphans.append(index)
                continue
            above = self.directory_of(life)
            if above is None:
                self.orphans.append(index)
            else:
                self.removed.setdefault(above, []).append(index)
                homeless.append(index)
        self._break_cycles(homeless, reached)

    def _below_root(self) -> set[int]:
        reached, todo = {ROOT}, [ROOT]
        while todo:
            for number in self.children.get(todo.pop(), ()):
                if number not in reached:
                    reached.add(number)
                    todo.append(number)
        return reached

    def _break_cycles(self, homeless: list[int], reached: set[int]) -> None:
        """Make orphans of directories that are below themselves and nowhere else."""
        seen: set[int] = set()
        todo = list(self.orphans)
        todo += [
            index
            for above, below in self.removed.items()
            if above < 0 or (self.is_live(above) and self.lives[above].number in reached)
            for index in below
        ]
        for start in (-1, *homeless):
            if start >= 0 and start not in seen:
                self.orphans.append(start)
                todo.append(start)
            while todo:
                index = todo.pop()
                if index not in seen:
                    seen.add(index)
                    todo += self.removed.get(index, ())

    def directory_of(self, life: Life) -> int | None:
        """Return which life of a directory held this one at last, -1: the root, None: there is none."""
        header = life.header
        if header is None or header.parent == life.number:
            return None
        if header.parent == ROOT:
            return -1
        index = self.life_at(header.parent, life.written)
        if index is None:
            return None
        above = self.lives[index].last
        return index if above is not None and above.attr.kind == Kind.DIR else None

    def life_at(self, number: int, when: int) -> int | None:
        """Return which life a number had at a time, None: none."""
        ends, indexes = self._by_number.get(number, ([], []))
        at = bisect_right(ends, when)
        return indexes[at] if at < len(indexes) else None

    def is_live(self, index: int) -> bool:
        """Say whether this life is what the number means now."""
        return self.live.get(self.lives[index].number) == index

    def target_of(self, life: Life) -> Life | None:
        """Return whose content a hard link shows, the life itself if it is none, None: nobody's."""
        last = life.last
        if last is None or last.type != HARD_LINK:
            return life
        index = self.life_at(last.same_as, life.written)
        if index is None:
            return None
        other = self.lives[index].last
        return None if other is None or other.type == HARD_LINK else self.lives[index]

    def attr(self, life: Life) -> Attr:
        """Return the attributes of an object with its whole size. Raises NotFound without any header."""
        last = life.last
        if last is None:
            raise NotFound(f"object {life.number} has no header")
        if last.type != FILE or life.size == last.attr.size:
            return last.attr
        return msgspec.structs.replace(last.attr, size=life.size)
