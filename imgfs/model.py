"""Values that cross processes: addresses, attributes, pages, layouts, tables.

Everything a worker may say is one of these. They are claims: the daemon checks meaning in
``worker.wire`` and ``block.build`` before anything is stored. ``msgspec.Struct`` and not dataclass:
a page of 1,024 entries encodes five and decodes three times faster (ARCHITECTURE.md, D19).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NewType

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Ino = NewType("Ino", int)  # number of a node in the mount

HOLE: Final = -1  # the image says: zeros
LOST: Final = -2  # the image does not say: an error to read
LINEAR_ROW: Final = 26  # bytes of a run in the memory file of a reply

CODED: Final = 0x8000_0000  # bit of a Chunked table entry: the unit is compressed
UNIT_HOLE: Final = 0xFFFF_FFFF
UNIT_LOST: Final = 0xFFFF_FFFE

_DEEPEST: Final = 8  # folders of a name that an image gives

PACKED_ROW: Final = 16  # bytes of a row of a Packed table
PACKED_CODED: Final = 1  # flags of such a row: the unit is compressed; none: its bytes are stored verbatim
PACKED_HOLE: Final = 2
PACKED_LOST: Final = 4
PACKED_PLAIN: Final = 8  # not compressed, and yet the codec's: a checksum is stored with it
RAGGED_ROW: Final = 24  # bytes of a row of a Ragged table
FRONT_ROW: Final = 24  # bytes of a row of its second table
RAGGED_HEAD, RAGGED_TAIL = 8, 12  # shifts of such numbers in its flags


# --- addresses ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Step:
    """One layer of an address: the back-end, and what names the child within its parent."""

    backend: str
    locator: str = ""

    def __str__(self) -> str:
        return f"{self.backend}:{self.locator}" if self.locator else self.backend


@dataclass(frozen=True, slots=True)
class Spec:
    """The printable address of anything: ``laptop.E01|ewf|gpt:2|ext``."""

    root: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "|".join([self.root, *map(str, self.steps)])

    def child(self, backend: str, locator: str = "") -> Spec:
        """Return the address one layer further in."""
        return Spec(self.root, (*self.steps, Step(backend, locator)))


# --- files ----------------------------------------------------------------------------------------
class Kind(IntEnum):
    """File types; the value is the type nibble of st_mode (``st_mode >> 12``)."""

    FIFO = 1
    CHR = 2
    DIR = 4
    BLK = 6
    REG = 8
    LNK = 10
    SOCK = 12


class Attr(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Attributes of one file or stream as its file system records them.

    Units: ``size`` and ``allocated`` bytes; times nanoseconds since 1970-01-01 UTC, None: not
    recorded. ``mode`` holds permission bits only (0..0o7777). ``generation`` is the reuse counter
    of ``inum``. ``damaged`` says why attributes are incomplete, empty: they are complete.
    """

    kind: Kind
    inum: int
    generation: int = 0
    size: int = 0
    allocated: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    m_ns: int | None = None
    a_ns: int | None = None
    c_ns: int | None = None
    b_ns: int | None = None
    rdev: int = 0  # device number of CHR and BLK as os.makedev packs it
    deleted: bool = False
    damaged: str = ""


class Codec(msgspec.Struct, frozen=True, array_like=True):
    """Name of a unit decoder and its parameters (see ``block.codecs``)."""

    name: str
    parameters: dict[str, int | bytes] = {}  # msgspec decodes one kind of string in a union


class Inline(msgspec.Struct, frozen=True, tag="inline"):
    """Content stored in the metadata itself."""

    data: bytes

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.data)


