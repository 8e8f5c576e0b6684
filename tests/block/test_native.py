from __future__ import annotations

import random
import zlib
from array import array
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace

from imgfs import limits
from imgfs.block import ciphers, native
from imgfs.block.batches import decode_strip
from imgfs.block.build import build
from imgfs.block.fetch import open_fetcher
from imgfs.block.pieces import Coded, Lost, Strip
from imgfs.block.readahead import Readahead
from imgfs.block.spares import Spares
from imgfs.errors import BadUnit, EvidenceError
from imgfs.model import Codec, Enciphered, Packed
from tests.block.lzolibrary import compressed
from tests.block.test_fetch import fetched, image, packed, units

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgfs.block.decoding import Buffer
    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Chunked

pytestmark = pytest.mark.skipif(not native.KINDS, reason="the extension is not built")

UNIT = 32768
OPEN: list[HostFile] = []


def raw(data: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(data) + squeezer.flush()


def lz4(data: bytes) -> bytes:
    return pytest.importorskip("lz4.block").compress(data, store_size=False)


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


def snappy(data: bytes) -> bytes:
    return bytes(pytest.importorskip("cramjam").snappy.compress_raw(data))


ENCODERS = {
    "zlib": zlib.compress,
    "deflate": raw,
    "ewf": zlib.compress,
    "lz4": lz4,
    "zstd": zstd,
    "lzo": compressed,
    "snappy": snappy,
}


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def source_of(folder: Path, stored: bytes, claim: Chunked) -> ByteSource:
    OPEN.append(image(folder, stored))
    return build([claim], [OPEN[-1]], "test")


def strips_of(tmp_path: Path, codec: str, contents: list[bytes], *, behind: bytes = b"") -> list[Strip]:
    """Return the strips of units, each followed by bytes that are not its own."""
    stored, claim = packed(contents, UNIT, codec, lambda data: ENCODERS[codec](data) + behind)
    source = source_of(tmp_path, stored, claim)
    pieces = source.plan(0, source.size)
    assert all(isinstance(piece, Coded) and isinstance(piece.unit, Strip) for piece in pieces)
    return [piece.unit for piece in pieces]


async def natively(strips: list[Strip]) -> list[bytearray | None]:
    found: dict[int, bytearray | None] = {}
    every = trio.Event()
    engine = native.NativeStrips.open(Spares())

    def done(key: int, block: bytearray | None) -> None:
        found[key] = block
        if len(found) == len(strips):
            every.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.listen)
        for strip in strips:
            assert engine.takes(strip)
            engine.start(strip, lambda block, key=strip.key: done(key, block))
        await every.wait()
        nursery.cancel_scope.cancel()
    return [found[strip.key] for strip in strips]


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.trio
async def test_a_strip_decodes_natively_to_what_it_was_made_of(tmp_path: Path, codec: str) -> None:
    if codec not in native.KINDS:
        pytest.skip(f"the library for {codec} is not installed")
    contents = units(100)
    blocks = await natively(strips_of(tmp_path, codec, contents))
    assert b"".join(bytes(block or b"") for block in blocks) == b"".join(contents)


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.trio
async def test_natively_or_not_is_the_same_whatever_is_stored(tmp_path: Path, codec: str) -> None:
    """Mutated strips: a native result is that of the decoders one by one; there is none where they fail."""
    if codec not in native.KINDS:
        pytest.skip(f"the library for {codec} is not installed")
    contents = [bytes([n]) * 500 + random.Random(n).randbytes(300) * 50 for n in range(40)]
    contents = [(data * 3)[:UNIT] for data in contents]
    strips = strips_of(tmp_path, codec, contents)
    path = tmp_path / "image"
    good = path.read_bytes()
    chance = random.Random(7)
    differ = 0
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        for strip, block in zip(strips, await natively(strips), strict=True):
            stored = strip.stored
            wanted = decode_strip(strip, memoryview(bad)[stored.offset : stored.offset + stored.length])
            if isinstance(wanted, EvidenceError):
                assert block is None
                differ += 1
            elif block is not None:
                assert block == wanted
    assert differ


@pytest.mark.trio
async def test_bytes_behind_a_unit_are_ignored(tmp_path: Path) -> None:
    contents = units(64)
    for codec in {"zlib", "deflate", "zstd", "lzo"} & set(native.KINDS):
        (tmp_path / codec).mkdir()
        blocks = await natively(strips_of(tmp_path / codec, codec, contents, behind=bytes(7)))
        assert b"".join(bytes(block or b"") for block in blocks) == b"".join(contents), codec


