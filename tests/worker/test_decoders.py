"""Laws of decoding elsewhere: the same bytes as here, whoever dies, and nothing of one image in another's."""

from __future__ import annotations

import os
import random
import re
import signal
import zlib
from array import array
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from imgfs import limits
from imgfs.block.build import build
from imgfs.block.fetch import Fetcher
from imgfs.block.hostfile import HostFile
from imgfs.errors import BadUnit, WorkerDied, WorkerLied
from imgfs.model import CODED, PACKED_CODED, Chunked, Codec
from imgfs.worker import wire
from imgfs.worker.decoders import Decoders
from imgfs.worker.process import Exit
from imgfs.worker.supervisor import open_supervisor
from tests.worker import bad

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

UNIT = 32 * limits.KIB
STRIP = limits.MIB // UNIT  # units


class Stage:
    """A fetcher whose strips are decoded by a real supervisor's decoders."""

    def __init__(self, fetcher: Fetcher, supervisor, folder: Path) -> None:
        self.fetcher = fetcher
        self.supervisor = supervisor
        self.decoders = supervisor.decoders
        self.folder = folder
        self.files: list[HostFile] = []

    def source(
        self, contents: list[bytes], codec: str = "ewf", spoil: Callable[[int, bytes], bytes] | None = None
    ):
        """Return a source of units, each stored as ``codec`` wants it or as ``spoil`` makes it."""
        stored, table = b"", array("I")
        for index, content in enumerate(contents):
            table.append(CODED | len(stored))
            data = zlib.compress(content, 1)
            stored += data if spoil is None else spoil(index, data)
        path = self.folder / f"{len(self.files)}.img"
        path.write_bytes(stored)
        self.files.append(HostFile.open(path))
        layout = Chunked(
            size=sum(map(len, contents)),
            unit=UNIT,
            codec=Codec(codec),
            table=table.tobytes(),
            first=array("q", [0]).tobytes(),
            base=array("q", [0]).tobytes(),
            ends=array("q", [len(stored)]).tobytes(),
        )
        return build([layout], [self.files[-1]], "test")

    async def read(self, source, start: int, stop: int) -> bytes:
        try:
            return bytes(self.fetcher.fetch_nowait(source, start, stop))
        except trio.WouldBlock:
            return bytes(await self.fetcher.fetch(source, start, stop))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


@asynccontextmanager
async def staged(folder: Path, cache_bytes: int = 32 * limits.MIB) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(nursery, cache_bytes=cache_bytes)
        async with open_supervisor(fetcher, extra_backends="tests.worker.bad:BACKENDS") as supervisor:
            fetcher.hand_decoding_to(supervisor.decoders)
            one = Stage(fetcher, supervisor, folder)
            try:
                yield one
            finally:
                for file in one.files:
                    file.close()
        nursery.cancel_scope.cancel()


