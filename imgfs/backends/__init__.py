"""What a format declares about itself, and where declarations are found.

A back-end is a module of this package without a leading underscore that holds ``BACKEND`` (or one
offered under the entry-point group ``imgfs.backends``). Adding a file is all it takes. Modules import
no parser library at the top: those are imported inside functions, which run in workers only.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol

from imgfs import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from imgfs.model import (
        Attr,
        FilesInfo,
        Indexing,
        Layout,
        Media,
        MountTable,
        Page,
        Secret,
        Slice,
        VolumeTable,
    )


class Role(IntEnum):
    """What opening gives; lower is tried first."""

    MEDIA = 0
    SNAPSHOTS = 1
    VOLUMES = 2
    FILES = 3
    MOUNTS = 4  # a file of an installed system that says where its volumes belong


@dataclass(frozen=True, slots=True)
class Signature:
    """Bytes at an offset; negative offsets count from the end of the source.

    ``align`` > 1 rounds a position counted from the end down to a multiple (md 0.90).
    """

    offset: int
    magic: bytes
    align: int = 1


class Reader(Protocol):
    """A worker's view of one source. ``others`` are further members in order (segments, discs).

    Units: ``size`` bytes. ``name`` is the base name of the host file, empty inside other layers.
    """

    size: int
    name: str
    others: Sequence[Reader]

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            Truncated: the range leaves [0, size).
            LostBytes: the image cannot supply part of the range.
        """

    def write_table(self, chunks: Iterable[bytes]) -> int:
        """Put tables and runs of layouts, in their order, into the memory file of the reply.

        Returns the length in bytes.

        Raises:
            Malformed: the table is larger than the memory file.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the analyst overrules. ``tz`` is an IANA name for file systems that store local time.

    ``base`` is where the source starts on its media: disklabels count from the start of the disk. ``state``
    is the key of one of the ``Media.states`` a container named: then that one is its media. ``keys`` are the
    analyst's that may fit. ``final``: no further member of a set will come, what can be read without them is.
    ``threads``: how many may be used to derive a key. ``patience``: how long keys may be tried on what only
    they tell from noise. ``keyless``: no key will come, what needs none is shown.

    Units: ``sector`` bytes, 0: find out; ``base`` bytes; ``patience`` seconds.
    """

    sector: int = 0
    tz: str = "UTC"
    codepage: str = "cp437"
    base: int = 0
    state: str = ""
    keys: tuple[Secret, ...] = ()
    final: bool = False
    threads: int = 1
    patience: float = limits.PATIENCE
    keyless: bool = False

    @property
    def sectors(self) -> tuple[int, ...]:
        """Return the sector sizes to try, in order."""
        return (self.sector,) if self.sector else (512, 4096)


class Files(Protocol):
    """What a file system implements, in the worker, synchronously.

    ``tree`` is an index into ``info.trees``; ``inum`` a number this object gave out. All methods
    raise EvidenceError for damage and NotFound for a number that is nothing.
    """

    info: FilesInfo

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return at most ``limit`` entries from ``cursor`` (0: the first); never . or .."""

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie; the last layout is the stream."""

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link as stored."""

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes under their full names, and imgfs's own under user.imgfs.*."""

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of a Foreign stream."""


class Bytes(Protocol):
    """What a MEDIA back-end may return instead of Media when some bytes are Foreign."""

    media: Media

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the media."""


class Index(Protocol):
    """What a MEDIA back-end returns instead of Media when an index must be made first.

    ``step`` counts the calls for one part from 0. Once the index is a member of the container, named
    ``_index.NAME`` and the last one, the same ``open`` returns the Media; or an Index again when it is none.
    """

    indexing: Indexing

    def index(self, part: int, step: int) -> Slice:
        """Return the next bytes of a part of the index; a call takes about ``limits.PAGE_SECONDS``."""


Truth = Literal["kernel", "peer", "tsk", "composed", "corpus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The declaration of a format.

    ``rank`` orders candidates within a role, lower first. ``exclusive`` False: tried first, and
    something else may live on the same source. ``siblings`` maps the name of the first host file to
    patterns (regular expressions, full match, in any order) of the other members' names. ``kin`` is a pattern
    of the names of files beside an image that it may build upon without a word of their names.
    ``index`` is the version of the indexes it makes, 0: it makes none.
    ``sets``: a file system that may lie on several sources, and is opened before anybody looks.
    ``partly``: some of it may be locked, and the rest is shown all the same.
    ``supports`` and ``truth`` are rows of the support matrix; ``recognised`` marks formats that are
    named but cannot be opened yet: their ``open`` raises NotSupported with what would be needed.
    """

    name: str
    title: str
    role: Role
    rank: int
    open: Callable[[Reader, Options], Media | VolumeTable | Files | Bytes | Index | MountTable]
    signatures: tuple[Signature, ...] = ()
    exclusive: bool = True
    by_name: str = ""  # regular expression on the host file's name: formats without magic
    by_trial: bool = False  # no magic: tried last, in a worker
    keys: tuple[str, ...] = ()  # kinds of keys it can use: asked without any first, answers NeedKey
    by_key: bool = False  # no magic: tried last, and only with a key that fits; with magic in its turn
    memory: int = 0  # bytes that deriving a key may take, for what is found by its key
    siblings: Callable[[str], str] | None = None
    kin: str = ""
    sets: bool = False
    partly: bool = False
    imports: tuple[str, ...] = ()
    index: int = 0
    supports: str = ""
    truth: tuple[Truth, ...] = ()
    recognised: bool = False


@cache
def discover() -> Mapping[str, Backend]:
    """Return all back-ends by name, imported once.

    A module may hold ``RECOGNISED``, declarations of formats that are named but not read: a back-end
    of the same name overrules such a row.

    Raises:
        RuntimeError: a module that declares nothing, or two back-ends of one name.
    """
    from importlib.metadata import entry_points  # twenty milliseconds that most commands need not wait for

    found: dict[str, Backend] = {}
    named: dict[str, Backend] = {}
    modules = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    offered = [importlib.import_module(f"{__name__}.{name}") for name in sorted(modules)]
    offered += [point.load() for point in entry_points(group="imgfs.backends")]
    for module in offered:
        rows = getattr(module, "RECOGNISED", ())
        named.update((row.name, row) for row in rows)
        if rows:
            continue
        backend = getattr(module, "BACKEND", None)
        if not isinstance(backend, Backend):
            message = f"{module.__name__} declares no BACKEND"
            raise RuntimeError(message)  # noqa: TRY004  # a broken installation, not a type error
        if backend.name in found:
            message = f"two back-ends are named {backend.name}"
            raise RuntimeError(message)
        found[backend.name] = backend
    return named | found
