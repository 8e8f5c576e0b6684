"""What is said of a volume's journal and state: written from TN1150, on volumes a kernel takes."""

from __future__ import annotations

import struct

import pytest

from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import open_files
from tests.backends.hfsblank import BLOCK, blank

SIZE = 4 << 20
INFO, JOURNAL = 900, 901  # blocks of the volume
LENGTH = 16 * BLOCK
HEAD, LIST = 512, 512
UNREPLAYED = "unreplayed journal: the files are shown as they lie, without the last transactions"


def checksum(data: bytes) -> int:
    total = 0
    for byte in data:
        total = ((total << 8) ^ (total + byte)) & 0xFFFFFFFF
    return ~total & 0xFFFFFFFF


def listed(blocks: int, *, goes_on: bool, order: str = "<", data: int = BLOCK) -> bytes:
    """Return a block list with its blocks."""
    head = struct.pack(order + "HHIIIQII", 31, blocks + 1, LIST + blocks * data, 0, 0, 0, 0, int(goes_on))
    head = head[:8] + struct.pack(order + "I", checksum(head)) + head[12:]
    rows = b"".join(struct.pack(order + "QII", number, data, 0) for number in range(blocks))
    return (head + rows).ljust(LIST, b"\0") + b"\xd0" * (blocks * data)


def journal(start: int, end: int, order: str = "<") -> bytes:
    """Return the header."""
    head = struct.pack(order + "IIQQQIII", 0x4A4E4C78, 0x12345678, start, end, LENGTH, LIST, 0, HEAD)
    return head[:36] + struct.pack(order + "I", checksum(head)) + head[40:]


def volume(lists: bytes = b"", *, start: int = HEAD, order: str = "<", flags: int = 1) -> bytearray:
    """Return a journaled volume whose journal holds these lists from ``start`` on, around its end."""
    image = bytearray(blank(SIZE))
    struct.pack_into(">I", image, 1024 + 4, 0x100 | 0x2000)
    struct.pack_into(">I", image, 1024 + 12, INFO)
    at = JOURNAL * BLOCK
    struct.pack_into(">I32xQQ", image, INFO * BLOCK, flags, at, LENGTH)
    end = start + len(lists)
    if end > LENGTH:
        fits = LENGTH - start
        image[at + HEAD : at + HEAD + len(lists) - fits] = lists[fits:]
        lists, end = lists[:fits], HEAD + end - LENGTH
    image[at + start : at + start + len(lists)] = lists
    image[at : at + HEAD] = journal(start, end, order).ljust(HEAD, b"\0")
    return image


def notes(image: bytes | bytearray) -> tuple[str, ...]:
    return open_files("hfs", MemoryReader(bytes(image))).info.notes


@pytest.mark.parametrize("order", ["<", ">"])
def test_transactions_that_were_not_replayed_are_counted(order: str) -> None:
    lists = listed(2, goes_on=False, order=order) + listed(3, goes_on=True, order=order)
    lists += listed(1, goes_on=False, order=order)
    expected = (UNREPLAYED, "journal: it holds 2 committed transactions with 6 blocks")
    assert notes(volume(lists, order=order)) == expected
    assert notes(volume(lists, order=order, start=LENGTH - LIST - 2 * BLOCK)) == expected
    assert notes(volume(lists, order=order, start=LENGTH - LIST - BLOCK)) == expected


def test_a_journal_that_was_replayed_says_nothing() -> None:
    assert notes(volume()) == ()
    assert notes(volume(start=HEAD + 512)) == ()
    assert notes(volume(flags=5)) == ()


def test_a_journal_elsewhere_is_said() -> None:
    assert notes(volume(flags=2)) == ("the journal is on another volume",)


def test_what_of_a_journal_is_damaged_is_said() -> None:
    one = listed(1, goes_on=False)
    image = volume(one + listed(1, goes_on=False))
    image[JOURNAL * BLOCK + HEAD + len(one) + 2] ^= 1
    assert notes(image)[1] == (
        "journal: it holds 1 committed transaction with 1 blocks, then a list with a wrong checksum"
    )
    image[JOURNAL * BLOCK + 8] ^= 1
    assert notes(image) == ("its journal cannot be read: the checksum of its header is wrong",)
    image[JOURNAL * BLOCK] ^= 1
    assert notes(image) == ("its journal cannot be read: no header",)
    struct.pack_into(">Q", image, INFO * BLOCK + 36, 1 << 63)
    assert notes(image) == ("its journal cannot be read: it lies outside the volume",)
    struct.pack_into(">I", image, 1024 + 12, 0xFFFFFFFF)
    assert notes(image) == ("its journal cannot be read",)


def test_lists_that_lead_nowhere_end() -> None:
    image = volume(listed(1, goes_on=True))
    at = JOURNAL * BLOCK
    image[at : at + HEAD] = journal(HEAD, HEAD + 5).ljust(HEAD, b"\0")  # an end that no list reaches
    assert notes(image)[1].startswith("journal: it holds 0 committed transactions with 0 blocks, then a list")
    image[at : at + HEAD] = journal(HEAD, LENGTH + 512).ljust(HEAD, b"\0")
    assert notes(image) == ("its journal cannot be read: its header contradicts itself",)


def test_the_state_of_a_volume_is_said() -> None:
    image = bytearray(blank(SIZE))
    assert notes(image) == ()
    struct.pack_into(">I", image, 1024 + 4, 0)
    assert notes(image) == ("the volume was not unmounted: what was written last may be missing",)
    struct.pack_into(">I", image, 1024 + 4, 0x900)
    assert notes(image) == ("the volume is marked as inconsistent: its catalog may be wrong",)