def contents(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(UNIT // 8) * 8 for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.trio
async def test_what_decoders_give_is_what_was_stored(stage, seed) -> None:
    rng = random.Random(seed)
    units = contents(rng.randint(3, 5 * STRIP), seed)
    units[-1] = units[-1][: rng.randint(1, UNIT)]
    source, whole = stage.source(units), b"".join(units)
    for _ in range(20):
        start, stop = sorted((rng.randint(0, len(whole)), rng.randint(0, len(whole))))
        stage.fetcher.prefetch(source, stop, stop + rng.randint(0, 4 * limits.MIB))
        assert await stage.read(source, start, stop) == whole[start:stop]
        stage.fetcher.debug_check()
    assert await stage.read(source, 0, len(whole)) == whole
    assert any(decoder.done for decoder in stage.decoders.live)


@pytest.mark.trio
async def test_one_bad_unit_costs_its_own_bytes(stage) -> None:
    units = contents(2 * STRIP)
    source = stage.source(units, spoil=lambda index, data: data[:-5] + b"wrong" if index == 40 else data)
    for index, content in enumerate(units):
        if index == 40:
            with pytest.raises(BadUnit):
                await stage.read(source, index * UNIT, (index + 1) * UNIT)
        else:
            assert await stage.read(source, index * UNIT, (index + 1) * UNIT) == content
    with pytest.raises(BadUnit):
        await stage.read(source, 0, len(units) * UNIT)
    assert await stage.read(source, 0, 40 * UNIT) == b"".join(units[:40])
    assert not stage.supervisor.deaths


@pytest.mark.trio
async def test_decoders_killed_again_and_again_cost_nothing(stage) -> None:
    units = contents(12 * STRIP)
    source, whole = stage.source(units), b"".join(units)
    await stage.read(source, 0, limits.MIB)
    for at in range(limits.MIB, len(whole), limits.MIB):
        stage.fetcher.prefetch(source, at, at + 4 * limits.MIB)
        await trio.lowlevel.checkpoint()
        for decoder in stage.decoders.live[: 1 + at // limits.MIB % 2]:
            with suppress(ProcessLookupError):  # killed before, and not yet buried
                os.kill(decoder.pid, signal.SIGKILL)
        assert await stage.read(source, at, at + limits.MIB) == whole[at : at + limits.MIB]
    assert stage.supervisor.deaths


@pytest.mark.trio
async def test_a_decoder_that_hangs_is_replaced(stage, monkeypatch) -> None:
    units = contents(4 * STRIP)
    source, whole = stage.source(units), b"".join(units)
    await stage.read(source, 0, limits.MIB)
    monkeypatch.setitem(limits.DEADLINE, "decode", 1.0)
    stopped = stage.decoders.live[0].pid
    os.kill(stopped, signal.SIGSTOP)
    assert await stage.read(source, limits.MIB, 4 * limits.MIB) == whole[limits.MIB :]
    assert stopped not in [decoder.pid for decoder in stage.decoders.live]


@pytest.mark.trio
async def test_a_unit_that_ends_its_decoder_costs_its_own_bytes_and_never_the_daemon(stage) -> None:
    units = contents(3 * STRIP)
    source = stage.source(
        units, codec="deadly", spoil=lambda index, data: bad.DEADLY + data if index == 50 else data
    )
    with pytest.raises(BadUnit):
        await stage.read(source, STRIP * UNIT, 2 * STRIP * UNIT)
    for index, content in enumerate(units):
        at = index * UNIT
        for start, stop in ((at, at + UNIT), (at + 100, at + 200)):
            if index == 50:
                with pytest.raises(BadUnit, match="ended the process"):
                    await stage.read(source, start, stop)
            else:
                assert await stage.read(source, start, stop) == content[start - at : stop - at]
    assert stage.supervisor.deaths == 3


@pytest.mark.trio
async def test_without_decoders_the_pool_decodes(stage, monkeypatch) -> None:
    async def refused(_fds, _kind):
        await trio.lowlevel.checkpoint()
        raise WorkerDied("no process can be made")

    units = contents(2 * STRIP)
    source = stage.source(units)
    monkeypatch.setattr(type(stage.supervisor), "fork", lambda _self, fds, kind: refused(fds, kind))
    assert await stage.read(source, 0, 2 * STRIP * UNIT) == b"".join(units)
    assert not stage.decoders.live


@pytest.mark.trio
async def test_a_block_that_somebody_holds_is_never_written_again(tmp_path) -> None:
    async with staged(tmp_path, cache_bytes=48 * limits.MIB) as stage:
        units = contents(40 * STRIP)
        source, whole = stage.source(units), b"".join(units)
        held: list[tuple[int, memoryview | bytearray | bytes]] = []
        for at in range(0, len(whole), limits.MIB):
            data = await stage.fetcher.fetch(source, at, at + limits.MIB)
            if at // limits.MIB % 3:
                held.append((at, memoryview(data)[7:] if at // limits.MIB % 3 == 1 else data))
        del data
        for at, data in held:
            skip = limits.MIB - len(data)
            assert bytes(data) == whole[at + skip : at + limits.MIB]
        assert not stage.fetcher.statistics().strips.blocks, "what was read whole is the kernel's to keep"


@pytest.mark.trio
async def test_idle_decoders_end_and_come_back(stage, monkeypatch) -> None:
    units = contents(2 * STRIP)
    source = stage.source(units)
    await stage.read(source, 0, limits.MIB)
    ends = [decoder._end for decoder in stage.decoders.live]
    monkeypatch.setattr(limits, "IDLE_DECODER", -1.0)
    stage.decoders.retire_idle()
    assert not stage.decoders.live
    for end in ends:
        with trio.fail_after(5):
            await end.seen.wait()
    assert await stage.read(source, limits.MIB, 2 * limits.MIB) == b"".join(units[STRIP:])
    assert not stage.supervisor.deaths


@pytest.mark.trio
async def test_a_decoder_holds_a_socket_and_nothing_else(stage) -> None:
    await stage.read(stage.source(contents(STRIP)), 0, limits.MIB)
    for decoder in stage.decoders.live:
        assert_bound(Path(f"/proc/{decoder.pid}"))


def assert_bound(process: Path) -> None:
    status = (process / "status").read_text()
    assert re.search(r"Seccomp:\s+2\b", status)
    assert re.search(r"NoNewPrivs:\s+1\b", status)
    if os.geteuid() == 0:  # it is not dumpable: others of its user may not look
        links = sorted(os.readlink(fd) for fd in (process / "fd").iterdir())
        assert [link.partition(":")[0] for link in links] == ["pipe", "pipe", "socket"]


class Impostor:
    """Stands for the supervisor: its decoders are processes that sleep, the test answers in their place."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.deaths = 0
        self.sockets: list[int] = []
        self.processes: list[int] = []

    async def fork(self, fds, kind):
        await trio.lowlevel.checkpoint()
        assert kind == wire.FORK_DECODER
        self.sockets.append(os.dup(fds[0]))
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})  # noqa: ASYNC221  # returns at once
        self.processes.append(pid)
        end = Exit()
        end.seen.set()
        return pid, os.pidfd_open(pid), end

    def close(self) -> None:
        for pid in self.processes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in self.sockets:
            os.close(fd)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (wire.encode(wire.DecodeReply(9, {})), WorkerLied),
        (wire.encode(wire.DecodeReply(2, {1: "bad"})), WorkerLied),
        (wire.encode(wire.DecodeReply(2, {-1: "bad"})), WorkerLied),
        (b"\xff" * 40, WorkerLied),
        (b"\xc1", WorkerLied),
        (b"", WorkerDied),
    ],
)
@pytest.mark.trio
async def test_a_reply_to_something_else_is_a_lie(reply, why) -> None:
    async with trio.open_nursery() as nursery:
        impostor = Impostor(nursery)
        decoders = Decoders(impostor)  # type: ignore[arg-type]  # stands for it
        try:
            slot = await decoders.take()
            assert len(slot.stored) == limits.SLOT_STORED
            nursery.start_soon(_answer, impostor, reply)
            with pytest.raises(why), trio.fail_after(5):
                await slot.decode(Codec("ewf"), [0], [10], [PACKED_CODED], [10])
            slot.give()
            assert not decoders.live
            assert impostor.deaths == 1
        finally:
            decoders.close()
            impostor.close()


async def _answer(impostor: Impostor, reply: bytes) -> None:
    await trio.lowlevel.checkpoint()
    os.read(impostor.sockets[0], 1 << 16)
    if reply:
        os.write(impostor.sockets[0], reply)
    else:
        os.kill(impostor.processes[0], signal.SIGKILL)
        fd = impostor.sockets.pop()
        os.close(fd)


@pytest.mark.trio
async def test_verbatim_units_are_copied_and_bad_ones_said(stage) -> None:
    data = zlib.compress(b"coded".ljust(UNIT, b"."))
    stored = [data, bytes(range(256)) * (UNIT // 256), b"nothing that inflates", b"end"]
    starts = [sum(map(len, stored[:index])) for index in range(4)]
    ends = [start + len(part) for start, part in zip(starts, stored, strict=True)]
    slot = await stage.decoders.take()
    slot.stored[: ends[-1]] = b"".join(stored)
    flags = [PACKED_CODED, 0, PACKED_CODED, 0]
    failed = await slot.decode(Codec("zlib"), starts, ends, flags, [UNIT, UNIT, UNIT, 3])
    assert list(failed) == [2]
    assert bytes(slot.decoded[: 2 * UNIT]) == b"coded".ljust(UNIT, b".") + stored[1]
    assert bytes(slot.decoded[3 * UNIT : 3 * UNIT + 3]) == b"end"
    slot.give()


@pytest.mark.trio
async def test_a_slot_given_back_too_early_is_free_when_its_job_ends(stage) -> None:
    data = zlib.compress(bytes(UNIT))
    for _ in range(20):
        slot = await stage.decoders.take()
        slot.stored[: len(data)] = data
        with trio.CancelScope() as scope:
            scope.cancel()
            await slot.decode(Codec("ewf"), [0], [len(data)], [PACKED_CODED], [UNIT])
        slot.give()
    with trio.fail_after(10):
        slots = [await stage.decoders.take() for _ in range(limits.SLOTS * len(stage.decoders.live))]
    for slot in slots:
        slot.give()
