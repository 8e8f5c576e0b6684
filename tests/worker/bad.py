"""Back-ends that misbehave on request; loaded into the template by name, never shipped."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, cast

import msgspec

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.block import codecs
from imgfs.errors import Malformed, NeedKey, NeedMembers, NotFound, NotMine
from imgfs.model import (
    Attr,
    Entry,
    FilesInfo,
    Foreign,
    Indexing,
    Inline,
    Kind,
    Linear,
    Media,
    Page,
    Slice,
    TreeInfo,
)
from imgfs.worker import sandbox

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.block.codecs import Parameters
    from imgfs.block.pieces import Block
    from imgfs.model import Layout

COUNT = 200  # entries of directory 1
POISON = 137  # position that kills, in directories whose number says how

# Directory numbers: what listing them over the poisonous position does.
CRASH, HANG, LIE_CURSOR, LIE_COUNT, EAT, ABORT, EVERYWHERE = 11, 12, 13, 14, 15, 16, 17


def misbehave(how: str) -> None:
    match how:
        case "crash":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "hang":
            while True:
                pass
        case "eat":
            held = []
            while True:
                held.append(bytearray(64 << 20))
        case "fork":
            while True:
                os.fork()
        case "exit":
            os._exit(3)
        case "stderr":
            os.write(2, b"last words\x1b[31m\n")
            os.abort()
        case "open":
            os.open("/etc/passwd", os.O_RDONLY)
        case "bug":
            raise ZeroDivisionError("bug")
        case "recurse":
            misbehave("recurse")


DEADLY = b"deadly"


def deadly(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode as EWF does, and end the process at what starts with DEADLY."""
    if stored[: len(DEADLY)] == DEADLY:
        ctypes.string_at(0)
    return codecs.DECODERS["ewf"](stored, coded, length, parameters)


cast("dict[str, codecs.Decoder]", codecs.DECODERS)["deadly"] = deadly


class BadFiles:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.info = FilesInfo(type="bad", trees=(TreeInfo("root", 1),), block=512, size=reader.size)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        stop = min(cursor + limit, COUNT)
        if inum == EVERYWHERE or (inum in (CRASH, HANG, ABORT) and cursor <= POISON < stop):
            misbehave({CRASH: "crash", HANG: "hang", ABORT: "abort", EVERYWHERE: "abort"}[inum])
        if inum == LIE_CURSOR:
            return Page(entries=[], next=cursor)
        if inum == LIE_COUNT:
            limit, stop = limit * 2, COUNT
        if inum == EAT:
            misbehave("eat")
        if inum >= 1000:
            misbehave("abort")
        entries = [
            Entry(
                b"%d" % n,
                Attr(kind=Kind.REG, inum=n + 100, size=n),
                layout=(Linear.of(n, [(0, n, 0)] if n else []),),
            )
            for n in range(cursor, stop)
        ]
        return Page(entries=entries, next=stop if stop < COUNT else -1)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        if inum == 404:
            raise NotFound("no 404")
        if inum == 1 << 40:
            return Attr(kind=Kind.REG, inum=inum, size=(1 << 64) - 1)
        if inum == (1 << 40) + 1:
            return Attr(kind=Kind.REG, inum=inum, uid=1 << 32)
        return Attr(kind=Kind.REG, inum=inum, size=int.from_bytes(self.reader.read(inum % 1000, 1), "little"))

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        if inum == 66:
            return (Linear.of(10, [(0, 10, self.reader.size - 5)]),)
        if inum == 67:
            return (Foreign(size=5000, why="test"),)
        return (Inline(b"x" * inum),)

    def link(self, tree: int, inum: int) -> bytes:
        return b"/" * inum

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        return {b"user.a": b"v" * inum}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        if inum == 68:
            return b"short"
        return self.reader.read(offset, length)


def open_files(reader: Reader, _: Options) -> BadFiles:
    first = reader.read(0, 16)
    if not first.startswith(b"BAD!"):
        raise NotMine("bad")
    misbehave(first[4:].rstrip(b"\0").decode())
    return BadFiles(reader)


def open_other(reader: Reader, _: Options) -> Media:
    match reader.read(0, 4):
        case b"key!":
            raise NeedKey("locked", kinds=("passphrase",))
        case b"set!":
            raise NeedMembers("test", "id", 1, 2)
        case b"brok":
            raise Malformed("broken", start=4, stop=9)
        case b"lay!":
            return Media(layouts=(Linear.of(100, [(0, 100, reader.size)]),))
        case b"mapd":
            # A mapping for writing that stays: the daemon must not believe the table it covers.
            _keep_mapping(reader)
            return _table_media(reader)
        case _:
            return _table_media(reader)