class Linear(msgspec.Struct, frozen=True, kw_only=True, tag="linear"):
    """Runs of one stream, in bytes.

    Columns are parallel, of length n, sorted by ``logical``, not overlapping. What no run covers is
    LOST: a back-end that means zeros says HOLE. ``which`` counts the tickets of the worker first and
    the earlier layouts of the same reply after them; empty means ticket 0. ``rows`` > 0: the columns are
    empty here, and lie in the memory file of the reply, one behind the other, of that many rows.

    Shapes:
        logical int64[n]: offset in the stream
        length  int64[n]: > 0
        target  int64[n]: offset in lowers[which], or HOLE, or LOST
        which  uint16[n]
    """

    size: int
    logical: bytes
    length: bytes
    target: bytes
    which: bytes = b""
    rows: int = 0

    @classmethod
    def of(cls, size: int, runs: Iterable[tuple[int, int, int]], which: Iterable[int] = ()) -> Linear:
        """Build the columns from (logical, length, target) rows."""
        rows = list(runs)
        columns = [array("q", column).tobytes() for column in zip(*rows, strict=True)] or [b"", b"", b""]
        return cls(
            size=size,
            logical=columns[0],
            length=columns[1],
            target=columns[2],
            which=array("H", which).tobytes(),
        )


class Chunked(msgspec.Struct, frozen=True, kw_only=True, tag="chunked"):
    """Units of one size, each decoded by a codec from where it is stored.

    The stored bytes of unit i of group g are [base[g] + entry(i), base[g] + entry(i + 1)) of
    lowers[which[g]]; the last unit of a group ends at ends[g]. Entries are offsets below 2^31 with
    the CODED bit, or UNIT_HOLE, or UNIT_LOST. Within a group they ascend.

    Shapes:
        table uint32[n]: n = ceil(size / unit); empty: the rows lie in the memory file of the reply
        first  int64[m]: first unit of each group, ascending, first[0] == 0
        base   int64[m]
        ends   int64[m]
        which uint16[m]: as in Linear; empty means ticket 0
    """

    size: int
    unit: int
    codec: Codec
    table: bytes
    first: bytes
    base: bytes
    ends: bytes
    which: bytes = b""


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed"):
    """Units of one decoded size, each with an explicit place in lowers[which].

    Rows are little-endian: offset u64, stored length u32, flags u32 (PACKED_CODED, PACKED_PLAIN, PACKED_HOLE,
    PACKED_LOST or none of them). Units may lie in any order, overlap, and have gaps between them; the
    last may be shorter than ``unit``, which counts decoded bytes. ``which`` counts as in Linear.

    Shapes:
        table rows[n] of 16 bytes: n = ceil(size / unit); empty: the rows lie in the memory file of the reply
    """

    size: int
    unit: int
    codec: Codec
    table: bytes
    which: int = 0


class Ragged(msgspec.Struct, frozen=True, kw_only=True, tag="ragged"):
    """Units of any decoded sizes, each with an explicit place in lowers[which].

    Rows ascend: first decoded byte u64, offset u64, stored length u32, flags u32; the last unit ends at
    ``size``. Flags: those of Packed, and at RAGGED_HEAD and RAGGED_TAIL how many bits of the first and last
    byte are not the unit's. With ``front`` >= 0 a second table: offset u64, length u32, skip u32, check u32,
    zero u32. That much of lowers[front] comes before the stored bytes, ``skip`` decoded bytes before the
    unit's; ``check`` is their CRC-32.

    Shapes: ``rows`` rows of 24 bytes in table, and in ahead with ``front``; empty: both in the memory file
    """

    size: int
    codec: Codec
    rows: int
    table: bytes = b""
    ahead: bytes = b""
    which: int = 0
    front: int = -1

    @property
    def needed(self) -> int:
        """Return how many bytes both tables have."""
        return self.rows * (RAGGED_ROW + (FRONT_ROW if self.front >= 0 else 0))


class Foreign(msgspec.Struct, frozen=True, kw_only=True, tag="foreign"):
    """Bytes only the worker can produce, through its ``read`` verb. ``why`` is counted and shown."""

    size: int
    why: str = ""


