from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import Malformed
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.tskimages import need, noise, run
from tests.backends.yaffsimages import DIRECTORY, FILE, HARD_LINK, PAGE, ROOT, SPARE, Flash

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files
    from imgfs.model import Entry

_LINE = re.compile(r"./. \* (\d+):\t(.*)")
_VERSION = re.compile(r"#(\d+),(\d+)(\.[^/]*)?")


def make_deleted(image: Path, order: str = "<") -> tuple[Flash, dict[bytes, bytes | None]]:
    """Compose a dump; returns what was removed from it by the last path, None: no file."""
    flash = Flash(order)
    one = flash.create(ROOT, b"dir")
    two = flash.create(one, b"gone")
    kept = flash.create(one, b"kept.txt", noise(5000, 1))
    truth: dict[bytes, bytes | None] = {}
    for number in range(30):
        name, text = b"file%02d.txt" % number, noise(number * 300, number)
        removed = flash.create((ROOT, one, two)[number % 3], name, text)
        if number % 2:
            flash.remove(removed, busy=number % 4 == 1)
            truth[(b"", b"dir/", b"dir/gone/")[number % 3] + name] = text
        elif number % 3 == 2:
            flash.remove(removed)
            truth[b"dir/gone/" + name] = text
    changed = flash.create(one, b"changed.txt", noise(9000, 40))
    flash.write(changed, 1, noise(2 * PAGE, 41))
    flash.header(changed, FILE, one, b"renamed.txt", 9000)
    flash.remove(changed)
    truth[b"dir/renamed.txt"] = noise(9000, 40)[:PAGE] + noise(2 * PAGE, 41) + noise(9000, 40)[3 * PAGE :]
    link = flash.create(ROOT, b"link", target=b"dir/kept.txt")
    flash.remove(link)
    flash.remove(two)
    truth |= {b"link": None, b"dir/gone": None}
    flash.write(kept, 0, noise(PAGE, 42))
    flash.header(kept, FILE, one, b"kept.txt", 5000)
    flash.save(image)
    return flash, truth


def opened(flash: Flash) -> tuple[Files, MemoryReader]:
    reader = MemoryReader(b"".join(flash.pages))
    return open_files("yaffs2", reader), reader


def removed_in(files: Files) -> dict[bytes, Entry]:
    return {path: entry for path, entry in walk(files, 1).items() if entry.attr.deleted}


def fls(image: Path) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Return {(path, object): versions and their TSK numbers, newest first} of what TSK finds deleted."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for line in run("fls", "-f", "yaffs2", "-rdp", image).splitlines():
        match = _LINE.match(line)
        assert match, line
        path = match[2]
        *_, (number, version, _) = _VERSION.findall(path)
        found.setdefault((_VERSION.sub("", path), int(number)), []).append((int(version), int(match[1])))
    return {key: sorted(versions, reverse=True) for key, versions in found.items()}


def icat(image: Path, number: int) -> bytes:
    done = subprocess.run(["icat", "-f", "yaffs2", str(image), str(number)], capture_output=True, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
def test_last_versions_are_what_was_written(tmp_path: Path, order: str) -> None:
    image = tmp_path / "yaffs2.img"
    _, truth = make_deleted(image, order)
    check_files("yaffs2", image, {b"dir/kept.txt": noise(PAGE, 42) + noise(5000, 1)[PAGE:]})
    reader = FileReader(image)
    files = open_files("yaffs2", reader)
    deleted = walk(files, 1)
    ours = {path: entry for path, entry in deleted.items() if entry.attr.deleted}
    assert set(ours) == {b"$Orphans", *truth}
    for path, wanted in truth.items():
        assert ours[path].attr.damaged == ""
        if wanted is not None:
            assert ours[path].attr.size == len(wanted)
            assert content(files, reader, 1, ours[path]) == wanted, path
    assert files.link(1, ours[b"link"].attr.inum) == b"dir/kept.txt"
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    again = open_files("yaffs2", reader)  # a worker that has just been started knows the numbers too
    for path, entry in deleted.items():
        assert again.stat(1, entry.attr.inum, 0) == entry.attr, path
    reader.close()


@pytest.mark.slow
def test_names_and_bytes_are_those_of_tsk(tmp_path: Path) -> None:
    need("fls", "icat")
    image = tmp_path / "yaffs2.img"
    make_deleted(image)
    reader = FileReader(image)
    files = open_files("yaffs2", reader)
    ours = {
        (path.decode(), int(files.xattrs(1, entry.attr.inum)[b"user.imgfs.yaffs2.object"])): entry
        for path, entry in removed_in(files).items()
        if path != b"$Orphans"
    }
    live = {entry.attr.inum for entry in walk(files).values()}
    theirs = {key: found for key, found in fls(image).items() if key[1] not in live}
    before = ("dir/changed.txt", next(number for path, number in ours if path == "dir/renamed.txt"))
    assert set(theirs) - {before} == set(ours)  # TSK shows the name before a renaming too
    for key, versions in theirs.items():
        if key in ours and ours[key].attr.kind == Kind.REG:
            # the header of the unlinked file is a version without content
            wanted = next((data for data in (icat(image, number) for _, number in versions) if data), b"")
            assert content(files, reader, 1, ours[key]) == wanted, key
    reader.close()


def test_chunk_that_was_erased_is_lost() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"file", noise(4 * PAGE, 1))
    flash.remove(number)
    flash.erase(
        next(at for at, page in enumerate(flash.pages) if page[:PAGE] == noise(4 * PAGE, 1)[PAGE : 2 * PAGE])
    )
    files, reader = opened(flash)
    with pytest.raises(OSError, match="lost"):
        content(files, reader, 1, removed_in(files)[b"file"])


