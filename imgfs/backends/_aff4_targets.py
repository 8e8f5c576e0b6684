"""What an address means over all volumes at hand: a stream, a map, a segment, or bytes that need no storage.

Source: AFF4 Standard v1.0a, sections 4.4 (symbolic streams) and 7 (several volumes); byte ranges and
hashes as addresses (AFF4-L) as pyaff4 (Apache-2.0) writes them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._aff4_map import MAX_MAP, Map
from imgfs.backends._aff4_plan import ZEROS, Plan, Runs, Target, lost
from imgfs.backends._aff4_stream import ImageStream
from imgfs.backends._aff4_volume import ENCRYPTED, MAPS, SCHEME, STANDARD, STREAMS, local
from imgfs.backends._aff4_zip import DEFLATED, STORED
from imgfs.errors import EvidenceError, Malformed, NotSupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends._aff4_volume import Volume

_MAX_DEPTH: Final = 8  # maps of maps
_MAX_INDEX: Final = 64 * limits.MIB  # bytes of the index of targets
_MAX_TARGETS: Final = 1 << 20
_MAX_LAYOUTS: Final = 15_000
_LOST_SHOWN: Final = 1000
_SYMBOL: Final = re.compile(r"(?:SymbolicStream)?([0-9A-Fa-f]{2})")
_EARLY_SYMBOL: Final = "http://afflib.org/2012/SymbolicStream#"
_RANGE: Final = re.compile(r"(aff4://.*)\[0x([0-9a-fA-F]{1,16}):0x([0-9a-fA-F]{1,16})\]", re.DOTALL)
_NOTHING: Final = {
    "UnknownData": "the image says that nothing is known of this range (aff4:UnknownData)",
    "UnreadableData": "the examiner's tool could not read this range (aff4:UnreadableData)",
}


class Targets:
    """Resolves addresses while one plan is made. ``missing`` are streams that no volume at hand holds."""

    def __init__(self, volumes: Sequence[Volume], plan: Plan, notes: list[str]) -> None:
        self._volumes = volumes
        self._plan = plan
        self._notes = notes
        self._known: dict[str, Target] = {}
        self._open: set[str] = set()
        self.missing: list[str] = []
        self.streams: dict[int, tuple[ImageStream, str]] = {}
        self.maps: dict[int, tuple[Map, Runs]] = {}

    def target(self, urn: str) -> Target:
        """Return where the bytes of an address are; what cannot be had is lost, with the reason."""
        known = self._known.get(urn)
        if known is not None:
            return known
        if len(self._open) >= _MAX_DEPTH or urn in self._open:
            return lost("maps that lead to themselves")
        self._open.add(urn)
        try:
            found = self._resolve(urn)
        except (EvidenceError, NotSupported) as why:
            self._notes.append(f"{urn[:200]}: {why.message}")
            found = lost(why.message)
        finally:
            self._open.remove(urn)
        self._known[urn] = found
        return found

    def _resolve(self, urn: str) -> Target:
        name = local(urn) or urn.removeprefix(_EARLY_SYMBOL) * urn.startswith(_EARLY_SYMBOL)
        if name:
            if name in ("Zero", "SymbolicStream00", "00"):
                return ZEROS
            if name in _NOTHING:
                return lost(_NOTHING[name])
            symbol = _SYMBOL.fullmatch(name)
            if symbol is not None:
                return self._plan.fill(int(symbol[1], 16))
            return lost(f"a symbolic stream nobody here knows: {name[:100]}")
        part = _RANGE.fullmatch(urn)
        if part is not None:
            return self._part(part[1], int(part[2], 16), int(part[3], 16))
        if len(self._plan) > _MAX_LAYOUTS:
            raise Malformed(f"an image of more than {_MAX_LAYOUTS} streams")
        return self._object(urn)

    def _part(self, urn: str, start: int, length: int) -> Target:
        whole = self.target(urn)
        if not whole.follows:
            return whole
        return whole._replace(base=whole.base + start, size=max(min(length, whole.size - start), 0))

    def _object(self, urn: str) -> Target:
        for volume in self._volumes:
            types = volume.types(urn)
            if types & ENCRYPTED:
                return lost("an encrypted stream: its password or certificate would be needed")
            if types & STREAMS and self._holds(volume, urn):
                return self._stream(volume, urn)
            if types & MAPS and volume.find(urn + "/map", volume.one(urn, "stored")) is not None:
                return self._map(volume, urn)
            stream = volume.one(urn, "datastream")
            if stream and stream != urn:
                return self.target(stream)
        for volume in self._volumes:
            found = self._segment(volume, urn)
            if found is not None:
                return found
        if any(volume.types(urn) & STREAMS and not volume.number(urn, "size") for volume in self._volumes):
            return lost("an empty stream")
        if urn.startswith(SCHEME):
            self.missing.append(urn)
        return lost(f"no volume at hand holds the stream {urn[:200]}")

    @staticmethod
    def _holds(volume: Volume, urn: str) -> bool:
        """Say whether any bevy of a stream is in a volume: a striped image names the others' streams, too."""
        stored = volume.one(urn, "stored")
        if any(volume.find(f"{urn}/{number:08d}", stored) is not None for number in range(3)):
            return True
        return bool(volume.number(urn, "size")) and stored in (volume.arn, "")

    def _stream(self, volume: Volume, urn: str) -> Target:
        stream = ImageStream(volume, urn)
        if not stream.size:
            return lost("an empty stream")
        found = stream.target(self._plan)
        self.streams[found.which] = stream, urn
        return found

    def _segment(self, volume: Volume, urn: str) -> Target | None:
        """Return where a segment is that is a stream itself."""
        segment = volume.find(urn, volume.one(urn, "stored"))
        if segment is None or not segment.size:
            return None
        start = volume.archive.start(segment)
        if segment.method == STORED:
            inside = min(segment.size, volume.reader.size - start)
            if inside == segment.size:
                return Target(volume.ticket, start, inside)
            runs = Runs()  # cut short: what is left of it
            if inside > 0:
                runs.add(0, inside, start, volume.ticket)
            return Target(self._plan.runs(segment.size, runs), 0, segment.size)
        if segment.method != DEFLATED or segment.size > limits.MAX_UNIT:
            raise NotSupported(f"a segment of {segment.size} bytes packed by method {segment.method}")
        return Target(self._plan.unit(start, segment.stored, segment.size, volume.ticket), 0, segment.size)

    def _map(self, volume: Volume, urn: str) -> Target:
        stored = volume.one(urn, "stored")
        points, index = volume.find(urn + "/map", stored), volume.find(urn + "/idx", stored)
        if points is None or index is None:
            raise Malformed("a map without its index of targets")
        names = volume.archive.read(index, _MAX_INDEX).decode("utf-8", "replace").splitlines()
        if len(names) > _MAX_TARGETS:
            raise Malformed(f"a map of {len(names)} targets")
        swapped = STANDARD + "map" in volume.objects.get(urn, {}).get("type", ())
        raw = volume.archive.read(points, MAX_MAP)
        made = Map(raw, [self.target(name.strip()) for name in names], swapped=swapped)
        size = volume.number(urn, "size") or max(volume.number(urn, "blockcount") or 0, 0) * 512 or made.end
        size = min(size, limits.MAX_SIZE)
        gap = volume.one(urn, "mapgapdefaultstream")
        runs = made.runs(size, self.target(gap) if gap else ZEROS, self._plan)
        self._notes += made.notes
        which = self._plan.runs(size, runs)
        self.maps[which] = made, runs
        return Target(which, 0, size)

    def lost(self, which: int) -> list[tuple[int, int, str]]:
        """Return what is lost of the stream or map with the number ``which``, and what that costs it.

        To be asked after the tables were made: they say what is missing of streams.
        """
        if which in self.streams:
            return list(self.streams[which][0].lost)
        if which not in self.maps:
            return []
        made, runs = self.maps[which]
        found = list(made.lost)
        below = {w: self.lost(w) for w in set(runs.which) & (self.streams.keys() | self.maps.keys())}
        if any(below.values()):
            for logical, length, target, lower in zip(*runs.columns, strict=True):
                for start, stop, why in below.get(lower, ()):
                    begin, end = max(start, target), min(stop, target + length)
                    if target >= 0 and begin < end and len(found) < 2 * _LOST_SHOWN:
                        found.append((logical + begin - target, logical + end - target, why))
        return joined(found)

    def last(self, whole: Target, tickets: int, size: int) -> Target:
        """Make what an address means the last layout of the plan, ``size`` bytes long."""
        if whole.base == 0 and whole.size == size and whole.which == tickets + len(self._plan) - 1:
            return whole
        runs = Runs()
        if min(whole.size, size) and (whole.follows or whole.base < 0):
            runs.add(0, min(whole.size, size), whole.base, whole.which)
        which = self._plan.runs(size, runs)
        for known in (self.streams, self.maps):
            if whole.which in known and not whole.base:
                known[which] = known[whole.which]  # type: ignore[assignment]  # the same table
        return whole._replace(which=which, base=0)


def joined(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Sort lost ranges, join neighbours with one reason, and keep as many as are listed."""
    kept: list[tuple[int, int, str]] = []
    for start, stop, why in sorted(found):
        if kept and kept[-1][1] == start and kept[-1][2] == why:
            kept[-1] = (kept[-1][0], stop, why)
        else:
            kept.append((start, stop, why))
    return kept[:_LOST_SHOWN]