Layout = Inline | Linear | Chunked | Packed | Ragged | Foreign


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name of a directory, with everything that was known when it was listed.

    ``name`` is as stored: it may hold any byte. ``stream`` 0 is the content (or directory) itself;
    others are named ``name:stream`` by the back-end. ``layout`` is given for files of a run or two,
    so that opening them asks no worker; None: ask.
    """

    name: bytes
    attr: Attr
    stream: int = 0
    layout: tuple[Layout, ...] | None = None


class Page(msgspec.Struct, frozen=True, array_like=True):
    """Part of a directory. ``next`` is the cursor of the next page, -1 at the end.

    ``damaged`` says what is missing from the listing and why; empty: nothing.
    """

    entries: list[Entry]
    next: int = -1
    damaged: str = ""


class TreeInfo(msgspec.Struct, frozen=True):
    """An independently rooted tree of a file system; becomes a directory of its volume.

    ``deleted`` marks trees whose numbers are the back-end's own and not the file system's.
    """

    name: str
    root: int
    deleted: bool = False


class FilesInfo(msgspec.Struct, frozen=True, kw_only=True, tag="files", tag_field="_"):
    """What a file system says of itself. ``type`` is the name users know: ext4, ntfs, fat32.

    Units: ``block`` bytes per block or cluster; ``size`` bytes of the file system.
    """

    type: str
    trees: tuple[TreeInfo, ...]
    block: int = 0
    size: int = 0
    label: str = ""
    uuid: str = ""
    version: str = ""
    notes: tuple[str, ...] = ()


def plain(name: str) -> bool:
    """Say whether a name that an image gives is that of one file in one folder, and nothing else."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= 255
        and name not in (".", "..")
        and name.isprintable()
        and "/" not in name
    )


def beneath(name: str) -> bool:
    """Say whether a name that an image gives is that of a file in one folder or beneath it."""
    parts = name.split("/")
    return len(parts) <= _DEEPEST and all(map(plain, parts))


# --- media and volumes ------------------------------------------------------------------------------
class SlotKind(IntEnum):
    """What a slot of a volume system is."""

    ALLOCATED = 0
    UNALLOCATED = 1
    METADATA = 2


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a media. Units: bytes, half-open. ``type_id`` is the table's own word for the type."""

    slot: int
    kind: SlotKind
    start: int
    stop: int
    type_id: str = ""
    type_name: str = ""
    unique_id: str = ""
    label: str = ""
    flags: int = 0


class VolumeTable(msgspec.Struct, frozen=True, kw_only=True, tag="volumes", tag_field="_"):
    """A parsed table. Units: ``sector`` bytes."""

    scheme: str
    sector: int
    volumes: tuple[Volume, ...]
    uuid: str = ""
    label: str = ""
    notes: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, array_like=True):
    """A further disk in the same container: what its media was when a snapshot was taken.

    ``key`` is what ``Options.state`` asks for it by, ``name`` what its directory is called.
    """

    key: str
    name: str


class Media(msgspec.Struct, frozen=True, kw_only=True, tag="media", tag_field="_"):
    """The contents of a container: the last of ``layouts`` is the media.

    ``metadata`` is what the examiner wrote; ``digests`` maps md5, sha1, sha256 to stored hex digests;
    ``lost`` names ranges [start, stop) of the media with the reason. ``wants`` are names of further host
    files, as the image spells them: claims. One that is a regular file in the folder of the file the analyst
    named, or beneath it, is brought under that name, and the media opened again; without it some ranges are
    lost. ``kin``: a file is missing whose name the image cannot say. All that ``Backend.kin`` of its back-end
    matches are brought once, and sent away again but for those that ``wants`` names then.

    ``files`` names the FILES back-end of a container that holds files and no disk: it opens the media, and
    the members of the container. ``states`` are further disks of the container, each opened on first access.
    """

    layouts: tuple[Layout, ...]
    sector: int = 512
    version: str = ""
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    lost: tuple[tuple[int, int, str], ...] = ()
    notes: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    files: str = ""
    kin: bool = False
    states: tuple[State, ...] = ()


class Indexing(msgspec.Struct, frozen=True, kw_only=True, tag="indexing", tag_field="_"):
    """A container that can be read with an index, its last member, made in ``parts`` of ``total`` bytes.

    ``copy``: the index holds the decoded bytes themselves.
    """

    total: int
    parts: int = 1
    copy: bool = False
    why: str = ""


class Slice(msgspec.Struct, frozen=True, array_like=True):
    """What one step of indexing gave. ``done`` stored bytes of its part are behind it; ``last``: all are."""

    data: bytes
    done: int
    last: bool


Opened = Media | VolumeTable | FilesInfo | Indexing
