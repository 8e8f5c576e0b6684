"""Extended attributes as shown: the evidence's own, and what imgfs knows of a file beside its stat."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from imgfs.model import (
    HOLE,
    LOST,
    Attr,
    Chunked,
    Enciphered,
    Foreign,
    Inline,
    Kind,
    Linear,
    Packed,
    Ragged,
    Striped,
    Summed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgfs.model import Layout

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RUNS_MAX: Final = 32 * 1024  # bytes of the runs attribute: half of what the kernel carries


def iso(ns: int) -> str:
    """Return nanoseconds since 1970 as ISO 8601 in UTC; years Python cannot say stay numbers."""
    seconds, rest = divmod(ns, 10**9)
    try:
        return f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()}.{rest:09d}Z"
    except OverflowError:
        return f"{seconds}.{rest:09d}"


def present(attr: Attr, evidence: Mapping[bytes, bytes], facts: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """Name attributes so that the kernel lets an unprivileged mount show them.

    ``user.*`` exists on files and directories only; on links and special files the same is shown
    under ``system.imgfs.``. Other name spaces of the evidence (ACLs, trusted, capabilities) go below
    ``xattr.`` there, because the kernel would interpret or refuse them.
    """
    own = b"user.imgfs." if attr.kind in (Kind.REG, Kind.DIR) else b"system.imgfs."
    shown: dict[bytes, bytes] = {}
    for name, value in evidence.items():
        if name.startswith(b"user.imgfs."):
            shown[own + name[len(b"user.imgfs.") :]] = value
        elif name.startswith(b"user.") and own == b"user.imgfs.":
            shown[name] = value
        else:
            shown[own + b"xattr." + name] = value
    shown.update({own + name.encode(): value for name, value in facts.items() if value})
    return shown


def of_attr(attr: Attr) -> dict[str, bytes]:
    """Return the facts attributes alone tell."""
    recorded = "".join(
        letter
        for letter, ns in zip("MACB", (attr.m_ns, attr.a_ns, attr.c_ns, attr.b_ns), strict=True)
        if ns is not None
    )
    facts = {
        "inum": b"%d" % attr.inum,
        "generation": b"%d" % attr.generation,
        "allocated": b"%d" % attr.allocated,
        "times": recorded.encode(),
        "deleted": b"1" if attr.deleted else b"",
        "damaged": attr.damaged.encode(),
    }
    if attr.b_ns is not None:
        facts["btime"] = iso(attr.b_ns).encode()
    return facts


def of_layout(layouts: tuple[Layout, ...]) -> dict[str, bytes]:
    """Return the facts a layout tells: runs on the volume and ranges it cannot supply, in bytes."""
    if not layouts:
        return {}
    last = layouts[-1]
    match last:
        case Inline():
            return {"runs": b"inline"}
        case Foreign():
            return {"runs": b"decoded: " + last.why.encode()}
        case Chunked() | Packed():
            return {"runs": b"units of %d" % last.unit}
        case Striped():
            return {"runs": b"stripes of %d" % last.chunk}
        case Summed():
            return {"runs": b"sectors of %d, with checksums" % last.sector}
        case Enciphered():
            return {"runs": b"sectors of %d, encrypted" % last.sector}
        case Ragged():
            return {"runs": b"%d units" % last.rows}
        case Linear():
            return {"runs": _join(_runs(last)), "lost": _join(_lost(last))}


def _rows(layout: Linear) -> Iterator[tuple[int, int, int]]:
    columns = [array("q", column) for column in (layout.logical, layout.length, layout.target)]
    return zip(*columns, strict=True)


def _runs(layout: Linear) -> Iterator[str]:
    for logical, length, target in _rows(layout):
        place = "hole" if target == HOLE else "lost" if target == LOST else str(target)
        yield f"{logical}+{length}@{place}"


def _lost(layout: Linear) -> Iterator[str]:
    end = 0
    for logical, length, target in _rows(layout):
        if logical > end:
            yield f"{end}-{logical}"
        if target == LOST:
            yield f"{logical}-{logical + length}"
        end = logical + length
    if end < layout.size:
        yield f"{end}-{layout.size}"


def _join(words: Iterator[str]) -> bytes:
    text = bytearray()
    for word in words:
        if len(text) + len(word) > _RUNS_MAX:
            text += b" ..."
            break
        text += (b" " if text else b"") + word.encode()
    return bytes(text)
