"""The contract of FILES back-ends: what every implementation of ``backends.Files`` must keep.

``check_files`` runs it in-process on a good image; ``check_hostile`` runs damaged copies of it in a
subprocess with a time limit, because a C library may crash or hang and must not take the tests along.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from array import array
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.block.pieces import Bytes
from imgfs.errors import EvidenceError, ImgfsError, NeedKey, NeedMembers, NotFound, NotMine
from imgfs.limits import MAX_NAME, READ_MAX
from imgfs.model import HOLE, LOST, Attr, Entry, Foreign, Inline, Kind, Linear, Packed, Ragged
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.media import pieces
from imgfs.worker.checks import check_layouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgfs.backends import Files, Reader
    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Layout

_ENTRIES = 100_000  # walked per tree: a cycle the contract forgot ends here
_SAMPLE = 1 << 22  # bytes of one file that hostile walks read


def open_files(backend: str, reader: Reader, options: Options | None = None) -> Files:
    """Open a source with one back-end."""
    opened = discover()[backend].open(reader, options or Options())
    assert hasattr(opened, "list"), f"{backend} opened no file system"
    return opened  # type: ignore[return-value]  # hasattr has just told


def walk(files: Files, tree: int = 0, *, limit: int = 1024) -> dict[bytes, Entry]:
    """Return all entries of a tree by path; a directory that is its own ancestor is not entered."""
    found: dict[bytes, Entry] = {}
    todo: list[tuple[bytes, int, frozenset[int]]] = [(b"", files.info.trees[tree].root, frozenset())]
    while todo and len(found) < _ENTRIES:
        path, inum, above = todo.pop()
        cursor = 0
        while cursor >= 0:
            page = files.list(tree, inum, cursor, limit)
            assert len(page.entries) <= limit, f"{len(page.entries)} entries of {limit}"
            assert page.next == -1 or page.next > cursor, f"cursor {cursor} -> {page.next}"
            cursor = page.next
            for entry in page.entries:
                assert entry.name not in {b".", b".."}
                assert len(entry.name) <= 4 * MAX_NAME
                check_attr(entry.attr)
                child = path + b"/" + entry.name if path else entry.name
                found.setdefault(child, entry)
                if entry.attr.kind == Kind.DIR and not entry.stream and entry.attr.inum not in above | {inum}:
                    todo.append((child, entry.attr.inum, above | {inum}))
    return found


def check_attr(attr: Attr) -> None:
    """Assert that attributes fit the kernel's types."""
    assert 0 <= attr.size < 1 << 63
    assert 0 <= attr.allocated < 1 << 63
    assert 0 <= attr.mode <= 0o7777
    assert 0 <= attr.inum < 1 << 63
    for number in (attr.uid, attr.gid, attr.nlink, attr.generation, attr.rdev):
        assert 0 <= number < 1 << 64
    for moment in (attr.m_ns, attr.a_ns, attr.c_ns, attr.b_ns):
        assert moment is None or -(1 << 63) <= moment < 1 << 64


def check_layout(layout: Layout, size: int) -> None:
    """Assert that runs ascend, do not overlap, and lie inside the stream and the source (``size``)."""
    if not isinstance(layout, Linear):
        return
    columns = [array("q", column) for column in (layout.logical, layout.length, layout.target)]
    assert len({len(column) for column in columns}) == 1
    at = 0
    for logical, length, target in zip(*columns, strict=True):
        assert logical >= at
        assert length > 0
        assert target in {HOLE, LOST} or 0 <= target <= target + length <= size, (target, length, size)
        at = logical + length
    assert at <= layout.size


def content(
    files: Files, reader: Reader, tree: int, entry: Entry, layouts: tuple[Layout, ...] | None = None
) -> bytes:
    """Return the bytes of a stream through its layout, as the block layer would.

    Raises:
        OSError: some are lost.
    """
    layouts = layouts or files.layout(tree, entry.attr.inum, entry.stream)
    layout = layouts[-1]
    if len(layouts) > 1 or isinstance(layout, Packed | Ragged):
        return _built(files, tree, entry, layouts, reader)
    check_layout(layout, reader.size)
    if isinstance(layout, Inline):
        return layout.data
    if isinstance(layout, Foreign):
        parts = []
        for at in range(0, layout.size, READ_MAX):
            take = min(READ_MAX, layout.size - at)
            parts.append(files.read(tree, entry.attr.inum, entry.stream, at, take))
            assert len(parts[-1]) == take
        return b"".join(parts)
    assert isinstance(layout, Linear)
    data, covered = bytearray(layout.size), 0
    for logical, length, target in zip(
        array("q", layout.logical), array("q", layout.length), array("q", layout.target), strict=True
    ):
        if target == LOST:
            raise OSError(f"[{logical}, {logical + length}) is lost")
        if target != HOLE:
            data[logical : logical + length] = reader.read(target, length)
        covered += length
    if covered != layout.size:
        raise OSError(f"{layout.size - covered} bytes are covered by no run")
    return bytes(data)


async def _foreign(files: Files, tree: int, entry: Entry, offset: int, length: int) -> bytes:
    return files.read(tree, entry.attr.inum, entry.stream, offset, length)


class _Mapped:
    """A ByteSource over a reader, read where a plan needs it."""

    def __init__(self, reader: Reader) -> None:
        self.size = reader.size
        self._reader = reader

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        return [Bytes(self._reader.read(start, stop - start), 0, stop - start)] if stop > start else []


