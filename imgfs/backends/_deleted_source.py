"""What a file system with inodes says of itself to the tree of deleted entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from imgfs.model import Attr, Kind, Layout

I = TypeVar("I")  # noqa: E741  # an inode as the format has it; a letter as usual for type variables


class Name(NamedTuple):
    """An entry: ``at`` is the byte of the directory where it lies, ``type`` 0: not recorded."""

    at: int
    inode: int
    type: int
    name: bytes


class Damage(NamedTuple):
    """What could not be read of a directory."""

    text: str


Found = Name | Damage | None  # None: nothing, but time has passed


class Source(Protocol[I]):
    """Inodes and directories of one file system. All raise EvidenceError where the image is damaged."""

    label: bytes  # of the extended attributes that say where an entry comes from
    names_all: bool  # a file in use that no directory names is none the file system keeps for itself

    def inode(self, number: int) -> I:
        """Return an inode. Raises NotFound when there is none, or when nothing is left of it."""
        ...

    def number(self, inode: I) -> int:
        """Return the number of an inode."""
        ...

    def kind(self, inode: I) -> Kind | None:
        """Return the file type, None: it has none."""
        ...

    def kind_of(self, name: Name) -> Kind | None:
        """Return the file type an entry states, None: it states none."""
        ...

    def is_in_use(self, number: int) -> bool:
        """Say what the bitmap says. Raises NotFound outside the file system."""
        ...

    def is_linked(self, inode: I) -> bool:
        """Say whether its count of links is not zero."""
        ...

    def is_file(self, inode: I) -> bool:
        """Say whether an inode without a name may be a file, and nothing the file system needs itself."""
        ...

    def is_searched(self, number: int) -> bool:
        """Say whether a directory of this number holds names of files."""
        ...

    def names(self, inode: I, *, deleted: bool) -> Iterator[Found]:
        """Yield the entries that count, or those that were left behind."""
        ...

    def attr(self, inode: I, inum: int, *, deleted: bool) -> Attr:
        """Return the attributes under a number of the tree."""
        ...

    def layout(self, inode: I) -> tuple[Layout, ...]:
        """Say where the content lies, LOST what may be somebody else's by now."""
        ...

    def listed(self, inode: I) -> tuple[Layout, ...] | None:
        """Return the layout of an empty file, None: ask for it."""
        ...

    def link(self, inode: I) -> bytes:
        """Return the target of a symbolic link. Raises NotFound when it is none."""
        ...

    def xattrs(self, inode: I) -> dict[bytes, bytes]:
        """Return extended attributes, those of ours that only deleted files have too."""
        ...

    def scan(self, number: int) -> Iterator[tuple[int, array[int]]]:
        """Yield the modes of inodes from ``number`` on, for slices of tables that can be read."""
        ...