@pytest.mark.skipif("snappy" not in native.KINDS, reason="libsnappy is not installed")
@pytest.mark.parametrize("plain", [0, 1])
@pytest.mark.trio
async def test_units_that_may_be_verbatim_are_where_they_do_not_decode(tmp_path: Path, plain: int) -> None:
    chance = random.Random(9)
    contents = [chance.randbytes(UNIT) if n % 3 else bytes([n]) * UNIT for n in range(40)]
    verbatim = {data for n, data in enumerate(contents) if n % 3 == 2}
    stored, claim = packed(contents, UNIT, "snappy", lambda data: data if data in verbatim else snappy(data))
    claim = replace(claim, codec=Codec("snappy", {"unit": UNIT, "plain": plain}))
    source = source_of(tmp_path, stored, claim)
    strips = [piece.unit for piece in source.plan(0, source.size)]
    places = [strip.stored for strip in strips]
    held = [memoryview(stored)[place.offset : place.offset + place.length] for place in places]
    slow = [decode_strip(strip, data) for strip, data in zip(strips, held, strict=True)]
    quick = await natively(strips)
    for wanted, block in zip(slow, quick, strict=True):
        assert block is None if isinstance(wanted, EvidenceError) else block == wanted
    assert plain == (b"".join(bytes(block or b"") for block in quick) == b"".join(contents))


@pytest.mark.trio
async def test_a_file_that_ends_early_has_no_native_strips(tmp_path: Path) -> None:
    strips = strips_of(tmp_path, "zlib", units(64))
    path = tmp_path / "image"
    with path.open("r+b") as file:
        file.truncate(strips[0].stored.offset + strips[0].stored.length - 1)
    assert await natively(strips) == [None] * len(strips)


@pytest.mark.trio
async def test_who_waits_when_the_session_ends_is_told(tmp_path: Path) -> None:
    strips = strips_of(tmp_path, "zlib", units(320))
    told: list[bytearray | None] = []
    engine = native.NativeStrips.open(Spares())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.listen)
        for strip in strips:
            engine.start(strip, told.append)
        nursery.cancel_scope.cancel()
    assert told == [None] * len(strips)


@pytest.mark.skipif("aes-xts" not in native.KINDS, reason="this processor has no wide AES")
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("key", [32, 64])
@pytest.mark.trio
async def test_ciphertext_read_on_is_decrypted_natively(tmp_path: Path, sector: int, key: int) -> None:
    """What the cipher makes of it in one call; the first and the last strip are cut."""
    chance = random.Random(sector + key)
    secret, data = chance.randbytes(key), chance.randbytes((5 << 20) + 7 * sector)
    codec = Codec("aes-xts", {"key": secret, "iv": b"plain64"})
    base, first, step = 3 * sector, (1 << 33) + 5, sector // 512
    claim = Enciphered(size=len(data) - base, sector=sector, codec=codec, first=first, step=step, base=base)
    plain = bytearray(data[base:])
    ciphers.decrypt(codec, sector, first, step, plain)
    OPEN.append(image(tmp_path, data))
    source = build([claim], [OPEN[-1]], "test")
    ahead = Readahead()
    async with open_fetcher() as fetcher:
        for start in range(1000, source.size, 300_000):
            stop = min(start + 300_000, source.size)
            if more := ahead.observe(start, stop):
                fetcher.prefetch(source, *more)
            assert await fetched(fetcher, source, start, stop) == plain[start:stop]
        assert fetcher.statistics().decoded_bytes >= 2 << 20
        for _ in range(100):
            start, stop = sorted(chance.choices(range(source.size), k=2))
            assert await fetched(fetcher, source, start, stop) == plain[start:stop]


