"""(In the daemon) typed calls: open a layer, ask a file system. Nothing unchecked leaves this module."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits, log
from imgfs.backends import Role, discover
from imgfs.errors import Poisoned, WorkerDied, WorkerLied, WorkerTimeout
from imgfs.model import FilesInfo, Indexing, Page
from imgfs.worker import checks, wire
from imgfs.worker.indexing import IndexClient
from imgfs.worker.life import Worker
from imgfs.worker.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.backends import Options
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Attr, Layout, Opened
    from imgfs.worker.life import State, WorkerStatistics
    from imgfs.worker.supervisor import Supervisor

_log: Final = logging.getLogger(__name__)
_F_ADD_SEALS: Final = 1033
_SEAL_SEAL: Final = 1
_SEAL_SIZE: Final = 2 | 4  # shrinking and growing
_SEAL_WRITE: Final = 8
_SMALLER: Final = (64, 1)  # pages asked for after a page has killed its worker
_CAREFUL_KEPT: Final = 1024  # directories remembered as dangerous
_SKIPS: Final = 3  # positions in a row that kill at once before a listing is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What opening a source gave.

    ``table``: the unit table of a Media, sealed against change; it lives as long as it is referenced.
    ``files``: for a file system. ``index``: for a container that needs one. ``foreign``: ``read(offset,
    length)`` of a Media that has Foreign bytes. ``aclose`` ends what still runs for it.
    """

    opened: Opened
    table: memoryview | None = None
    files: FilesClient | None = None
    index: IndexClient | None = None
    foreign: Callable[[int, int], Awaitable[bytes]] | None = None
    aclose: Callable[[], Awaitable[None]] | None = None


async def open_layer(
    supervisor: Supervisor,
    backend: str,
    sources: Sequence[ByteSource],
    names: Sequence[str],
    options: Options,
    spec: str,
    *,
    memory: int = limits.WORKER_MEMORY,
) -> Layer:
    """Open ``sources[0]`` with a back-end in a new worker; the others are its further members.

    ``memory``: bytes of address space that the worker may have.

    Raises:
        NotMine, NeedMembers, NeedKey, NotSupported: outcomes of opening.
        EvidenceError: mine, and damaged.
        WorkerDied, WorkerTimeout, WorkerLied: the parser did not survive it.
        SandboxError: the worker could not be isolated.
    """
    worker = Worker(supervisor, backend, sources, names, options, spec, record=Record(), memory=memory)
    declared = discover().get(backend)
    memory = _memory_file() if declared is None or declared.role is not Role.FILES else -1
    keep = False
    try:
        async with supervisor.opening:
            reply = await worker.open(memory)
        tickets = tuple(source.size for source in sources)
        if isinstance(reply.opened, FilesInfo):
            keep = True
            files = FilesClient(worker, reply.opened, tickets, _another(supervisor, worker, reply.opened))
            return Layer(opened=reply.opened, files=files, aclose=files.aclose)
        if isinstance(reply.opened, Indexing):
            if declared is not None and not declared.index:
                raise WorkerLied(f"{backend} makes no indexes")
            keep = True
            index = IndexClient(reply.opened, worker, lambda: _another(supervisor, worker, reply.opened))
            return Layer(opened=reply.opened, index=index, aclose=index.aclose)
        table = _sealed(memory, reply.table) if reply.table >= 0 else None
        if not reply.foreign:
            return Layer(opened=reply.opened, table=table)
        keep = True
        return Layer(opened=reply.opened, table=table, foreign=_foreign(worker), aclose=worker.aclose)
    finally:
        if memory >= 0:
            os.close(memory)
        if not keep:
            await worker.aclose()


def _another(supervisor: Supervisor, first: Worker, opened: Opened) -> Worker:
    """Return a further worker for the same: its record is shared, its process is not started."""
    return Worker(
        supervisor,
        first.backend,
        first.sources,
        first.names,
        first.options,
        first.spec,
        record=first.record,
        expected=opened,
    )


def _foreign(worker: Worker) -> Callable[[int, int], Awaitable[bytes]]:
    async def read(offset: int, length: int) -> bytes:
        return await _read(worker, 0, 0, 0, offset, length)

    return read


async def _read(worker: Worker, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    stop = offset + length
    for at in range(offset, stop, limits.READ_MAX):
        count = min(limits.READ_MAX, stop - at)

        def accept(payload: bytes, count: int = count) -> bytes:
            data = wire.decode_bytes(payload)
            checks.check_bytes(data, count)
            return data

        parts.append(await worker.call(wire.ReadRequest(tree, inum, stream, at, count), accept))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _memory_file() -> int:
    """Return a sparse memory file that a worker can fill but not resize."""
    fd = os.memfd_create("imgfs-table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, limits.TABLE_MAX)
    fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_SIZE)
    return fd


def _sealed(fd: int, length: int) -> memoryview | None:
    """Return the first ``length`` bytes of a memory file that nobody can change any more.

    Raises:
        WorkerLied: a mapping of it is still open for writing.
    """
    if fd < 0:
        raise WorkerLied("a unit table without a memory file")
    try:
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_WRITE | _SEAL_SEAL)
    except OSError as why:
        raise WorkerLied(f"the memory file is still mapped: {why}") from None
    if not length:
        return None
    return memoryview(mmap.mmap(fd, length, prot=mmap.PROT_READ))


