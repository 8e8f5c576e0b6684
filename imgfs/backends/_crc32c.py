"""CRC-32C (Castagnoli) of what back-ends check: one block, or many of one length.

Source: RFC 3720, appendix B.4; see ``block.sums``.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from imgfs.block.sums import records

if TYPE_CHECKING:
    from collections.abc import Sequence


def crc32c(data: bytes, begun: int = 0) -> int:
    """Return the checksum of ``data``, going on from that of what comes before it."""
    return records(data, len(data), b"", (), begun)[0] if data else begun


def crc32c_all(blocks: Sequence[bytes]) -> array[int]:
    """Return the checksums of blocks of one length."""
    if not blocks or not blocks[0]:
        return array("I", bytes(4 * len(blocks)))
    return records(b"".join(blocks), len(blocks[0]), b"", ())
