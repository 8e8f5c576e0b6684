"""Values that cross processes: addresses, attributes, pages, layouts, tables.

Everything a worker may say is one of these. They are claims: the daemon checks meaning in
``worker.wire`` and ``block.build`` before anything is stored. ``msgspec.Struct`` and not dataclass:
a page of 1,024 entries encodes five and decodes three times faster (ARCHITECTURE.md, D19).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NewType

import msgspec

from imgfs.layouts import CODED as CODED
from imgfs.layouts import FRONT_ROW as FRONT_ROW
from imgfs.layouts import HOLE as HOLE
from imgfs.layouts import LINEAR_ROW as LINEAR_ROW
from imgfs.layouts import LOST as LOST
from imgfs.layouts import PACKED_CODED as PACKED_CODED
from imgfs.layouts import PACKED_HOLE as PACKED_HOLE
from imgfs.layouts import PACKED_LOST as PACKED_LOST
from imgfs.layouts import PACKED_PLAIN as PACKED_PLAIN
from imgfs.layouts import PACKED_ROW as PACKED_ROW
from imgfs.layouts import RAGGED_HEAD as RAGGED_HEAD
from imgfs.layouts import RAGGED_ROW as RAGGED_ROW
from imgfs.layouts import RAGGED_TAIL as RAGGED_TAIL
from imgfs.layouts import UNIT_HOLE as UNIT_HOLE
from imgfs.layouts import UNIT_LOST as UNIT_LOST
from imgfs.layouts import Chunked as Chunked
from imgfs.layouts import Codec as Codec
from imgfs.layouts import Enciphered as Enciphered
from imgfs.layouts import Foreign as Foreign
from imgfs.layouts import Inline as Inline
from imgfs.layouts import Layout as Layout
from imgfs.layouts import Linear as Linear
from imgfs.layouts import Packed as Packed
from imgfs.layouts import Ragged as Ragged
from imgfs.layouts import Striped as Striped
from imgfs.layouts import Summed as Summed

Ino = NewType("Ino", int)  # number of a node in the mount

_DEEPEST: Final = 8  # folders of a name that an image gives


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

    Units: ``size`` and ``allocated`` bytes; times nanoseconds since 1970-01-01 UTC from 1677 (-2^63) to 2554
    (2^64), None: not recorded. ``mode`` holds permission bits only (0..0o7777). ``generation`` is the reuse
    counter of ``inum``. ``damaged`` says why attributes are incomplete, empty: they are complete.
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

    ``deleted`` marks trees whose numbers are the back-end's own and not the file system's. ``number`` is what
    the file system calls it, 0: nothing; ``chosen``: it is mounted where none is named.
    """

    name: str
    root: int
    deleted: bool = False
    number: int = 0
    chosen: bool = False


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


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """A key the analyst gave, on its way to the one worker that may use it.

    ``kind`` is that of the key file: password, recovery, keyfile (``value`` holds the file's bytes),
    volume-key (the bytes of the key), clear. ``pim`` is VeraCrypt's, 0: none was given.
    """

    kind: str
    value: bytes
    pim: int = 0

    def __repr__(self) -> str:
        """Return what may be logged."""
        return f"Secret({self.kind})"


# --- media and volumes ------------------------------------------------------------------------------
class SlotKind(IntEnum):
    """What a slot of a volume system is."""

    ALLOCATED = 0
    UNALLOCATED = 1
    METADATA = 2


DISK: Final = "disk"  # the type_id of a volume that is a whole disk, with a table of its own


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a media. Units: bytes, half-open. ``type_id`` is the table's own word for the type.

    ``layout`` >= 0: the volume is not a range, its bytes are that one of the table's layouts; then ``start``
    is 0 and ``stop`` the size of that layout. ``created_ns``: when a snapshot was taken, as in ``Attr``.
    """

    slot: int
    kind: SlotKind
    start: int
    stop: int
    type_id: str = ""
    type_name: str = ""
    unique_id: str = ""
    label: str = ""
    flags: int = 0
    layout: int = -1
    created_ns: int | None = None


class Protector(msgspec.Struct, frozen=True, array_like=True):
    """What can open a locked volume: slot, kind (as the keys of a key file), id, what trying costs."""

    slot: str
    kind: str
    id: str = ""
    cost: str = ""


class VolumeTable(msgspec.Struct, frozen=True, kw_only=True, tag="volumes", tag_field="_"):
    """A parsed table. Units: ``sector`` bytes.

    ``layouts`` count tickets and each other as those of a Media do, and share its memory file; volumes name
    the ones they are. ``version`` is the format's own, ``protectors`` what can unlock it.
    """

    scheme: str
    sector: int
    volumes: tuple[Volume, ...]
    uuid: str = ""
    label: str = ""
    notes: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    version: str = ""
    protectors: tuple[Protector, ...] = ()


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


class MountRow(msgspec.Struct, frozen=True, array_like=True):
    """What an installed system mounts where.

    ``what`` names the volume: ``uuid:``, ``label:``, ``partuuid:`` or ``partlabel:`` and what it is called by
    then, ``dev:`` and a path of a device, ``mbr:SIGNATURE:OFFSET`` (hexadecimal, bytes); ``luks:`` and the
    UUID of what it is encrypted with, ``crypt:`` before any of the others for what that volume holds when it
    is unlocked; ``bind:``, ``rbind:`` (with what is mounted below) and ``overlay:`` for folders of the system
    itself. ``where`` is a path below the system's root, or a drive letter; ``tree`` or ``number`` is one of
    the file system's trees, empty and 0: its own. ``folders`` are paths below the system's root: the one that
    is bound, or the upper (may be empty) and the lower ones of an overlay, uppermost first.
    """

    what: str
    where: bytes
    tree: str = ""
    number: int = 0
    folders: tuple[bytes, ...] = ()


class MountTable(msgspec.Struct, frozen=True, kw_only=True, tag="mounts", tag_field="_"):
    """Where an installed system keeps its volumes; ``drives``: by letters, beside each other."""

    rows: tuple[MountRow, ...]
    drives: bool = False
    notes: tuple[str, ...] = ()


Opened = Media | VolumeTable | FilesInfo | Indexing | MountTable
