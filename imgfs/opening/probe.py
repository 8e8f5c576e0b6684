"""Which back-ends may know a source: signatures are compared, nothing is interpreted (law 1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Role, discover
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from imgfs.backends import Backend, Signature
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource

_PAGE: Final = 4096  # a window that cannot be read whole is read in pages: lost ones match nothing


class Window:
    """Head and tail of a source and what lies at ``limits.FAR``, as far as the image supplies them."""

    __slots__ = ("_far", "_head", "_size", "_tail")

    def __init__(self, size: int, head: bytes, tail: bytes, far: Mapping[int, bytes] | None = None) -> None:
        self._size = size
        self._head = head
        self._tail = tail
        self._far = far or {}

    def holds(self, signature: Signature) -> bool:
        """Compare one signature."""
        at = signature.offset if signature.offset >= 0 else self._size + signature.offset
        at -= at % signature.align
        if at < 0 or at + len(signature.magic) > self._size:
            return False
        if at + len(signature.magic) <= len(self._head):
            return self._head.startswith(signature.magic, at)
        if at in self._far:
            return self._far[at].startswith(signature.magic)
        at -= self._size - len(self._tail)
        return at >= 0 and self._tail.startswith(signature.magic, at)


async def look(fetcher: Fetcher, source: ByteSource) -> Window:
    """Read what signatures may lie in: ``limits.WINDOW``, ``WINDOW_TAIL`` at the ends, ``limits.FAR``."""
    head_stop = min(limits.WINDOW, source.size)
    tail_start = max(head_stop, source.size - limits.WINDOW_TAIL)
    head = await _readable(fetcher, source, 0, head_stop)
    tail = await _readable(fetcher, source, tail_start, source.size)
    places = [at for at in limits.FAR if head_stop <= at < tail_start]
    far = {at: await _readable(fetcher, source, at, min(at + limits.FAR_BYTES, source.size)) for at in places}
    return Window(source.size, head, tail, far)


async def _readable(fetcher: Fetcher, source: ByteSource, start: int, stop: int) -> bytes:
    try:
        return bytes(await fetcher.fetch(source, start, stop))
    except EvidenceError:
        if stop - start <= _PAGE:
            return bytes(stop - start)  # compared only; what is lost stays an error to read
    parts = [await _readable(fetcher, source, at, min(at + _PAGE, stop)) for at in range(start, stop, _PAGE)]
    return b"".join(parts)


def candidates(
    window: Window,
    roles: Iterable[Role],
    *,
    name: str = "",
    trials: bool = True,
    kinds: Collection[str] = (),
) -> list[Backend]:
    """Return the back-ends worth opening, in the order to try them.

    Args:
        window: what was read of the source.
        roles: the roles that make sense here.
        name: the host file's name, for formats without magic; empty inside other layers.
        trials: also those that have no signature and must try.
        kinds: of the keys that there are, for formats that only a key tells from noise.
    """
    wanted = set(roles)
    found = [
        backend
        for backend in discover().values()
        if backend.role in wanted
        and (
            (any(map(window.holds, backend.signatures)) and not backend.by_key)
            or (backend.by_trial and trials)
            or (backend.by_key and _by_key(backend, window, kinds))
            or (backend.by_name and name and re.fullmatch(backend.by_name, name, re.IGNORECASE))
        )
    ]
    return sorted(found, key=order)


def _by_key(backend: Backend, window: Window, kinds: Collection[str]) -> bool:
    """Say whether a key may open what only a key tells from noise. Signatures prove nothing here."""
    fits = not backend.signatures or any(map(window.holds, backend.signatures))
    return fits and not set(backend.keys).isdisjoint(kinds)


def order(backend: Backend) -> tuple[bool, bool, bool, int, int]:
    """Return the sort key of candidates.

    Trials last, before them what only a key opens; what shares its source first; then role and rank.
    """
    last = backend.by_key and not backend.signatures
    return backend.by_trial, last, backend.exclusive, backend.role, backend.rank
