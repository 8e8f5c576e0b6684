"""Finding the headers that the analyst's passwords open: what to try first, and when to stop.

A derivation takes up to some seconds and is shared by all ciphers; a cipher takes microseconds. What a second
block of key costs is only paid for cascades, once the single ciphers have failed everywhere.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends._tcrypt import CIPHERS, DERIVATIONS, KEY, LATER, opened
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends._tcrypt import Derivation, Header
    from imgfs.backends._tcrypt_secrets import Candidate

_SINGLE: Final = tuple(names for names in CIPHERS if len(names) == 1)
_FIRST: Final = tuple(names for names in CIPHERS if LATER.isdisjoint(names))
_CASCADES: Final = tuple(names for names in CIPHERS if len(names) > 1)
_SHORT: Final = 2 * KEY
_LONG: Final = 3 * _SHORT
_BESIDE: Final = 0.25  # of the patience: for what other passwords may open where one was found
_FIRST_GUESS: Final = 1e-6  # seconds of one iteration of SHA-512, until one was measured


@dataclass(frozen=True, slots=True)
class Spot:
    """A place where a header may be; ``at`` in bytes. ``programs`` are those that put one there."""

    at: int
    stored: bytes
    what: str
    programs: tuple[str, ...] = ("TrueCrypt", "VeraCrypt")


@dataclass(slots=True)
class Trials:
    """Tries candidates on places.

    ``said`` is what was left out, and why; ``late`` what there was no time for. Units: ``patience`` seconds.
    """

    patience: float
    system: bool = False
    threads: int = 1
    said: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    _pace: float = _FIRST_GUESS
    _until: float = 0.0

    def find(self, spots: list[Spot], candidates: list[Candidate]) -> list[tuple[Spot, Header]]:
        """Return the headers that open, in the order in which they were found.

        A place has one header and a combination opens one place: both leave the search when they meet.
        """
        found: list[tuple[Spot, Header]] = []
        self._until = time.monotonic() + self.patience
        spots, candidates = list(spots), list(candidates)
        for derivation, length, ciphers in _order():
            pairs = [
                (spot, candidate)
                for candidate in candidates
                for spot in spots
                if derivation.program in spot.programs
            ]
            for spot, candidate, header in self._tried(derivation, length, ciphers, pairs):
                if spot in spots and candidate in candidates:
                    found.append((spot, header))
                    spots.remove(spot)
                    candidates.remove(candidate)
                    self._until = min(self._until, time.monotonic() + self.patience * _BESIDE)
            if not spots or not candidates:
                break
        if self.late and not found:
            self.said.append(f"{self.patience:.0f} seconds were too short for {', '.join(self.late)}")
        return found

    def _tried(
        self,
        derivation: Derivation,
        length: int,
        ciphers: tuple[tuple[str, ...], ...],
        pairs: list[tuple[Spot, Candidate]],
    ) -> Iterable[tuple[Spot, Candidate, Header]]:
        """Return what one derivation opens."""
        threads = 1 if derivation.digest == "argon2id" else max(self.threads, 1)
        hits: list[tuple[Spot, Candidate, Header]] = []
        with ThreadPoolExecutor(threads) as pool:  # starts none before it is given something
            run = pool.map if threads > 1 else map
            for at in range(0, len(pairs), threads):
                batch = [
                    pair
                    for pair in pairs[at : at + threads]
                    if not any(pair[0] is spot or pair[1] is candidate for spot, candidate, _ in hits)
                ]
                if not batch:
                    continue
                cost = max(derivation.cost(one.pim, length, system=self.system) for _, one in batch)
                begin = time.monotonic()
                if begin + cost * self._pace > self._until:
                    self.late.append(derivation.digest + (" in cascades" if ciphers is _CASCADES else ""))
                    break
                try:
                    headers = list(run(lambda one: self._one(derivation, length, ciphers, *one), batch))
                except (Malformed, MemoryError) as why:
                    self._say(f"{derivation.digest} was not tried: {why}")
                    break
                if cost > 100_000:
                    self._pace = (time.monotonic() - begin) / cost
                hits += [(*pair, one) for pair, one in zip(batch, headers, strict=True) if one is not None]
        return hits

    def _one(
        self,
        derivation: Derivation,
        length: int,
        ciphers: tuple[tuple[str, ...], ...],
        spot: Spot,
        candidate: Candidate,
    ) -> Header | None:
        salt, pim = spot.stored[:64], candidate.pim
        key = derivation.key(candidate.value, salt, pim, length, system=self.system)
        how = derivation.said(pim, system=self.system)
        for names in ciphers:
            try:
                header = opened(spot.stored, spot.at, derivation, key, names, how)
            except EvidenceError as why:  # no libgcrypt here
                self._say(f"{'-'.join(names)} was not tried: {why}")
                continue
            if header is not None:
                return header
        return None

    def _say(self, text: str) -> None:
        if text not in self.said:
            self.said.append(text)


def _order() -> Iterable[tuple[Derivation, int, tuple[tuple[str, ...], ...]]]:
    """Return derivations, bytes of key, and the ciphers to try with it, likely and cheap ones first."""
    later = []
    for one in DERIVATIONS:
        if one.program == "TrueCrypt":
            yield one, _LONG, _FIRST
        elif one.digest == "argon2id":
            yield one, _LONG, CIPHERS
        else:
            yield one, _SHORT, _SINGLE
            later.append(one)
    for one in later:
        yield one, _LONG, _CASCADES
