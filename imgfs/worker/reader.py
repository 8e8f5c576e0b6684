"""A worker's view of its sources: donated descriptors, or the block socket. Runs inside the sandbox.

Every read is positional: descriptors may share an offset with another process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

from imgfs import limits
from imgfs.errors import EvidenceError, LostBytes, Malformed, Truncated, WorkerError
from imgfs.model import HOLE
from imgfs.worker import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from imgfs.backends import Reader

BLOCK: Final = 64 * limits.KIB  # parsers read hundreds of bytes at a time: one round trip brings 64 KiB
AHEAD: Final = 4  # blocks brought by a read that continues the last one
KEPT: Final = 64  # blocks: 4 MiB of a worker's memory
_TABLE_SLICE: Final = 1 * limits.MIB

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Reads(Protocol):
    """Where the bytes of one source come from. The range was checked by the caller."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; raises EvidenceError."""


class DonatedReads:
    """Reads of donated descriptors along the runs of a ticket."""

    __slots__ = ("_ends", "_fds", "_file", "_logical", "_single", "_target")

    def __init__(self, ticket: wire.Ticket, fds: Sequence[int]) -> None:
        self._logical = array("q", ticket.logical)
        self._target = array("q", ticket.target)
        self._file = array("H", ticket.file)
        self._ends = array("q", map(sum, zip(self._logical, array("q", ticket.length), strict=True)))
        self._fds = tuple(fds)
        whole = len(self._logical) == 1 and self._logical[0] == 0 and self._ends[0] >= ticket.size
        self._single = whole and self._target[0] >= 0

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; raises LostBytes, Truncated."""
        if self._single:
            return _pread(self._fds[self._file[0]], length, self._target[0] + start)
        parts: list[bytes] = []
        stop = start + length
        row = bisect_right(self._logical, start) - 1
        while start < stop:
            if row < 0 or row >= len(self._logical) or not self._logical[row] <= start < self._ends[row]:
                raise LostBytes("no run covers the range", start=start, stop=stop)
            count = min(stop, self._ends[row]) - start
            target = self._target[row]
            if target >= 0:
                parts.append(_pread(self._fds[self._file[row]], count, target + start - self._logical[row]))
            elif target == HOLE:
                parts.append(bytes(count))
            else:
                raise LostBytes("the image cannot supply the range", start=start, stop=start + count)
            start += count
            row += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)


class SocketReads:
    """Reads through the block socket, in aligned blocks that are kept for a while."""

    __slots__ = ("_blocks", "_index", "_next", "_size", "_sock")

    def __init__(self, sock: socket.socket, index: int, size: int) -> None:
        self._sock = sock
        self._index = index
        self._size = size
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next = -1  # block that would continue the last miss

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; raises what the daemon reports."""
        if length > BLOCK * AHEAD:
            return self._read_large(start, length)
        first, last = start // BLOCK, (start + max(length, 1) - 1) // BLOCK
        try:
            if first == last:
                return self._block(first)[start - first * BLOCK :][:length]
            joined = b"".join(self._block(number) for number in range(first, last + 1))
        except EvidenceError:
            # Something near the range is damaged, perhaps not the range itself.
            return self._ask(start, length)
        return joined[start - first * BLOCK :][:length]

    def _read_large(self, start: int, length: int) -> bytes:
        stop = start + length
        step = limits.SOURCE_READ_MAX
        return b"".join(self._ask(at, min(step, stop - at)) for at in range(start, stop, step))

    def _block(self, number: int) -> bytes:
        held = self._blocks.get(number)
        if held is not None:
            self._blocks.move_to_end(number)
            return held
        count = AHEAD if number == self._next else 1
        start = number * BLOCK
        data = self._ask(start, min(count * BLOCK, self._size - start))
        self._next = number + count
        for at in range(0, len(data), BLOCK):
            self._blocks[number + at // BLOCK] = data[at : at + BLOCK]
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return self._blocks.get(number, data[:BLOCK])

    def _ask(self, start: int, length: int) -> bytes:
        if not length:
            return b""
        self._sock.sendall(wire.BLOCK_REQUEST.pack(self._index, length, start))
        count, status = wire.BLOCK_REPLY.unpack(wire.receive_exactly(self._sock, wire.BLOCK_REPLY.size))
        payload = bytes(wire.receive_exactly(self._sock, count))
        if status == wire.OK:
            return payload
        why = wire.decode_failure(payload)
        if isinstance(why, EvidenceError):
            raise why
        raise WorkerError(str(why))


class SourceReader:
    """One source of a worker; implements ``backends.Reader``."""

    __slots__ = ("_reads", "_table", "name", "others", "size")

    def __init__(
        self, reads: Reads, size: int, name: str, *, others: Sequence[SourceReader] = (), table: int = -1
    ) -> None:
        self._reads = reads
        self._table = table
        self.size = size
        self.name = name
        self.others: Sequence[Reader] = others

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``backends.Reader``."""
        if start < 0 or length < 0 or start + length > self.size:
            raise Truncated(f"read outside the source of {self.size} bytes", start=start, stop=start + length)
        return self._reads.read(start, length) if length else b""

    def write_table(self, chunks: Iterable[bytes]) -> int:
        """Put a unit table into the memory file of the reply; see ``backends.Reader``.

        A fresh worker that opens again has none, and only tells the length. The file is mapped slice by
        slice: a whole mapping would use up the address space, and a write would meet the limit of 0 bytes
        on file sizes.
        """
        if self._table < 0:  # a later opening, by a fresh worker: the daemon has the tables of the first
            return sum(map(len, chunks))
        held = bytearray()
        at = 0
        for chunk in chunks:
            held += chunk
            while len(held) >= _TABLE_SLICE:
                self._put(at, held[:_TABLE_SLICE])
                del held[:_TABLE_SLICE]
                at += _TABLE_SLICE
        self._put(at, held)
        return at + len(held)

    def _put(self, at: int, data: bytearray) -> None:
        if at + len(data) > limits.TABLE_MAX:
            raise Malformed(f"unit table larger than {limits.TABLE_MAX} bytes")
        if not data:
            return
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, len(data), protection, mmap.MAP_SHARED, self._table, at)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise WorkerError(f"memory file: {os.strerror(ctypes.get_errno())}")
        ctypes.memmove(address, bytes(data), len(data))
        _libc.munmap(address, len(data))


def readers(
    request: wire.OpenRequest, block: socket.socket, donated: Sequence[int], table: int
) -> SourceReader:
    """Return the reader of the first ticket, with the others as its further members."""
    made: list[Reads] = [
        DonatedReads(ticket, donated) if ticket.donated else SocketReads(block, index, ticket.size)
        for index, ticket in enumerate(request.tickets)
    ]
    others = [
        SourceReader(reads, ticket.size, ticket.name)
        for reads, ticket in zip(made[1:], request.tickets[1:], strict=True)
    ]
    first = request.tickets[0]
    return SourceReader(made[0], first.size, first.name, others=others, table=table)


def _pread(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    held = bytearray(data)
    while len(held) < length:
        data = os.pread(fd, length - len(held), offset + len(held))
        if not data:
            raise Truncated("the host file ends before the range", start=offset, stop=offset + length)
        held += data
    return bytes(held)
