"""python -m tests.backends.largetrees: trees of 10,000 files where the host's kernel has no such file system.

Boots a guest for four minutes that makes them (``tests/guest/recipes/large.sh``). Their disks are too large
to be kept: what is kept, in ``tests/recorded/large.json``, is how many paths each tree has and a digest of
what is the same whenever it is made. The module records it anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgfs.model import Kind
from tests.backends import seen
from tests.backends.compared import Rules
from tests.guest import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.backends.seen import Seen

RECORDED = shown.RECORDED / "large.json"
TREES = {  # disk of the recipe: back-end, what its kernel does not tell
    "xfs": ("xfs", Rules(hidden=(b"trusted.SGI_",))),  # the kernel shows ACLs twice
    "udf": ("udf", Rules(holes=False, numbers=False)),  # it counts blocks from the start of the disk
    "hfsplus": ("hfs", Rules(holes=False, folders=False, more=True)),
}


def summary(truth: Mapping[bytes, Seen]) -> dict[str, Any]:
    """Return how many paths there are, and a digest of what a second run makes again."""
    summed = hashlib.sha256()
    for path, one in sorted(truth.items()):
        folder = one.kind == Kind.DIR
        told = [one.kind, one.mode, one.uid, one.gid, 0 if folder else one.size, one.rdev, one.body]
        told += [None if folder else one.m_ns, sorted(one.xattrs.items())]
        summed.update(repr((path, told)).encode())
    return {"paths": len(truth), "sha256": summed.hexdigest()}


def load(folder: Path) -> dict[str, dict[bytes, Seen]]:
    """Return what the guest's kernel showed of the trees of a run."""
    found = {}
    for name in TREES:
        with (folder / f"{name}.rows").open() as file:
            found[name] = seen.load(file)
    return found


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as name:
        shown.made("large", Path(name))
        told = {tree: summary(truth) for tree, truth in load(Path(name)).items()}
    RECORDED.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
