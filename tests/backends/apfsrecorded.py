"""python -m tests.backends.apfsrecorded: record anew what Linux' module wrote and showed of APFS.

Fetches and builds the module (``tests/guest/apfs.py``) and boots a guest for a minute. Every disk but that of
10,000 files becomes ``tests/recorded/apfs-*.xz``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.backends import seen
from tests.guest import apfs, recording, shown

if TYPE_CHECKING:
    from tests.backends.seen import Seen

DISKS = ("small", "cased", "exact", "snaps")


def told(row: Seen) -> dict[str, Any]:
    """Return a row as the recordings have it: values of attributes in hex."""
    fields = row._asdict()
    fields["ino"] = fields.pop("inum")
    fields["xattrs"] = {name.decode(): value.hex() for name, value in row.xattrs.items()}
    return fields


def record(out: Path) -> dict[str, int]:
    """Keep the disks of a folder of results; return the bytes of each recording."""
    lengths = {}
    for disk in DISKS:
        truth = {}
        for path in sorted(out.glob(f"{disk}.*rows")):
            with path.open() as file:
                rows = seen.load(file)
            truth[path.name.removesuffix(".rows")] = {
                name.decode("latin-1"): told(row) for name, row in rows.items()
            }
        kept = shown.RECORDED / f"apfs-{disk}.xz"
        lengths[kept.name] = recording.save(kept, {disk: out / f"{disk}.img"}, truth)
    return lengths


def main() -> None:
    """Boot the guest and record."""
    with tempfile.TemporaryDirectory() as name:
        shown.made("apfs", Path(name), uses={"kit": apfs.kit()})
        print(record(Path(name)))


if __name__ == "__main__":
    main()
