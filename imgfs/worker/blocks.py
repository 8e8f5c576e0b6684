"""(In the daemon) what a worker may read: tickets, donated descriptors, and the block socket.

A ticket is the whole authority of a worker. Over the block socket it names one of its sources by index
and a range inside it, and gets bytes that went through the daemon's own plan and fetch.
"""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Final, Protocol

import trio

from imgfs import limits
from imgfs.errors import ImgfsError
from imgfs.worker import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import ByteSource
    from imgfs.worker.process import Process

    Donate = Callable[[ByteSource], list[tuple[HostFile, int, int, int]] | None]

DONATED_MAX: Final = 32  # descriptors a worker gets; the sources of larger sets go through the block socket
DONATED_RUNS: Final = 100_000  # 2.6 MiB of a request; a source in more pieces goes through the block socket


class Fetches(Protocol):
    """What the block socket needs of ``block.fetch.Fetcher``."""

    async def fetch(self, source: ByteSource, start: int, stop: int) -> bytes | bytearray | memoryview:
        """Return bytes [start, stop) of the source; raises EvidenceError, MediaChanged."""


class Donation:
    """Tickets for sources, with fresh descriptors that belong to this object until ``close``."""

    __slots__ = ("fds", "tickets")

    def __init__(self, sources: Sequence[ByteSource], names: Sequence[str], donate: Donate) -> None:
        self.fds: list[int] = []
        self.tickets: tuple[wire.Ticket, ...] = ()
        files: dict[int, int] = {}
        try:
            self.tickets = tuple(
                self._ticket(source, name, donate(source), files)
                for source, name in zip(sources, names, strict=True)
            )
        except BaseException:
            self.close()
            raise

    def _ticket(
        self,
        source: ByteSource,
        name: str,
        runs: list[tuple[HostFile, int, int, int]] | None,
        files: dict[int, int],
    ) -> wire.Ticket:
        if runs is None or len(runs) > DONATED_RUNS:
            return wire.Ticket(size=source.size, name=name)
        wanted = {id(file): file for file, _, _, target in runs if target >= 0}
        new = [key for key in wanted if key not in files]
        if len(files) + len(new) > DONATED_MAX:
            return wire.Ticket(size=source.size, name=name)
        for key in new:
            # A fresh open file description: an offset shared with another worker would give wrong bytes
            # without an error.
            self.fds.append(wanted[key].reopen())
            files[key] = len(self.fds) - 1
        return wire.Ticket(
            size=source.size,
            name=name,
            donated=True,
            logical=array("q", (run[1] for run in runs)).tobytes(),
            length=array("q", (run[2] for run in runs)).tobytes(),
            target=array("q", (run[3] for run in runs)).tobytes(),
            file=array("H", (files.get(id(run[0]), 0) if run[3] >= 0 else 0 for run in runs)).tobytes(),
        )

    def close(self) -> None:
        """Close the descriptors; workers have their own copies by now."""
        while self.fds:
            os.close(self.fds.pop())


async def serve_blocks(process: Process, sources: Sequence[ByteSource], fetcher: Fetches) -> None:
    """Answer the reads of one worker until it ends.

    A read is only served while the worker is asked something: one that reads on its own account would
    keep the daemon busy for nobody. It and a read outside a ticket are lies, and end the worker.
    """
    sock = process.block
    try:
        while True:
            index, length, start = wire.BLOCK_REQUEST.unpack(await _exactly(sock, wire.BLOCK_REQUEST.size))
            if not process.asking:
                process.lie = "a read that nobody waits for"
                return
            inside = index < len(sources) and start + length <= sources[index].size
            if not inside or not 0 < length <= limits.SOURCE_READ_MAX:
                process.lie = f"a read of {length} bytes at {start} of source {index}"
                return
            try:
                data: bytes | bytearray | memoryview = await fetcher.fetch(
                    sources[index], start, start + length
                )
                status = wire.OK
            except (ImgfsError, OSError) as why:
                data, status = wire.encode_failure(why), wire.FAILED
            await _reply(sock, wire.BLOCK_REPLY.pack(len(data), status), data)
    except (OSError, EOFError, trio.ClosedResourceError):  # closed by us (EBADF) or by its end
        return
    finally:
        process.gone = True
        process.kill()


async def _exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        try:
            more = sock.recv(length - len(data))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not more:
            raise EOFError
        data += more
    return data


async def _reply(sock: socket.socket, head: bytes, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    try:
        sent = sock.sendmsg([head, view])
    except BlockingIOError:
        sent = 0
    # The first happens when nothing was read of the last reply.
    view = memoryview(head[sent:] + bytes(view)) if sent < len(head) else view[sent - len(head) :]
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
