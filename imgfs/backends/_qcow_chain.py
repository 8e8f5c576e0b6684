"""An image of the QCOW family and the images below it: from headers and tables to one media.

Names of backing and data files are claims: this module only says which it wants. What the daemon brings
is among ``reader.others``, found by its name; what it does not bring is lost, never zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_reply import Reply
from imgfs.backends._chain_runs import MAX_RUNS, Below, Runs
from imgfs.backends._qcow1_header import read_first
from imgfs.backends._qcow2_header import MAGIC, read_second, tables_of
from imgfs.backends._qcow2_snapshots import at_snapshot, read_snapshots
from imgfs.backends._qcow_tables import walk
from imgfs.errors import EvidenceError, NotMine, NotSupported
from imgfs.model import Codec, Media, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader
    from imgfs.backends._qcow2_header import Header
    from imgfs.backends._qcow_tables import Tables
    from imgfs.model import State

_PARSERS: Final = {1: read_first, 3: read_second}  # by version; 3 stands for 2, too
MAX_CHAIN: Final = 32
_MAX_NAMED: Final = 32  # snapshots in notes
_RAW: Final = {"raw", "file", "host_device"}
_OWN: Final = {"qcow", "qcow2"}
# Containers that a backing file without a stated format may be: their bytes are not the disk's.
_OTHERS: Final = (b"KDMV", b"COWD", b"conectix", b"vhdxfile", b"QED\0", b"# Disk Desc", b"WithoutFree")


@dataclass(slots=True)
class Image:
    """One image of the chain. ``data`` is the ticket its clusters lie in, -1: that file is missing."""

    header: Header
    tables: Tables
    runs: Runs
    data: int


@dataclass(slots=True)
class _Chain:
    """What was found on the way down. ``end`` is what lies below the last image; None: nothing does."""

    images: list[Image] = field(default_factory=list)
    end: Below | None = None
    notes: list[str] = field(default_factory=list)
    wants: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)


def open_chain(reader: Reader, version: int, state: str = "") -> Media:
    """Read ``reader`` and everything it builds upon.

    Args:
        reader: the image that was named; its ``others`` may be the files below it.
        version: the one the named image must have; 3 stands for 2, too.
        state: the key of an internal snapshot of the named image; empty: its active disk.

    Raises:
        NotMine: it is none.
        NotSupported, Malformed: the image cannot be read; one below it costs its ranges only.
    """
    if _version(reader) != version:
        raise NotMine("qcow")
    chain = _Chain()
    _descend(reader, chain, state)
    return _media(reader, chain)


def _version(reader: Reader) -> int:
    """Return the version of an image, 3 for 2; 0: it is none of this family."""
    if reader.size < 8:
        return 0
    head = reader.read(0, 8)
    version = int.from_bytes(head[4:], "big")
    return 0 if not head.startswith(MAGIC) else 3 if version == 2 else version


def _descend(reader: Reader, chain: _Chain, state: str) -> None:
    members: dict[str, tuple[int, Reader]] = {}
    for ticket, member in enumerate((reader, *reader.others)):
        members.setdefault(member.name, (ticket, member))
    used: set[int] = set()
    ticket, current, kind = 0, reader, ""
    left = MAX_RUNS
    while True:
        used.add(ticket)
        try:
            image = _image(current, ticket, members, chain, Runs(left), state)
        except (EvidenceError, NotSupported, NotMine) as why:
            if not chain.images:
                raise
            message = why.message if isinstance(why, (EvidenceError, NotSupported)) else "not what it is said"
            chain.end = Below(
                why=_said(chain, f"the backing file {current.name!r} cannot be read: {message}")
            )
            return
        state = ""
        left = max(left - len(image.runs), 1)
        chain.images.append(image)
        header = image.header
        if header.backing is None:
            return
        found = _member(header.backing, "backing", members, chain)
        if found is None:
            chain.end = Below(why=f"the backing file {_shown(header.backing)} is not at hand")
            return
        ticket, current = found
        if ticket in used:
            chain.end = Below(why=_said(chain, f"the chain of backing files leads back to {current.name!r}"))
            return
        if len(chain.images) >= MAX_CHAIN:
            chain.end = Below(why=_said(chain, f"more than {MAX_CHAIN} images build upon each other"))
            return
        kind = header.backing_format
        if kind in _RAW or (kind not in _OWN and not _version(current)):
            chain.end = _raw(current, ticket, kind, chain)
            return


def _raw(reader: Reader, ticket: int, kind: str, chain: _Chain) -> Below:
    """Take a backing file as the bytes of the disk, if it is said to be that or looks like nothing else."""
    if kind and kind not in _RAW:
        return Below(why=_said(chain, f"the backing file {reader.name!r} is {kind[:32]!r}: not read"))
    if not kind and reader.read(0, min(16, reader.size)).startswith(_OTHERS):
        return Below(why=_said(chain, f"the backing file {reader.name!r} is another container: not read"))
    return Below(which=ticket, size=reader.size)


def _image(
    reader: Reader,
    ticket: int,
    members: dict[str, tuple[int, Reader]],
    chain: _Chain,
    runs: Runs,
    state: str,
) -> Image:
    parse = _PARSERS.get(_version(reader))
    if parse is None:
        raise NotMine("qcow")
    header, tables = parse(reader)
    if state:
        header = at_snapshot(reader, header, state)
        tables = tables_of(header, reader.size)
    else:
        _name_snapshots(reader, header, chain)
    data = ticket
    where = f"{reader.name}: " if chain.images else ""
    chain.notes += [where + note for note in header.notes]
    if header.data_file is not None:
        found = _member(header.data_file, "data", members, chain)
        data = found[0] if found is not None else -1
        tables = tables.over(found[1].size if found is not None else -1)
    chain.notes += [where + note for note in walk(reader, tables, runs)]
    return Image(header, tables, runs, data)


def _name_snapshots(reader: Reader, header: Header, chain: _Chain) -> None:
    """Name the internal snapshots of an image; those of the named one are further disks."""
    snapshots, notes = read_snapshots(reader, header)
    header.notes += notes
    top = not chain.images
    if top:
        chain.states = [snapshot.state for snapshot in snapshots]
    for snapshot in snapshots[:_MAX_NAMED]:
        machine = ", with the state of the machine, which is not shown" if snapshot.machine else ""
        where = "a disk of its own" if top else "not shown, what the image holds now is used"
        header.notes.append(f"internal snapshot {snapshot}{machine}: {where}")


def _member(
    name: bytes, kind: str, members: dict[str, tuple[int, Reader]], chain: _Chain
) -> tuple[int, Reader] | None:
    """Return the ticket of a file that an image names; None: it is not at hand, and that is said."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not beneath(text):
        _said(
            chain,
            f"the {kind} file {_shown(name)} is not opened: only a file beneath its folder would be",
        )
        return None
    if text not in members:
        chain.wants.append(text)
        _said(chain, f"the {kind} file {_shown(name)} is no regular file beside the image")
        return None
    return members[text]