def test_number_that_is_used_again_is_another_file() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"old", noise(3 * PAGE, 1))
    flash.remove(number)
    flash.next = number
    flash.create(ROOT, b"new", noise(PAGE, 2))
    flash.write(number, 2, noise(10, 3))
    flash.header(number, FILE, ROOT, b"new", 2 * PAGE + 10)
    files, reader = opened(flash)
    live = walk(files)
    assert set(live) == {b"lost+found", b"new"}
    wanted = noise(PAGE, 2) + bytes(PAGE) + noise(10, 3)
    assert content(files, reader, 0, live[b"new"]) == wanted
    old = removed_in(files)[b"old"]
    assert content(files, reader, 1, old) == noise(3 * PAGE, 1)


def test_what_was_cut_off_does_not_come_back() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"file", noise(6 * PAGE, 1))
    flash.header(number, FILE, ROOT, b"file", PAGE)  # shortened
    flash.write(number, 4, noise(PAGE, 2))
    flash.header(number, FILE, ROOT, b"file", 5 * PAGE)
    files, reader = opened(flash)
    assert content(files, reader, 0, walk(files)[b"file"]) == noise(PAGE, 1)[:PAGE] + bytes(3 * PAGE) + noise(
        PAGE, 2
    )
    flash.remove(number)  # what was never written cannot be told from what was erased
    files, reader = opened(flash)
    with pytest.raises(OSError, match="lost"):
        content(files, reader, 1, removed_in(files)[b"file"])


def test_chunks_behind_the_last_header_count() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"file", noise(PAGE, 1))
    flash.write(number, 1, noise(700, 2))  # the power failed before the header was written
    files, reader = opened(flash)
    assert content(files, reader, 0, walk(files)[b"file"]) == noise(PAGE, 1) + noise(700, 2)


def test_blocks_are_read_in_the_order_of_their_numbers() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"file", noise(100, 1))
    flash.page(number, 1, 100, noise(100, 2), sequence=0x2000)
    flash.page(number, 1, 100, noise(100, 3), sequence=0x1FFF)  # lies later, was written before
    files, reader = opened(flash)
    assert content(files, reader, 0, walk(files)[b"file"]) == noise(100, 2)


def test_what_has_no_directory_is_an_orphan() -> None:
    flash = Flash()
    lost = flash.create(9999, b"parent unknown", noise(500, 1))
    nameless = flash.create(ROOT, b"x", noise(900, 2))
    flash.pages[-3:] = [flash.pages[-2]]  # only its chunk is left
    removed = flash.create(9998, b"gone", noise(50, 3))
    flash.remove(removed)
    first, second = flash.create(ROOT, b"a"), flash.create(ROOT, b"b")
    flash.header(first, DIRECTORY, second, b"a")  # each is in the other
    flash.header(second, DIRECTORY, first, b"b")
    files, reader = opened(flash)
    deleted = walk(files, 1)
    assert {path for path in deleted if path.startswith(b"$Orphans/")} >= {
        b"$Orphans/%d" % number for number in (lost, nameless, removed)
    }
    for number, wanted in ((lost, noise(500, 1)), (removed, noise(50, 3)), (nameless, noise(900, 2))):
        assert content(files, reader, 1, deleted[b"$Orphans/%d" % number]) == wanted
    assert "no directory" in deleted[b"$Orphans/%d" % lost].attr.damaged
    assert "no header" in deleted[b"$Orphans/%d" % nameless].attr.damaged
    assert any(path.startswith((b"$Orphans/%d" % first, b"$Orphans/%d" % second)) for path in deleted)
    assert len(walk(files)) == 1  # lost+found: the live tree ends


def test_name_of_a_hard_link_gives_no_bytes_of_a_live_file() -> None:
    flash = Flash()
    number = flash.create(ROOT, b"file", noise(100, 1))
    flash.next += 1
    flash.header(flash.next, HARD_LINK, ROOT, b"other name", same_as=number)
    flash.remove(flash.next)
    files, reader = opened(flash)
    entry = removed_in(files)[b"other name"]
    assert (entry.attr.size, content(files, reader, 1, entry)) == (0, b"")
    assert "other names" in entry.attr.damaged


def test_lost_page_costs_only_itself() -> None:
    flash = Flash()
    for number in range(40):
        flash.create(ROOT, b"file%02d" % number, noise(100, number))

    class Torn(MemoryReader):
        def read(self, start: int, length: int) -> bytes:
            bad = 50 * (PAGE + SPARE)
            if start <= bad < start + length:
                raise Malformed("lost")
            return super().read(start, length)

    files = open_files("yaffs2", Torn(b"".join(flash.pages)))
    assert "1 pages" in files.info.notes[0]
    assert len(walk(files)) >= 40


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    make_deleted(tmp_path / "yaffs2.img")
    check_hostile("yaffs2", tmp_path / "yaffs2.img", tmp_path, seeds=200)


def test_some_spoilt_pages_do_not_hide_the_rest() -> None:
    flash = Flash()
    for number in range(40):
        flash.create(ROOT, b"file%02d" % number, noise(100, number))
    for at in (12, 29, 47):
        flash.pages[at] = bytes(PAGE + SPARE)
    files, _ = opened(flash)
    assert len(walk(files)) >= 38