def _built(files: Files, tree: int, entry: Entry, layouts: tuple[Layout, ...], reader: Reader) -> bytes:
    """Return the bytes of a stream in units, through the block layer. Raises OSError as ``content``."""
    try:
        source = source_of(files, reader, tree, entry, layouts)
        return b"".join(pieces(source.plan(0, source.size)))
    except EvidenceError as why:
        raise OSError(str(why)) from why


def source_of(
    files: Files, reader: Reader, tree: int, entry: Entry, layouts: tuple[Layout, ...]
) -> ByteSource:
    """Return what layouts of a stream describe, over the reader, checked as the daemon does.

    Raises:
        EvidenceError: a claim contradicts itself or leaves its sources.
    """
    members = (reader, *reader.others)
    check_layouts(layouts, [member.size for member in members])
    read = partial(_foreign, files, tree, entry)
    return build(layouts, [_Mapped(member) for member in members], "", foreign=read)


def check_files(backend: str, image: Path | str, truth: Mapping[bytes, bytes | None]) -> dict[bytes, Entry]:
    """Assert that a good image shows exactly what was written to it, however it is asked.

    ``truth`` maps paths to contents, None: a directory. More may be there (metadata files). Returns
    the entries of the live tree.
    """
    first, second = FileReader(image), FileReader(image)
    try:
        files, again = open_files(backend, first), open_files(backend, second)
        assert files.info == again.info
        tree = walk(files)
        for limit in (1, 7):
            assert walk(again, limit=limit) == tree, f"pages of {limit} differ"
        for path, entry in tree.items():
            told = again.stat(0, entry.attr.inum, entry.stream)
            assert told == entry.attr, (path, told, entry.attr)
        for path, wanted in truth.items():
            assert path in tree, f"{path!r} is missing"
            entry = tree[path]
            if wanted is None:
                assert entry.attr.kind == Kind.DIR, path
                continue
            assert entry.attr.size == len(wanted), path
            assert content(again, second, 0, entry) == wanted, path
            if entry.layout is not None:
                assert content(again, second, 0, entry, entry.layout) == wanted, path
        for number in (-1, 1 << 40, (1 << 63) - 1):
            _refuses(files, number)
        return tree
    finally:
        first.close()
        second.close()


def _refuses(files: Files, inum: int) -> None:
    try:
        files.stat(0, inum, 0)
    except ImgfsError:
        return
    raise AssertionError(f"inode {inum} was invented")


def check_hostile(
    backend: str, image: Path | str, folder: Path, *, seeds: int = 40, seconds: float = 60
) -> str:
    """Walk damaged copies of an image; returns the statistics line of the subprocess.

    Crashes of the library are survived (the subprocess starts the next seed); what may not happen is
    an exception outside the contract, or layouts outside the source. ``IMGFS_SEEDS`` in the environment asks
    for more damages, ``IMGFS_CAMPAIGN`` names a file that is told of them.
    """
    more = max(seeds, int(os.environ.get("IMGFS_SEEDS", "0")))
    seconds *= more / seeds
    at, line, begin, crashes = 0, "", time.monotonic(), 0
    while at < more:
        command = [sys.executable, "-m", "imgfs.testing.files", backend, str(image), str(at), str(more)]
        done = subprocess.run(  # noqa: S603  # ourselves
            command, capture_output=True, text=True, timeout=seconds, check=False, cwd=folder
        )
        lines = done.stdout.splitlines()
        assert "Traceback" not in done.stderr, (lines[-1:], done.stderr[-2000:])
        crashes += done.returncode != 0
        at = more if done.returncode == 0 else int(lines[-1].split()[0]) + 1 if lines else at + 1
        line = lines[-1] if lines else line
    if report := os.environ.get("IMGFS_CAMPAIGN"):
        took = round(time.monotonic() - begin, 1)
        row = {"backend": backend, "image": Path(image).name, "seeds": more, "crashes": crashes}
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"outcomes": line.partition(" ")[2], "seconds": took}) + "\n")
    return line


def damaged(data: bytes, seed: int) -> bytes:
    """Return a copy with bits flipped in the parts that are not zero, or cut off."""
    rng = random.Random(seed)
    copy = bytearray(data)
    if seed % 8 == 7:
        return bytes(copy[: rng.randrange(len(copy))])
    busy = [at for at in range(0, len(copy), 512) if any(copy[at : at + 512])]
    for _ in range(1 << rng.randrange(6)):
        copy[min(rng.choice(busy) + rng.randrange(512), len(copy) - 1)] ^= 1 << rng.randrange(8)
    return bytes(copy)


def _attempt(backend: str, reader: MemoryReader) -> str:
    """Open, walk and read one damaged image; returns the outcome."""
    try:
        files = open_files(backend, reader)
    except (ImgfsError, NotMine, NeedKey, NeedMembers) as why:
        return type(why).__name__
    for tree in range(len(files.info.trees)):
        try:
            entries = walk(files, tree)
        except (ImgfsError, NotFound):
            continue
        for entry in entries.values():
            try:
                if entry.attr.size <= _SAMPLE:
                    content(files, reader, tree, entry)
                if entry.attr.kind == Kind.LNK:
                    files.link(tree, entry.attr.inum)
                files.xattrs(tree, entry.attr.inum)
            except (ImgfsError, OSError):
                continue
    return "walked"


def _main(backend: str, image: str, start: int, stop: int) -> None:
    data = Path(image).read_bytes()
    outcomes: dict[str, int] = {}
    for seed in range(start, stop):
        print(seed, outcomes, flush=True)  # noqa: T201  # the parent reads where we died
        outcome = _attempt(backend, MemoryReader(damaged(data, seed)))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(stop, outcomes, flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