@pytest.mark.trio
async def test_a_block_that_somebody_holds_is_never_written_again(tmp_path: Path) -> None:
    contents = units(40 * 32)
    whole = b"".join(contents)
    source = source_of(tmp_path, *packed(contents, UNIT))
    held: list[tuple[int, Buffer]] = []
    async with open_fetcher() as fetcher:
        for at in range(0, len(whole), limits.MIB):
            data = await fetcher.fetch(source, at, at + limits.MIB)
            if at // limits.MIB % 3:
                held.append((at, memoryview(data)[7:] if at // limits.MIB % 3 == 1 else data))
        assert fetcher.statistics().pool_trips == 0
    for at, kept in held:
        skip = limits.MIB - len(kept)
        assert bytes(kept) == whole[at + skip : at + limits.MIB]


def woven(chance: random.Random, contents: list[bytes]) -> tuple[bytes, Packed]:
    """Store every third unit verbatim, in places that are near each other and in no order."""
    stored = bytearray(chance.randbytes(100))
    rows = array("Q", bytes(16 * len(contents)))
    order = [*range(len(contents))]
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        chance.shuffle(part)
        for index in part:
            verbatim = index % 3 == 1
            data = contents[index] if verbatim else zlib.compress(contents[index])
            rows[2 * index : 2 * index + 2] = array("Q", [len(stored), len(data) | (not verbatim) << 32])
            stored += data + chance.randbytes(chance.randrange(600))
    size = sum(map(len, contents))
    return bytes(stored), Packed(size=size, unit=UNIT, codec=Codec("zlib"), table=rows.tobytes())


@pytest.mark.parametrize("how", ["natively", "here"])
@pytest.mark.trio
async def test_verbatim_units_among_coded_ones_are_part_of_the_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    chance = random.Random(11)
    contents = [chance.randbytes(UNIT // 4) * 4 for _ in range(151)]
    contents.append(chance.randbytes(UNIT // 3))  # the last, which is verbatim
    whole = b"".join(contents)
    source = source_of(tmp_path, *woven(chance, contents))
    strips = [piece.unit for piece in source.plan(0, source.size)]
    assert [type(strip) for strip in strips] == [Strip] * 5
    if how == "here":
        monkeypatch.setattr(native, "KINDS", {})
    else:
        assert b"".join(bytes(block or b"") for block in await natively(strips)) == whole
    async with open_fetcher() as fetcher:
        for at in range(0, source.size, 300_000):
            fetcher.prefetch(source, at, at + 600_000)
            stop = min(at + 300_000, source.size)
            assert await fetched(fetcher, source, at, stop) == whole[at:stop]
        for _ in range(300):
            start = chance.randrange(source.size)
            stop = min(start + chance.choice([100, 4096, 70_000]), source.size)
            assert await fetched(fetcher, source, start, stop) == whole[start:stop]


@pytest.mark.trio
async def test_a_bad_unit_of_a_strip_costs_itself_and_no_verbatim_one(tmp_path: Path) -> None:
    chance = random.Random(12)
    contents = [chance.randbytes(UNIT // 4) * 4 for _ in range(32)]
    stored, claim = woven(chance, contents)
    words = memoryview(claim.table).cast("Q")
    bad = bytearray(stored)
    bad[words[2 * 3] + 500] ^= 1  # of unit 3, which is coded
    source = source_of(tmp_path, bytes(bad), claim)
    async with open_fetcher() as fetcher:
        for _ in range(2):
            for index, content in enumerate(contents):
                if index == 3:
                    with pytest.raises(BadUnit):
                        await fetcher.fetch(source, index * UNIT, (index + 1) * UNIT)
                else:
                    assert await fetched(fetcher, source, index * UNIT, (index + 1) * UNIT) == content
            with pytest.raises(BadUnit):
                await fetcher.fetch(source, 0, source.size)


def test_a_verbatim_unit_that_is_short_or_elsewhere_is_in_no_strip(tmp_path: Path) -> None:
    chance = random.Random(13)
    contents = [chance.randbytes(UNIT) for _ in range(32)]
    stored, claim = woven(chance, contents)
    for place, length in ((0, UNIT - 1), (len(stored) - UNIT + 1, UNIT), (1 << 62, UNIT)):
        table = array("Q", claim.table)
        table[2 * 4 : 2 * 4 + 2] = array("Q", [place, length])
        source = source_of(tmp_path, stored, replace(claim, table=table.tobytes()))
        kinds = [type(piece) for piece in source.plan(0, source.size)]
        assert kinds.count(Lost) == 1
        assert len(kinds) == 32


def test_the_engine_refuses_what_cannot_be(tmp_path: Path) -> None:
    engine = native.Engine()
    kind = native.KINDS["zlib"]
    out = bytearray(100)
    cut = (0).to_bytes(4, "little") + (10).to_bytes(4, "little") + bytes(4)
    for stored, unit, cuts, into in (
        (0, 100, cut, out),
        (9, 100, cut, out),  # the unit ends behind it
        (10, 0, cut, out),
        (10, 50, cut, out),  # two units, one cut
        (10, 101, cut, out),
        (10, 100, cut + cut, out),
        (10, 100, cut[:11], out),
        (10, 100, b"", out),
        (1 << 40, 100, cut, out),
    ):
        with pytest.raises(ValueError, match="cannot be"):
            engine.submit(1, kind, 0, 0, stored, unit, cuts, into)
    for bad_kind in (-1, 99):
        with pytest.raises(ValueError, match="cannot be"):
            engine.submit(1, bad_kind, 0, 0, 10, 100, cut, out)
    with pytest.raises(BufferError):
        engine.submit(1, kind, 0, 0, 10, 100, cut, bytes(100))
    out += b"free again"
    assert Codec("zlib").name in native.KINDS
