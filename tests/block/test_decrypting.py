"""Laws of reading through ciphertext: any range is the plaintext, cached or not, decrypted here or there."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
import trio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imgfs import limits
from imgfs.block import sums
from imgfs.block.build import build
from imgfs.block.enciphered import CipherMap
from imgfs.block.fetch import open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.errors import MediaChanged
from imgfs.model import Codec, Enciphered, Linear, Summed

SIZE = 3 * limits.MIB + 40 * 4096


def written(path, name: str, iv: str, sector: int, seed: int) -> tuple[bytes, Codec]:
    """Write ciphertext behind a megabyte of something else; return the plaintext and what opens it."""
    rng = random.Random(f"{name}{iv}{sector}{seed}")
    key = rng.randbytes(64 if name == "aes-xts" else 32)
    plain = rng.randbytes(SIZE)
    with path.open("wb") as file:
        file.write(rng.randbytes(limits.MIB))
        for number, at in enumerate(range(0, SIZE, sector)):
            vector = number.to_bytes(16, "little") if iv == "plain64" else bytes(16)
            mode = modes.XTS(vector) if name == "aes-xts" else modes.CBC(vector)
            encryptor = Cipher(algorithms.AES(key), mode).encryptor()
            file.write(encryptor.update(plain[at : at + sector]))
        file.flush()
        os.fsync(file.fileno())
    return plain, Codec(name, {"key": key, "iv": iv.encode()})


@pytest.mark.parametrize(
    ("name", "iv", "sector"),
    [
        ("aes-xts", "plain64", 512),
        ("aes-xts", "plain64", 4096),
        ("aes-cbc", "null", 512),
        ("aes-cbc", "plain64", 4096),
    ],
)
@pytest.mark.trio
async def test_any_range_of_ciphertext_is_plaintext(tmp_path, name, iv, sector) -> None:
    path = tmp_path / "image"
    plain, codec = written(path, name, iv, sector, 1)
    rng = random.Random(sector)
    with contextlib.closing(HostFile.open(path)) as file:
        below = build((Enciphered(size=SIZE, sector=sector, codec=codec, base=limits.MIB),), [file], "x")
        assert isinstance(below, CipherMap)
        runs = [(0, 700_001, 1_048_577), (700_001, 900_000, 5)]  # pieces that no sector begins or ends at
        above = build((Linear.of(1_600_001, runs),), [below], "x")
        model = plain[1_048_577 : 1_048_577 + 700_001] + plain[5:900_005]
        for cold in (False, True):
            if cold:
                os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            async with open_fetcher() as fetcher:
                for _ in range(150):
                    source, expected = rng.choice([(below, plain), (above, model)])
                    start = rng.randrange(len(expected))
                    stop = min(
                        len(expected), start + rng.choice([1, 511, 4096, 70_000, limits.MIB, 2_500_000])
                    )
                    if rng.random() < 0.2:
                        fetcher.prefetch(source, stop, stop + limits.MIB)
                    try:
                        found = bytes(fetcher.fetch_nowait(source, start, stop))
                    except trio.WouldBlock:
                        found = bytes(await fetcher.fetch(source, start, stop))
                    assert found == expected[start:stop], (start, stop)
                if not cold:
                    assert fetcher.statistics().nowait > 100  # the page cache may let go of a page


@pytest.mark.trio
async def test_ciphertext_of_a_file_that_changed_is_not_decrypted(tmp_path) -> None:
    path = tmp_path / "image"
    _, codec = written(path, "aes-xts", "plain64", 512, 2)
    with contextlib.closing(HostFile.open(path)) as file:
        source = build((Enciphered(size=SIZE, sector=512, codec=codec, base=limits.MIB),), [file], "x")
        with path.open("r+b") as other:
            other.truncate(limits.MIB)
        with pytest.raises(MediaChanged):
            file.check(now=True)
        async with open_fetcher() as fetcher:
            with pytest.raises(MediaChanged):
                fetcher.fetch_nowait(source, 0, 4096)


@pytest.mark.trio
async def test_sectors_with_checksums_lie_in_ciphertext(tmp_path) -> None:
    """Plaintext and what is compared have places of their own: all of it is answered at once."""
    path = tmp_path / "image"
    plain, codec = written(path, "aes-xts", "plain64", 4096, 3)
    (tmp_path / "sums").write_bytes(sums.SUMS["crc32c"][1](plain, 4096))
    with (
        contextlib.closing(HostFile.open(path)) as file,
        contextlib.closing(HostFile.open(tmp_path / "sums")) as summed,
    ):
        layouts = (
            Enciphered(size=SIZE, sector=4096, codec=codec, base=limits.MIB),
            Summed(size=SIZE, sector=4096, kind="crc32c", which=2, sums=1),
        )
        source = build(layouts, [file, summed], "x")
        async with open_fetcher() as fetcher:
            rng = random.Random(4)
            for _ in range(60):
                start = rng.randrange(SIZE)
                stop = min(SIZE, start + rng.choice([1, 5000, 300_000, limits.MIB, 2 * limits.MIB]))
                try:
                    found = bytes(fetcher.fetch_nowait(source, start, stop))
                except trio.WouldBlock:
                    found = bytes(await fetcher.fetch(source, start, stop))
                assert found == plain[start:stop]
            assert fetcher.statistics().nowait > 40
