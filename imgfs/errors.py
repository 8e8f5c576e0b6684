"""Every exception of imgfs, with the errno a mount answers and the exit code a command ends with.

The class says whose fault it is; the instance carries the place. Nothing else in the project maps
an exception to an errno.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class ImgfsError(Exception):
    """Root of everything imgfs raises on purpose."""

    errno: int | None = errno.EIO  # an instance variable for mypy, because OSError has one
    exit_code: ClassVar[int] = 1

    @property
    def message(self) -> str:
        """Say what happened, without the class name."""
        return str(self.args[0]) if self.args else type(self).__name__


class UsageError(ImgfsError):
    """The analyst can fix the command."""

    errno = errno.EINVAL
    exit_code = 2


class MountError(ImgfsError):
    """FUSE or the mount point refuses: exit code 3."""

    exit_code = 3


class SandboxError(ImgfsError):
    """The kernel cannot isolate a parser: exit code 4."""

    exit_code = 4


class NotSupported(ImgfsError):
    """Recognised, not implemented."""

    errno = errno.ENOTSUP
    exit_code = 5


class EvidenceError(ImgfsError):
    """The image is inconsistent; names the byte range where the writer of the message knew it.

    Units: ``start`` and ``stop`` are bytes of the source named by ``spec``, half-open, -1 unknown.
    """

    exit_code = 6

    def __init__(self, message: str = "", *, spec: str = "", start: int = -1, stop: int = -1) -> None:
        super().__init__(message)
        self.spec = spec
        self.start = start
        self.stop = stop

    def __str__(self) -> str:
        where = f" [{self.start}, {self.stop})" if self.start >= 0 else ""
        return f"{self.spec + ': ' if self.spec else ''}{self.message}{where}"


class Malformed(EvidenceError):
    """A structure contradicts itself or leaves its source."""


class Truncated(EvidenceError):
    """The host file ends before the range does."""


class LostBytes(EvidenceError):
    """The image cannot supply the range: missing segment, bad run."""


class BadUnit(EvidenceError):
    """A stored unit does not decode, or its checksum differs."""


class NeedKey(ImgfsError):
    """Locked: ``kinds`` names what would open it.

    ``protectors`` say it one by one, as (slot, kind, id, cost); ``memory`` is what deriving a key takes, in
    bytes, 0: no more than parsing.
    """

    errno = errno.EACCES
    exit_code = 7

    def __init__(
        self,
        message: str = "",
        *,
        kinds: tuple[str, ...] = (),
        protectors: tuple[tuple[str, str, str, str], ...] = (),
        memory: int = 0,
    ) -> None:
        super().__init__(message)
        self.kinds = kinds
        self.protectors = protectors
        self.memory = memory


class MediaChanged(ImgfsError):
    """A host file changed under us; nothing more is served from it."""

    errno = errno.ESTALE
    exit_code = 6


class WorkerError(ImgfsError):
    """The boundary to a worker failed; ``request`` says which call."""

    def __init__(self, message: str = "", *, request: str = "") -> None:
        super().__init__(message)
        self.request = request


class WorkerDied(WorkerError):
    """The process ended during the call."""


class WorkerTimeout(WorkerError):
    """The deadline passed and the process was killed."""


class WorkerLied(WorkerError):
    """The reply failed a check and the process was killed."""


class Poisoned(WorkerError):
    """This request killed two workers and is not asked again."""


class Quarantined(WorkerError):
    """This source killed too many workers."""


class NotFound(ImgfsError, FileNotFoundError):
    """No such entry."""

    errno = errno.ENOENT


class NotADirectory(ImgfsError, NotADirectoryError):
    """A path goes through something that is no directory."""

    errno = errno.ENOTDIR


class IsADirectory(ImgfsError, IsADirectoryError):
    """A directory where bytes were asked for."""

    errno = errno.EISDIR


class ReadOnly(ImgfsError, PermissionError):
    """Evidence is never written."""

    errno = errno.EROFS


class NotMine(Exception):  # an outcome of opening, not an error
    """The signature was a coincidence; the next candidate is tried."""


class NeedMembers(Exception):  # an outcome of opening, not an error
    """A set: more host files or volumes belong to it (``have`` of ``of``)."""

    def __init__(self, kind: str, set_id: str, have: int, of: int) -> None:
        super().__init__(f"{kind} {set_id}: {have} of {of}")
        self.kind = kind
        self.set_id = set_id
        self.have = have
        self.of = of
