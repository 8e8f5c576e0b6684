"""Streams of a file as they are described: sizes, layouts, and what stands in the way of reading one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.model import Attr, Inline, Kind, Layout, Linear

if TYPE_CHECKING:
    from imgfs.errors import ImgfsError

INLINE_IN_LISTING: Final = 700  # resident content a page carries along
RUNS_IN_LISTING: Final = 1


class Data(NamedTuple):
    """A data attribute. ``problem`` says why there is no layout. Units: bytes."""

    name: bytes
    stream: int
    size: int
    allocated: int
    layout: Layout | None
    problem: ImgfsError | None


def plain(attr: Attr, content: Data | None) -> Layout | None:
    """Return the layout of what is not a stream: only files have content, and not if it is missing."""
    if attr.kind not in {Kind.REG, Kind.DIR}:
        return Inline(b"")
    if attr.kind != Kind.REG:
        return None
    if content is None:
        return None if attr.damaged else Inline(b"")
    return content.layout


def light(layout: Layout | None) -> tuple[Layout, ...] | None:
    """Return a layout a page carries along: short content, or a run."""
    if type(layout) is Inline:
        return (layout,) if len(layout.data) <= INLINE_IN_LISTING else None
    if type(layout) is Linear:
        return (layout,) if len(layout.logical) <= 8 * RUNS_IN_LISTING else None
    return None if layout is None else (layout,)


def stream_attr(attr: Attr, data: Data) -> Attr:
    """Return the attributes of a stream of a file."""
    return Attr(
        kind=Kind.REG,
        inum=attr.inum,
        generation=attr.generation,
        size=data.size,
        allocated=data.allocated,
        mode=attr.mode,
        nlink=attr.nlink,
        uid=attr.uid,
        gid=attr.gid,
        b_ns=attr.b_ns,
        m_ns=attr.m_ns,
        c_ns=attr.c_ns,
        a_ns=attr.a_ns,
        deleted=attr.deleted,
        damaged="" if data.problem is None else data.problem.message,
    )
