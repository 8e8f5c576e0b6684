"""File flags of 4.4BSD as Apple's file systems keep them, in the words of chflags(1).

Source: Apple File System Reference, "bsd_flags"; chflags(2); Apple TN1150, "HFS Plus Permissions".
"""

from __future__ import annotations

from typing import Final

COMPRESSED: Final = 0x20
DATALESS: Final = 0x4000_0000
_WORDS: Final = {
    0: "nodump",
    1: "immutable",
    2: "append",
    3: "opaque",
    5: "compressed",
    6: "tracked",
    7: "datavault",
    15: "hidden",
    16: "archived",
    17: "system-immutable",
    18: "system-append",
    19: "restricted",
    20: "system-no-unlink",
    23: "firmlink",
    30: "dataless",
}


def words_of(flags: int) -> str:
    """Return the names of flags; a bit without one is its value."""
    return " ".join(_WORDS.get(bit, f"{1 << bit:#x}") for bit in range(32) if flags >> bit & 1)