class FilesClient:
    """A file system in its workers: one for names and attributes, one for bulk reads (INV-11)."""

    __slots__ = ("_bulk", "_careful", "_tickets", "_worker", "info")

    def __init__(self, worker: Worker, info: FilesInfo, tickets: Sequence[int], bulk: Worker) -> None:
        self.info = info
        self._worker = worker
        self._bulk = bulk
        self._tickets = tuple(tickets)
        # (tree, inum) -> largest page that is safe, and how many positions in a row killed.
        self._careful: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()

    @property
    def state(self) -> State:
        """Return the state of the worker for names and attributes."""
        return self._worker.state

    async def list(self, tree: int, inum: int, cursor: int, limit: int = limits.PAGE_ENTRIES) -> Page:
        """Return at most ``limit`` entries from ``cursor``.

        A page that kills its worker is asked for again in smaller pieces; a position that still kills is
        left out, and ``damaged`` of the page says so. Three such positions in a row end the listing.

        Raises:
            Quarantined: the file system killed too many workers.
            EvidenceError, NotFound: what the back-end said.
        """
        key = (tree, inum)
        safe, skipped = self._careful.get(key, (limit, 0))
        why: Exception | None = None
        for size in sorted({min(limit, n) for n in (safe, *_SMALLER) if n <= safe}, reverse=True):
            try:
                page = await self._page(tree, inum, cursor, size)
            except (WorkerDied, WorkerTimeout, WorkerLied, Poisoned) as died:
                why = died
                continue
            if size < limit or skipped:
                self._remember(key, _SMALLER[0], 0)
            return page
        skipped += 1
        self._remember(key, 1, skipped)
        end = skipped >= _SKIPS
        damaged = f"{'everything from' if end else 'the entry at'} position {cursor} is missing: {why}"
        facts = {"spec": self._worker.spec, "tree": tree, "inum": inum, "why": damaged}
        _log.warning(log.LISTING_DAMAGED, extra=facts)
        return Page(entries=[], next=-1 if end else cursor + 1, damaged=damaged)

    def _remember(self, key: tuple[int, int], safe: int, skipped: int) -> None:
        self._careful[key] = (safe, skipped)
        self._careful.move_to_end(key)
        if len(self._careful) > _CAREFUL_KEPT:
            self._careful.popitem(last=False)

    async def _page(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        def accept(payload: bytes) -> Page:
            page = wire.decode_page(payload)
            checks.check_page(page, cursor=cursor, limit=limit, tickets=self._tickets)
            return page

        return await self._worker.call(wire.ListRequest(tree, inum, cursor, limit), accept)

    async def stat(self, tree: int, inum: int, stream: int = 0) -> Attr:
        """Return the attributes of a stream; raises as ``Worker.call``."""

        def accept(payload: bytes) -> Attr:
            attr = wire.decode_attr(payload)
            checks.check_attr(attr)
            return attr

        return await self._worker.call(wire.StatRequest(tree, inum, stream), accept)

    async def layout(self, tree: int, inum: int, stream: int = 0) -> tuple[Layout, ...]:
        """Say where a stream lies, the last layout is the stream; raises as ``Worker.call``."""

        def accept(payload: bytes) -> tuple[Layout, ...]:
            layouts = wire.decode_layouts(payload)
            checks.check_layouts(layouts, self._tickets)
            return layouts

        return await self._worker.call(wire.LayoutRequest(tree, inum, stream), accept)

    async def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link as stored; raises as ``Worker.call``."""

        def accept(payload: bytes) -> bytes:
            target = wire.decode_bytes(payload)
            checks.check_link(target)
            return target

        return await self._worker.call(wire.LinkRequest(tree, inum), accept)

    async def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes; raises as ``Worker.call``."""

        def accept(payload: bytes) -> dict[bytes, bytes]:
            xattrs = wire.decode_xattrs(payload)
            checks.check_xattrs(xattrs)
            return xattrs

        return await self._worker.call(wire.XattrsRequest(tree, inum), accept)

    async def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of a Foreign stream; raises as ``Worker.call``."""
        return await _read(self._bulk, tree, inum, stream, offset, length)

    def statistics(self) -> tuple[WorkerStatistics, WorkerStatistics]:
        """Return the counters of the worker for names and of the one for bulk reads."""
        return self._worker.statistics(), self._bulk.statistics()

    async def aclose(self) -> None:
        """End both workers."""
        await self._worker.aclose()
        await self._bulk.aclose()
