"""Reading a whole media once: every checksum along the way is checked, stored digests are compared."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from imgfs import limits
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource

_STEP = 4 * limits.MIB  # bytes hashed per turn, while the next are being decoded
_FINE = 32 * limits.KIB  # what a bad step is narrowed down to: the usual chunk of EWF


@dataclass(slots=True)
class Outcome:
    """What a verification found. ``bad`` rows are [start, stop) bytes and the reason."""

    size: int
    stored: dict[str, str]
    computed: dict[str, str] = field(default_factory=dict)
    bad: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def differing(self) -> list[str]:
        """Return the digests that were stored and are not what was read."""
        return [name for name, value in self.stored.items() if self.computed.get(name, value) != value]

    @property
    def sound(self) -> bool:
        """Say whether every byte could be read and every stored digest is confirmed."""
        return not self.bad and not self.differing


async def verify(
    fetcher: Fetcher, source: ByteSource, stored: dict[str, str], progress: Callable[[int], None]
) -> Outcome:
    """Read ``source`` once from end to end.

    Digests run beside the decoding, each in a thread of its own. When bytes cannot be read, digests
    are not computed further: a digest of other bytes would mean nothing.

    Args:
        fetcher: reads and decodes, checking chunk checksums.
        source: the media.
        stored: digests by name (md5, sha1, sha256, crc32); without any, sha256 is computed.
        progress: told the bytes done so far.
    """
    outcome = Outcome(
        source.size,
        {n: v.lower() for n, v in stored.items() if n in hashlib.algorithms_available | {"crc32"}},
    )
    hashes = {
        name: _Crc32() if name == "crc32" else hashlib.new(name) for name in outcome.stored or ("sha256",)
    }
    for start in range(0, source.size, _STEP):
        stop = min(start + _STEP, source.size)
        fetcher.prefetch(source, stop, min(stop + 2 * _STEP, source.size))
        try:
            data = await fetcher.fetch(source, start, stop)
        except EvidenceError:
            outcome.bad += await _narrow(fetcher, source, start, stop)
            hashes.clear()
        else:
            async with trio.open_nursery() as nursery:
                for digest in hashes.values():
                    nursery.start_soon(trio.to_thread.run_sync, digest.update, data)
        progress(stop)
    outcome.computed = {name: digest.hexdigest() for name, digest in hashes.items()}
    outcome.bad = _joined(outcome.bad)
    return outcome


class _Crc32:
    """CRC-32 with the face of a hash: the one of UDIF and of zlib."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


async def _narrow(fetcher: Fetcher, source: ByteSource, start: int, stop: int) -> list[tuple[int, int, str]]:
    bad = []
    for at in range(start, stop, _FINE):
        end = min(at + _FINE, stop)
        try:
            await fetcher.fetch(source, at, end)
        except EvidenceError as why:
            bad.append((at, end, why.message))
    return bad


def _joined(bad: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Join neighbouring ranges; the first reason stands for all of them."""
    joined: list[tuple[int, int, str]] = []
    for start, stop, why in bad:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop, joined[-1][2])
        else:
            joined.append((start, stop, why))
    return joined
