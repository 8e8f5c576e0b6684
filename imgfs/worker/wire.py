"""Messages between the daemon and a worker: shapes, framing, errors. Meaning is tested in ``checks``.

A frame is ``length u32 | sequence u32 | status u8 | MessagePack``; ``length`` counts what follows it.
A reply carries the sequence of its request. Nothing here runs code that a message names.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs import errors, limits
from imgfs.model import (
    Attr,
    Codec,
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

if TYPE_CHECKING:
    import socket

PREFIX: Final = struct.Struct("<IIB")  # length, sequence, status
HEAD: Final = 5  # bytes of the prefix that ``length`` counts
OK: Final = 0
FAILED: Final = 1
_KINDS_MAX: Final = 16
_WORD_MAX: Final = 200  # characters of a word of a failure
MESSAGE_TEXT_MAX: Final = 1000  # characters of an error message that travel

BLOCK_REQUEST: Final = struct.Struct("<IIQ")  # source, length, start
BLOCK_REPLY: Final = struct.Struct("<IB")  # length of what follows, status

FORK: Final = struct.Struct("<IB")  # number of the process to be, kind
FORK_WORKER: Final = 0
FORK_WITH_TABLE: Final = 1  # a worker; a memory file for tables is among its descriptors
FORK_DECODER: Final = 2
NEWS: Final = struct.Struct("<BIii")  # kind, number of the worker, pid, wait status or errno
READY: Final = 0
FORKED: Final = 1
REFUSED: Final = 2
EXITED: Final = 3
FDS_MAX: Final = 250  # SCM_MAX_FD of the kernel is 253


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """One source a worker may read. ``donated`` False: through the block socket.

    Shapes: ``file`` indexes the donated descriptors of the request; columns are parallel, sorted.
        logical int64[n], length int64[n], target int64[n] (offset in the file, HOLE or LOST), file uint16[n]
    """

    size: int
    name: str
    donated: bool = False
    logical: bytes = b""
    length: bytes = b""
    target: bytes = b""
    file: bytes = b""


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Open ``tickets[0]`` (the others are its further members) with a back-end."""

    backend: str
    tickets: tuple[Ticket, ...]
    sector: int = 0
    tz: str = "UTC"
    codepage: str = "cp437"
    base: int = 0
    state: str = ""
    keys: tuple[Secret, ...] = ()
    final: bool = False
    memory: int = limits.WORKER_MEMORY
    threads: int = 1
    patience: float = limits.PATIENCE
    keyless: bool = False


class ListRequest(msgspec.Struct, frozen=True, array_like=True, tag="list"):
    """Ask for a page of a directory."""

    tree: int
    inum: int
    cursor: int
    limit: int


class StatRequest(msgspec.Struct, frozen=True, array_like=True, tag="stat"):
    """Ask for the attributes of a stream."""

    tree: int
    inum: int
    stream: int


class LayoutRequest(msgspec.Struct, frozen=True, array_like=True, tag="layout"):
    """Ask where a stream lies."""

    tree: int
    inum: int
    stream: int


class LinkRequest(msgspec.Struct, frozen=True, array_like=True, tag="link"):
    """Ask for the target of a symbolic link."""

    tree: int
    inum: int


class XattrsRequest(msgspec.Struct, frozen=True, array_like=True, tag="xattrs"):
    """Ask for extended attributes."""

    tree: int
    inum: int


