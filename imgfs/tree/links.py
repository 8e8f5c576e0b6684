"""Symbolic link targets, confined to the subvolume they lie in.

The target is data from an adversary and the kernel follows it in the analyst's own name space. What is
returned holds ``..`` only at its front, and no more of them than the link lies deep: whatever the other
links on the way are, each of them confined likewise, following it stays below the subvolume's root.
"""

from __future__ import annotations

from imgfs import limits


def confine(target: bytes, depth: int) -> bytes:
    """Return ``target`` as seen from a directory ``depth`` levels below the root of its subvolume.

    An absolute target starts at that root. ``name/..`` is folded, because a ``..`` behind a name
    could climb out of wherever a link of that name leads.
    """
    parts = target.split(b"/")
    up, down = (depth, []) if target.startswith(b"/") else (0, [])  # type: tuple[int, list[bytes]]
    for part in parts:
        if part in (b"", b"."):
            continue
        if part == b"..":
            if down:
                down.pop()
            elif up < depth:
                up += 1
        else:
            down.append(part)
    path = b"/".join([b".."] * up + down) or b"."
    return path.split(b"\0")[0][: limits.MAX_LINK - 1] or b"."
