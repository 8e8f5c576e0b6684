"""(In a worker) entries that the daemon would refuse: such a one costs itself, not its directory.

The daemon kills whoever sends a name or a number beyond its limits (``checks``), for a parser that does may
do anything. Back-ends know better; where one of them forgot, or a structure says what nobody thought of, this
is said of the entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.errors import WorkerLied
from imgfs.model import Attr, Entry
from imgfs.worker.checks import INT64, NAME_MAX, STREAM_MAX, check_attr

if TYPE_CHECKING:
    from imgfs.model import Page

_LONG: Final = ("size", "allocated", "inum", "generation", "rdev")  # of 63 bits
_SHORT: Final = ("uid", "gid", "nlink")  # of 32
_TIMES: Final = ("m_ns", "a_ns", "c_ns", "b_ns")


def mended(page: Page) -> Page:
    """Return a page in which every entry is one that the daemon accepts."""
    for entry in page.entries:
        try:
            check_attr(entry.attr)
        except WorkerLied:
            break
        if len(entry.name) > NAME_MAX or not 0 <= entry.stream <= STREAM_MAX:
            break
    else:
        return page
    return msgspec.structs.replace(page, entries=[_entry(entry) for entry in page.entries])


def _entry(entry: Entry) -> Entry:
    attr = mended_attr(entry.attr)
    if not 0 <= entry.stream <= STREAM_MAX:
        attr = Attr(kind=attr.kind, inum=attr.inum, damaged=f"stream {entry.stream}"[:NAME_MAX])
        return Entry(entry.name[:NAME_MAX], attr)
    if len(entry.name) > NAME_MAX:
        said = attr.damaged or f"its name has {len(entry.name)} bytes"
        attr = msgspec.structs.replace(attr, damaged=said)
    layout = entry.layout if attr.size == entry.attr.size else None
    return Entry(entry.name[:NAME_MAX], attr, entry.stream, layout)


def mended_attr(attr: Attr) -> Attr:
    """Return attributes without the numbers that cannot be any, which is said; others as they are."""
    try:
        check_attr(attr)
    except WorkerLied as why:
        known = {name: getattr(attr, name) for name in attr.__struct_fields__}
        known |= {name: 0 for name in _LONG if known[name] >> 63}
        known |= {name: 0 for name in _SHORT if known[name] >> 32}
        known |= {name: None for name in _TIMES if known[name] and not -INT64 <= known[name] < 2 * INT64}
        known["mode"] &= 0o7777
        known["damaged"] = (attr.damaged or why.message)[:NAME_MAX]
        return Attr(**known)
    return attr
