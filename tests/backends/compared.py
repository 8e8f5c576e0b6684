"""Our readers against what somebody else says of every path of a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs.block.pieces import Zeros
from imgfs.model import Attr, Entry, Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import open_files, source_of, walk
from imgfs.testing.media import pieces
from tests.backends.seen import BLOCK, LARGE, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from imgfs.backends import Files, Reader
    from imgfs.block.pieces import ByteSource
    from tests.backends.seen import Seen

OURS = b"user.imgfs."  # attributes that no file system has under this name


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a truth does not tell, or tells otherwise.

    ``numbers``: inode numbers are the same, else only which paths share one. ``folders``: so are sizes and
    links of directories. ``holes``: the truth knows where there are any. ``times`` of m, a, c and b (birth)
    that are told, in steps of ``grain`` nanoseconds. ``shared``: names of one file have one number.
    ``hidden``: beginnings of attributes that are shown twice or by one side only. ``more``: there may be
    paths the truth does not have. ``beyond``: a bit of numbers whose directories are in other trees.
    """

    numbers: bool = True
    folders: bool = True
    blocks: bool = True
    holes: bool = True
    links: bool = True
    shared: bool = True
    modes: bool = True
    owners: bool = True
    times: str = "macb"
    grain: int = 1
    hidden: tuple[bytes, ...] = ()
    xattrs: bool = True
    more: bool = False
    beyond: int = 0


KERNEL = Rules()
SOURCE = Rules(numbers=False, folders=False, blocks=False, holes=False, times="m")  # what a tool packed


def same(backend: str, image: Path, truth: Mapping[bytes, Seen], rules: Rules = KERNEL) -> None:
    """Open a file system, assert that its first tree is the truth and that nothing is said against it."""
    reader = FileReader(image)
    try:
        files = open_files(backend, reader)
        assert files.info.notes == ()
        compare(files, reader, truth, rules=rules)
    finally:
        reader.close()


def compare(
    files: Files, reader: Reader, truth: Mapping[bytes, Seen], *, tree: int = 0, rules: Rules = KERNEL
) -> None:
    """Assert that a tree is as it was told, path by path, in every attribute and byte."""
    found = walk(files, tree)
    assert walk(files, tree, limit=97) == found, "pages of 97 differ"
    paths = set(truth) - {b""}
    if rules.more:
        assert paths <= set(found), sorted(paths - set(found))[:5]
    else:
        assert set(found) == paths, sorted(set(found) ^ paths)[:5]
    numbers: dict[int, int] = {}
    for path, seen in truth.items():
        entry = found[path] if path else root(files, tree)
        assert entry.attr.kind == seen.kind, path
        if entry.attr.inum & rules.beyond:
            continue
        same_attributes(path, entry.attr, seen, rules)
        if path:
            assert numbers.setdefault(entry.attr.inum, seen.inum) == seen.inum, path
            assert files.stat(tree, entry.attr.inum, entry.stream) == entry.attr, path
        if seen.kind == Kind.REG and seen.body is not None:
            _same_content(files, reader, tree, path, entry, seen, rules)
        if seen.kind == Kind.LNK:
            assert files.link(tree, entry.attr.inum).decode("latin-1") == seen.body, path
        xattrs = files.xattrs(tree, entry.attr.inum)
        if rules.numbers:
            assert int(xattrs.get(OURS + b"inode", entry.attr.inum)) == seen.inum, path
        if rules.xattrs:
            shown = dict(_told(xattrs, (OURS, *rules.hidden)))
            assert shown == dict(_told(seen.xattrs, rules.hidden)), path
    if rules.links and rules.shared:
        assert len(numbers) == len(set(numbers.values())), "one file under two numbers"


def root(files: Files, tree: int = 0) -> Entry:
    """Return the root of a tree as an entry without a name."""
    return Entry(b"", files.stat(tree, files.info.trees[tree].root, 0))


def _told(xattrs: Mapping[bytes, bytes], hidden: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    return ((key, value) for key, value in xattrs.items() if not key.startswith(hidden))


def same_attributes(path: bytes, attr: Attr, seen: Seen, rules: Rules = KERNEL) -> None:
    """Assert that attributes are those that were told, as far as the rules say."""
    assert (attr.damaged, attr.deleted) == ("", False), path
    rows = [("kind", attr.kind, seen.kind), ("rdev", attr.rdev, seen.rdev)]
    if rules.modes:
        rows.append(("mode", attr.mode, seen.mode))
    if rules.owners:
        rows.append(("owner", (attr.uid, attr.gid), (seen.uid, seen.gid)))
    if seen.kind != Kind.DIR or rules.folders:
        rows.append(("size", attr.size, seen.size))
        if rules.links:
            rows.append(("nlink", attr.nlink, seen.nlink))
    if rules.blocks:
        rows.append(("allocated", attr.allocated, seen.blocks * 512))
    for letter in rules.times:
        ours, theirs = getattr(attr, f"{letter}_ns"), getattr(seen, f"{letter}_ns")
        if theirs is not None or letter != "b":
            assert ours is not None, (path, letter)
            rows.append((letter, ours // rules.grain, theirs // rules.grain))
    for name, one, other in rows:
        assert one == other, (path, name, one, other)


def _same_content(
    files: Files, reader: Reader, tree: int, path: bytes, entry: Entry, seen: Seen, rules: Rules
) -> None:
    asked = files.layout(tree, entry.attr.inum, entry.stream)
    for layouts in (asked, entry.layout):
        if layouts is None or (layouts is entry.layout and layouts == asked):
            continue
        source = source_of(files, reader, tree, entry, layouts)
        assert source.size == entry.attr.size, path
        body = summed(source)
        assert body == seen.body, (path, entry.attr.size)
        if rules.holes:
            assert tuple(_ranges(source)) == seen.data, path


def summed(source: ByteSource) -> str:
    """Return the digest of what a source holds."""
    made = Digest(source.size)
    blocks: Sequence[int] | range = range(0, source.size, BLOCK)
    if source.size > LARGE:
        blocks = sorted({at for a, b in _ranges(source) for at in range(a // BLOCK * BLOCK, b, BLOCK)})
    for at in blocks:
        made.add(at, b"".join(pieces(source.plan(at, min(at + BLOCK, source.size)))))
    return made.hex()


def _ranges(source: ByteSource) -> Iterator[tuple[int, int]]:
    """Yield where a source has anything but holes, as SEEK_DATA and SEEK_HOLE find it."""
    at = start = stop = 0
    for piece in source.plan(0, source.size):
        if not isinstance(piece, Zeros):
            if at != stop or start == stop:
                if start < stop:
                    yield start, stop
                start = at
            stop = at + piece.length
        at += piece.length
    if start < stop:
        yield start, stop
