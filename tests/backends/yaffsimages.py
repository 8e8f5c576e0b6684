"""YAFFS2 dumps composed as the file system writes them: a log of pages, nothing overwritten.

Source: "How YAFFS Works" (Charles Manning, 2012), sections 7, 8, 10. Removal is a header that moves the
object to directory 3 or 4 under the name "unlinked" or "deleted", with the size 0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PAGE, SPARE, PER_BLOCK = 2048, 64, 8
FILE, SYMLINK, DIRECTORY, HARD_LINK = 1, 2, 3, 4
ROOT, LOST_FOUND, UNLINKED, DELETED = 1, 2, 3, 4


class Flash:
    """A dump that grows page by page."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.pages: list[bytes] = []
        self.next = 257
        self.sizes: dict[int, int] = {}
        self.kinds: dict[int, int] = {}
        self.header(ROOT, DIRECTORY, ROOT, b"")
        self.header(LOST_FOUND, DIRECTORY, ROOT, b"lost+found")

    def page(self, number: int, chunk: int, length: int, data: bytes, sequence: int = 0) -> int:
        """Write a page; returns its number."""
        sequence = sequence or 0x1001 + len(self.pages) // PER_BLOCK
        tags = struct.pack(self.order + "4I", sequence, number, chunk, length)
        self.pages.append(data.ljust(PAGE, b"\xff") + tags.ljust(SPARE, b"\xff"))
        return len(self.pages) - 1

    def header(
        self, number: int, kind: int, parent: int, name: bytes, size: int = 0, target: bytes = b"",
        same_as: int = 0,
    ) -> int:  # fmt: skip
        mode = {FILE: 0o100644, SYMLINK: 0o120777, DIRECTORY: 0o40755, HARD_LINK: 0}[kind]
        raw = struct.pack(self.order + "2IH", kind, parent, 0xFFFF) + name.ljust(256, b"\0") + b"\xff\xff"
        raw += struct.pack(
            self.order + "8I", mode, 0, 0, 1_600_000_000, 1_600_000_001, 1_600_000_002, size, same_as
        )
        raw += target.ljust(160, b"\0") + bytes(4) + b"\xff" * 24
        raw += struct.pack(self.order + "7I", 0, 0, 0, 0, 0, 0, 0)
        self.kinds[number] = kind
        return self.page(number, 0, 0xFFFF, raw.ljust(512, b"\xff"))

    def create(self, parent: int, name: bytes, data: bytes | None = None, *, target: bytes = b"") -> int:
        """Make a directory (no data), a link (a target) or a file, closed after writing."""
        number, self.next = self.next, self.next + 1
        if target:
            self.header(number, SYMLINK, parent, name, target=target)
        elif data is None:
            self.header(number, DIRECTORY, parent, name)
        else:
            self.header(number, FILE, parent, name)
            self.write(number, 0, data)
            self.header(number, FILE, parent, name, len(data))
        return number

    def write(self, number: int, first: int, data: bytes) -> list[int]:
        """Write chunks from ``first`` on; returns their pages."""
        return [
            self.page(number, first + at // PAGE + 1, len(data[at : at + PAGE]), data[at : at + PAGE])
            for at in range(0, len(data), PAGE)
        ]

    def remove(self, number: int, *, busy: bool = False) -> None:
        """Move an object where deleted ones go; ``busy``: somebody had it open until a mount."""
        kind = self.kinds[number]
        if busy:
            self.header(number, kind, UNLINKED, b"unlinked")
        self.header(number, kind, DELETED, b"deleted")

    def erase(self, page: int) -> None:
        """Erase a page as part of its block."""
        self.pages[page] = b"\xff" * (PAGE + SPARE)

    def save(self, image: Path) -> Path:
        """Write the dump, and where TSK finds the tags."""
        image.write_bytes(b"".join(self.pages))
        image.with_name(image.name + "-yaffs2.config").write_text(
            f"flash_page_size = {PAGE}\nflash_spare_size = {SPARE}\nflash_chunks_per_block = {PER_BLOCK}\n"
            "spare_seq_num_offset = 0\nspare_obj_id_offset = 4\nspare_chunk_id_offset = 8\n"
        )
        return image