def _said(chain: _Chain, note: str) -> str:
    chain.notes.append(note)
    return note


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def _media(reader: Reader, chain: _Chain) -> Media:
    """Lay the images over each other, the lowest first."""
    images = chain.images
    reply = Reply(1 + len(reader.others), [image.runs for image in images])
    below = chain.end
    for image in reversed(images):
        header, runs = image.header, image.runs
        packed = reply.pack(runs, Codec(header.codec), header.cluster, 0, image.data)
        number = reply.lay(runs, header.size, image.data, packed, below)
        below = Below(which=number, size=header.size, lost=tuple(runs.lost))
    reply.write(reader)
    top = images[0]
    notes = list(dict.fromkeys(chain.notes))
    if top.runs.unlisted:
        notes.append(f"{top.runs.unlisted} more ranges are lost than are named")
    return Media(
        layouts=tuple(reply.layouts),
        version=f"{top.header.version}",
        metadata=_facts(images),
        lost=tuple(top.runs.lost),
        notes=tuple(notes[: limits.KIB]),
        wants=tuple(dict.fromkeys(chain.wants)),
        states=tuple(chain.states),
    )


def _facts(images: Sequence[Image]) -> dict[str, str]:
    header = images[0].header
    facts = {"cluster size": f"{header.cluster}"}
    if header.backing is not None:
        facts["backing file"] = _shown(header.backing)
    if header.data_file is not None:
        facts["data file"] = _shown(header.data_file)
    if images[0].runs.rows:
        facts["compression"] = header.codec
    return facts
