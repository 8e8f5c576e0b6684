"""(In the worker) opening, the request loop, and the barrier around back-ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, cast

from imgfs import limits
from imgfs.backends import Options
from imgfs.errors import ImgfsError, Malformed, NeedMembers, NotFound, NotMine, WorkerError
from imgfs.model import FilesInfo, Indexing, Media, MountTable, VolumeTable
from imgfs.worker import wire
from imgfs.worker.mending import mended, mended_attr

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from imgfs.backends import Backend, Bytes, Files, Index, Reader
    from imgfs.worker.reader import SourceReader


_REQUEST_MAX: Final = (
    4096  # requests to an open worker are seven numbers at most; a larger one comes in parts
)


class _Table:
    """A reader that remembers how long the unit table was."""

    __slots__ = ("_reader", "length", "name", "others", "size")

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self.size = reader.size
        self.name = reader.name
        self.others: Sequence[Reader] = reader.others
        self.length = -1

    def read(self, start: int, length: int) -> bytes:
        return self._reader.read(start, length)

    def write_table(self, chunks: object) -> int:
        self.length = self._reader.write_table(chunks)  # type: ignore[arg-type]
        return self.length


def serve(
    control: socket.socket,
    request: wire.OpenRequest,
    sequence: int,
    reader: SourceReader,
    backends: Mapping[str, Backend],
    report: dict[str, str],
) -> NoReturn:
    """Open, answer, and answer requests until the daemon closes the socket.

    Raises:
        EOFError: the daemon is gone, or has what it wanted.
    """
    held: list[Files | Bytes | Index] = []

    def opening() -> bytes:
        return _open(request, reader, backends, report, held)

    _send(control, sequence, *_guarded(opening))
    while True:
        data = control.recv(_REQUEST_MAX)
        if not data:
            raise EOFError
        if len(data) < wire.PREFIX.size:
            data += wire.receive_exactly(control, wire.PREFIX.size - len(data))
        length, sequence, _ = wire.PREFIX.unpack_from(data)
        rest = length + wire.PREFIX.size - wire.HEAD - len(data)
        if rest:
            data += wire.receive_exactly(control, rest)
        asked = wire.decode_request(memoryview(data)[wire.PREFIX.size :])
        _send(control, sequence, *_guarded(lambda asked=asked: _answer(held, asked)))  # type: ignore[misc]


def _open(
    request: wire.OpenRequest,
    reader: SourceReader,
    backends: Mapping[str, Backend],
    report: dict[str, str],
    held: list[Files | Bytes | Index],
) -> bytes:
    backend = backends.get(request.backend)
    if backend is None:
        raise WorkerError(f"no back-end is named {request.backend!r}")
    options = Options(
        sector=request.sector,
        tz=request.tz,
        codepage=request.codepage,
        base=request.base,
        state=request.state,
        keys=request.keys,
        final=request.final,
        threads=request.threads,
        patience=request.patience,
        keyless=request.keyless,
    )
    table = _Table(reader)
    result = backend.open(table, options)
    if isinstance(result, (Media, VolumeTable, MountTable)):
        return wire.encode(wire.OpenReply(opened=result, table=table.length, sandbox=report))
    held.append(result)
    indexing = getattr(result, "indexing", None)
    if isinstance(indexing, Indexing):
        return wire.encode(wire.OpenReply(opened=indexing, sandbox=report))
    media = getattr(result, "media", None)
    if isinstance(media, Media):
        reply = wire.OpenReply(opened=media, table=table.length, foreign=True, sandbox=report)
    else:
        reply = wire.OpenReply(opened=cast("Files", result).info, sandbox=report)
    return wire.encode(reply)


def _answer(held: list[Files | Bytes | Index], request: wire.FilesRequest) -> bytes:
    if not held:
        raise WorkerError("nothing is open")
    if isinstance(request, wire.IndexRequest):
        if not hasattr(held[0], "indexing"):
            raise WorkerError("what is open needs no index")
        return wire.encode(cast("Index", held[0]).index(request.tree, request.inum))
    if not isinstance(getattr(held[0], "info", None), FilesInfo):
        if not isinstance(request, wire.ReadRequest):
            raise WorkerError("a media answers reads only")
        return wire.encode(cast("Bytes", held[0]).read(request.offset, request.length))
    files = cast("Files", held[0])
    match request:
        case wire.ListRequest(tree, inum, cursor, limit):
            return wire.encode(mended(files.list(_tree(files, tree), inum, cursor, limit)))
        case wire.StatRequest(tree, inum, stream):
            return wire.encode(mended_attr(files.stat(_tree(files, tree), inum, stream)))
        case wire.LayoutRequest(tree, inum, stream):
            return wire.encode(files.layout(_tree(files, tree), inum, stream))
        case wire.LinkRequest(tree, inum):
            return wire.encode(_followed(files.link(_tree(files, tree), inum), inum))
        case wire.XattrsRequest(tree, inum):
            return wire.encode(files.xattrs(_tree(files, tree), inum))
        case wire.ReadRequest(tree, inum, stream, offset, length):
            return wire.encode(files.read(_tree(files, tree), inum, stream, offset, length))


def _followed(target: bytes, inum: int) -> bytes:
    if len(target) > limits.MAX_LINK:
        raise Malformed(f"inode {inum}: a link to {len(target)} bytes")
    return target


def _tree(files: Files, tree: int) -> int:
    if not 0 <= tree < len(files.info.trees):
        raise NotFound(f"no tree {tree}")
    return tree


def _guarded(call: Callable[[], bytes]) -> tuple[int, bytes]:
    """Turn whatever a back-end raises into a message: the barrier of the worker (section 10)."""
    try:
        payload = call()
    except (ImgfsError, NotMine, NeedMembers) as why:
        return wire.FAILED, wire.encode_failure(why)
    except MemoryError:
        return wire.FAILED, wire.encode_failure(WorkerError("out of memory"))
    except EOFError:  # the block socket: the daemon is gone
        raise
    except OSError as why:  # how parser libraries report damage
        return wire.FAILED, wire.encode_failure(Malformed(str(why)))
    except Exception as why:  # noqa: BLE001  # the barrier
        return wire.FAILED, wire.encode_failure(WorkerError(f"{type(why).__name__} {_place(why)}: {why}"))
    if len(payload) + wire.HEAD > limits.MESSAGE_MAX:
        return wire.FAILED, wire.encode_failure(WorkerError(f"reply of {len(payload)} bytes"))
    return wire.OK, payload


def _place(why: Exception) -> str:
    trace = why.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"


def _send(control: socket.socket, sequence: int, status: int, payload: bytes) -> None:
    control.sendall(wire.frame(sequence, status, payload))