def _keep_mapping(reader: Reader) -> None:
    from imgfs.worker import reader as module

    inner = reader._reader  # type: ignore[attr-defined]
    module._libc.mmap(None, 4096, 3, 1, inner._table, 0)


def _table_media(reader: Reader) -> Media:
    from imgfs.model import Chunked, Codec

    units = 1 << 20
    table = (n.to_bytes(4, "little") for n in range(units))
    reader.write_table(table)
    q = (0).to_bytes(8, "little")
    chunked = Chunked(
        size=units * 4,
        unit=4,
        codec=Codec("none"),
        table=b"",
        first=q,
        base=q,
        ends=reader.size.to_bytes(8, "little"),
    )
    return Media(layouts=(chunked,))


class ForeignMedia:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.media = Media(layouts=(Foreign(size=reader.size, why="test"),))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(b ^ 0xFF for b in self.reader.read(offset, length))


class RawLie(BadFiles):
    """Writes to the control socket itself, past every check of ours."""

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        data = {
            1: b"",
            2: b"\0",
            3: b"\xff" * 5000,
            4: (5).to_bytes(4, "little") + (99).to_bytes(4, "little") + b"\0",
            5: (6).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\0\xc1",
            6: (5).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\7",
            7: (100_000 + 5).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\0" + b"\x91" * 100_000,
            8: (6).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\1\x90",
            9: _framed(Attr(kind=Kind.REG, inum=9, size=(1 << 64) - 1)),
            10: _framed(Attr(kind=Kind.REG, inum=10, uid=1 << 32)),
        }[inum]
        fd = _control()
        while data:
            data = data[os.write(fd, data) :]
        os._exit(0)

    def link(self, tree: int, inum: int) -> bytes:
        fd = _control()
        if inum == 2:
            os.write(fd, _framed(b"/" * (limits.MAX_LINK + 1)))
            os._exit(0)
        while True:  # flood
            os.write(fd, b"\xff" * 65536)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Ask for bytes no ticket names."""
        from imgfs.worker.wire import BLOCK_REQUEST

        sock = self.reader._reader._reads._sock  # type: ignore[attr-defined]
        index, length, start = {1: (1, 1, 0), 2: (0, 1 << 30, 0), 3: (0, 1, 1 << 62), 4: (0, 0, 0)}[inum]
        sock.sendall(BLOCK_REQUEST.pack(index, length, start))
        sock.recv(1)
        return {}


def _framed(answer: Attr | bytes) -> bytes:
    """Return an answer to the first request after the opening, as a sound worker would never send it."""
    payload = msgspec.msgpack.encode(answer)
    return (5 + len(payload)).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\0" + payload


def _control() -> int:
    import stat

    # The control socket is the first donated descriptor and so the lowest socket.
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:
            continue
    raise AssertionError


class BadIndex:
    """Makes an index of four parts; the first letter of the image says what goes wrong in the third."""

    def __init__(self, reader: Reader) -> None:
        self.how = reader.read(4, 1)
        self.indexing = Indexing(total=1000, parts=4)
        self._steps = 0

    def index(self, part: int, step: int) -> Slice:
        self._steps += 1
        if part == 2 and step == 2:
            match self.how:
                case b"c":
                    misbehave("crash")
                case b"b":
                    return Slice(b"", 0, last=False)
                case b"f":
                    return Slice(b"", 2000, last=False)
                case b"l":
                    return Slice(bytes(limits.INDEX_SLICE + 1), 250, last=False)
                case b"m":
                    raise Malformed("nothing to see")
        if self.how == b"s":
            return Slice(b"", 10, last=False)
        if self.how == b"e":
            return Slice(bytes(limits.INDEX_SLICE), 10, last=False)
        return Slice(b"%d.%d " % (part, step), 125 * step, last=step == 2)


def prober(reader: Reader, _: Options) -> Media:
    return Media(layouts=(Inline(repr(sandbox.status()).encode()),))


BACKENDS = {
    "bad": Backend(name="bad", title="bad", role=Role.FILES, rank=1, open=open_files),
    "badmedia": Backend(name="badmedia", title="bad", role=Role.MEDIA, rank=1, open=open_other),
    "badforeign": Backend(
        name="badforeign", title="x", role=Role.MEDIA, rank=1, open=lambda r, _: ForeignMedia(r)
    ),
    "rawlie": Backend(name="rawlie", title="x", role=Role.FILES, rank=1, open=lambda r, _: RawLie(r)),
    "badindex": Backend(name="badindex", title="x", role=Role.MEDIA, rank=1, open=lambda r, _: BadIndex(r)),
    "prober": Backend(name="prober", title="x", role=Role.MEDIA, rank=1, open=prober),
}