class ReadRequest(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Ask for bytes of a Foreign stream."""

    tree: int
    inum: int
    stream: int
    offset: int
    length: int


class IndexRequest(msgspec.Struct, frozen=True, array_like=True, tag="index"):
    """Go on with part ``tree`` of an index, of which ``inum`` steps were made."""

    tree: int
    inum: int


FilesRequest = (
    IndexRequest | ListRequest | StatRequest | LayoutRequest | LinkRequest | XattrsRequest | ReadRequest
)


class DecodeRequest(msgspec.Struct, frozen=True, array_like=True):
    """Decode units of a slot of shared memory.

    Shapes: unit i is stored in bytes [starts[i], stops[i]) of the slot; what becomes of it has lengths[i]
    bytes and follows that of unit i - 1. ``flags`` as of ``block.pieces.Strip``.
    """

    slot: int
    codec: Codec
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    flags: tuple[int, ...]
    lengths: tuple[int, ...]


class DecodeReply(msgspec.Struct, frozen=True, array_like=True):
    """A slot is done; ``failed`` says why by number of the unit."""

    slot: int
    failed: dict[int, str]


class OpenReply(msgspec.Struct, frozen=True, kw_only=True):
    """What opening gave. ``table`` is the length of what layouts have in the memory file, -1: none.

    ``foreign``: the back-end offers ``read`` for the bytes of the media. ``sandbox`` is the report of
    the self-test: what a worker says of itself, shown and not relied on.
    """

    opened: Media | VolumeTable | FilesInfo | Indexing | MountTable
    table: int = -1
    foreign: bool = False
    sandbox: dict[str, str] = {}


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An exception of the closed list, by name. ``words`` and ``numbers`` are its further arguments."""

    name: str
    message: str
    start: int = -1
    stop: int = -1
    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def receive_exactly(sock: socket.socket, length: int) -> bytearray:
    """Return the next ``length`` bytes of a blocking socket.

    Raises:
        EOFError: the other end is gone.
    """
    held = bytearray(length)
    view = memoryview(held)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return held


encode: Final = msgspec.msgpack.Encoder().encode
decode_open_request: Final = msgspec.msgpack.Decoder(OpenRequest).decode
decode_request: Final = msgspec.msgpack.Decoder(FilesRequest).decode
decode_decode_request: Final = msgspec.msgpack.Decoder(DecodeRequest).decode
decode_decode_reply: Final = msgspec.msgpack.Decoder(DecodeReply).decode
decode_open: Final = msgspec.msgpack.Decoder(OpenReply).decode
decode_page: Final = msgspec.msgpack.Decoder(Page).decode
decode_attr: Final = msgspec.msgpack.Decoder(Attr).decode
# What decoding raises: a string that is not UTF-8 is reported by Python's codec, not by msgspec.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
decode_layouts: Final = msgspec.msgpack.Decoder(tuple[Layout, ...]).decode
decode_bytes: Final = msgspec.msgpack.Decoder(bytes).decode
decode_xattrs: Final = msgspec.msgpack.Decoder(dict[bytes, bytes]).decode
decode_slice: Final = msgspec.msgpack.Decoder(Slice).decode
_decode_failure: Final = msgspec.msgpack.Decoder(Failure).decode

_EVIDENCE: Final = {
    c.__name__: c for c in (errors.Malformed, errors.Truncated, errors.LostBytes, errors.BadUnit)
}
_PLAIN: Final = {
    c.__name__: c
    for c in (
        errors.NotSupported,
        errors.MediaChanged,
        errors.NotFound,
        errors.NotADirectory,
        errors.IsADirectory,
        errors.SandboxError,
        errors.WorkerError,
        errors.NotMine,
    )
}


def frame(sequence: int, status: int, payload: bytes) -> bytes:
    """Return a complete frame.

    Raises:
        ValueError: the payload is larger than a message may be.
    """
    length = len(payload) + HEAD
    if length > limits.MESSAGE_MAX:
        raise ValueError(f"message of {length} bytes")
    return PREFIX.pack(length, sequence, status) + payload


def encode_failure(why: BaseException, spec: str = "") -> bytes:
    """Return the message for an exception of the closed list; any other becomes a WorkerError."""
    text = _printable(why.message if isinstance(why, errors.ImgfsError) else str(why))
    match why:
        case errors.EvidenceError():
            name = type(why).__name__ if type(why).__name__ in _EVIDENCE else "Malformed"
            start, stop = _bounded(why.start), _bounded(why.stop)
            failure = Failure(name, text, start, stop, (_printable(why.spec or spec),))
        case errors.NeedKey():
            words = (str(len(why.kinds)), *why.kinds, *[word for row in why.protectors for word in row])
            failure = Failure("NeedKey", text, words=tuple(map(_printable, words)), numbers=(why.memory,))
        case errors.NeedMembers():
            words, numbers = (why.kind, why.set_id), (why.have, why.of)
            failure = Failure("NeedMembers", text, words=words, numbers=numbers)
        case _ if type(why).__name__ in _PLAIN:
            failure = Failure(type(why).__name__, text)
        case _:
            failure = Failure("WorkerError", f"{type(why).__name__}: {text}")
    return encode(failure)


def decode_failure(payload: bytes | bytearray | memoryview) -> Exception:
    """Return the exception a failure message stands for.

    Raises:
        WorkerLied: no such message can be.
    """
    try:
        failure = _decode_failure(payload)
    except UNDECODABLE as why:
        raise errors.WorkerLied(f"failure message: {why}") from None
    message = failure.message[:MESSAGE_TEXT_MAX]
    if failure.name in _EVIDENCE:
        spec = failure.words[0][:MESSAGE_TEXT_MAX] if failure.words else ""
        return _EVIDENCE[failure.name](message, spec=spec, start=failure.start, stop=failure.stop)
    if failure.name in _PLAIN:
        return _PLAIN[failure.name](message)
    if failure.name == "NeedKey":
        return _need_key(message, failure)
    if failure.name == "NeedMembers" and len(failure.words) == len(failure.numbers) == 2:
        kind, set_id = failure.words
        have, of = failure.numbers
        if 0 <= have <= of <= limits.MAX_SEGMENTS:
            return errors.NeedMembers(kind[:64], set_id[:256], have, of)
    raise errors.WorkerLied(f"no such failure: {failure.name[:64]!r}")


def _need_key(message: str, failure: Failure) -> errors.NeedKey:
    """Return what a locked layer says of itself, cut to what can be shown."""
    count, *words = [word[:_WORD_MAX] for word in failure.words] or ["0"]
    kinds = words[: int(count)] if count.isascii() and count.isdigit() else []
    rest = words[len(kinds) :][: 4 * limits.MAX_PROTECTORS]
    rows = tuple((rest[at], rest[at + 1], rest[at + 2], rest[at + 3]) for at in range(0, len(rest) - 3, 4))
    memory = failure.numbers[0] if len(failure.numbers) == 1 else 0
    return errors.NeedKey(message, kinds=tuple(kinds[:_KINDS_MAX]), protectors=rows, memory=max(0, memory))


def _printable(text: str) -> str:
    """Return text that encodes: lone surrogates of undecodable names become escapes."""
    return text[:MESSAGE_TEXT_MAX].encode("utf-8", "backslashreplace").decode()


def _bounded(number: int) -> int:
    return number if -1 <= number <= limits.MAX_SIZE else -1
