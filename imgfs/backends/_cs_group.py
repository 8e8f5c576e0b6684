"""(In a worker) CoreStorage: from the metadata and the analyst's keys to volumes and their layouts.

Sources: see ``_cs_blocks`` and ``_cs_keys``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs import limits
from imgfs.backends import _cs_keys
from imgfs.backends._cs_label import KINDS
from imgfs.backends._plain import HEAD, known
from imgfs.block import ciphers
from imgfs.errors import EvidenceError, Malformed, NeedKey, NotSupported
from imgfs.model import LOST, Enciphered, Linear, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Options, Reader
    from imgfs.backends._cs_blocks import Catalogue, Logical
    from imgfs.backends._cs_keys import Context
    from imgfs.backends._cs_label import Header, Label, Member
    from imgfs.model import Codec, Layout

_DONE: Final = ("", "NoConversion", "Complete")

Run = tuple[int, int, int]  # in the volume, bytes, place on its member or LOST


class Group:
    """A group on its way to a table."""

    def __init__(
        self,
        reader: Reader,
        header: Header,
        label: Label,
        members: dict[int, Member],
        found: Catalogue,
        options: Options,
        notes: list[str],
    ) -> None:
        self._reader = reader
        self._header = header
        self._label = label
        self._members = members
        self._found = found
        self._options = options
        self._notes = notes
        self._layouts: list[Layout] = []
        self._tickets = 1 + len(reader.others)
        self._wanted: list[str] = []  # what a key would open
        self._tried: list[str] = []
        self._contexts: list[Context] = []
        self._trials = _cs_keys.Trials(options.keys, self._tried)
        files = [one.value for one in options.keys if one.kind == "keyfile"]
        apart = [_cs_keys.file_context(raw, header.key) for raw in files]
        self._apart = [one for one in apart if one is not None]  # contexts that the analyst brings

    def table(self) -> VolumeTable:
        """Return the volumes of the group."""
        volumes = []
        for slot, logical in enumerate(self._found.volumes, 1):
            try:
                volumes.append(self._volume(slot, logical))
            except Malformed as why:
                self._notes.append(f"{logical.name or logical.uuid}: {why.message}")
        protectors = tuple(one for context in self._contexts for one in context.protectors)
        protectors = protectors[: limits.MAX_PROTECTORS]
        if self._wanted and len(self._wanted) == len(volumes):
            raise NeedKey(
                "; ".join([f"CoreStorage, encrypted volume {', '.join(self._wanted)}", *self._tried]),
                kinds=KINDS,
                protectors=tuple((one.slot, one.kind, one.id, one.cost) for one in protectors),
            )
        return VolumeTable(
            scheme="corestorage",
            sector=self._header.sector,
            volumes=tuple(volumes),
            layouts=tuple(self._layouts),
            uuid=str(UUID(bytes=self._header.group)),
            label=self._label.name,
            version=f"transaction {self._label.transaction}, {len(self._label.members)} physical volumes",
            protectors=protectors,
            notes=tuple(dict.fromkeys((*self._notes, *self._tried))),
        )

    def _volume(self, slot: int, logical: Logical) -> Volume:
        name = logical.name or logical.uuid
        sector = self._header.sector
        if logical.size > limits.MAX_SIZE or logical.size % sector:
            raise Malformed(f"a size of {logical.size} bytes")
        runs, which = self._runs(logical, name)
        stored = [(at, length, max(place, -1)) for at, length, place in runs]  # lost: zeros, laid over below
        self._layouts.append(Linear.of(logical.size, stored, which))
        how, kind = self._cipher(logical, runs, which, name)
        if how is not None:
            below = self._tickets + len(self._layouts) - 1
            self._layouts.append(Enciphered(size=logical.size, sector=sector, codec=how, which=below))
        top = self._tickets + len(self._layouts) - 1
        shown = [(at, length, at if place >= 0 else LOST) for at, length, place in runs]
        self._layouts.append(
            Linear.of(logical.size, shown, [top if place >= 0 else 0 for _, _, place in runs])
        )
        return Volume(
            slot=slot,
            kind=SlotKind.ALLOCATED,
            start=0,
            stop=logical.size,
            type_name=kind,
            unique_id=logical.uuid,
            label=logical.name,
            layout=len(self._layouts) - 1,
        )

    def _runs(self, logical: Logical, name: str) -> tuple[list[Run], list[int]]:
        """Return where the bytes of a volume lie, those that are missing as LOST."""
        block, at = self._header.block, 0
        runs: list[Run] = []
        which: list[int] = []
        lost = 0

        def lay(length: int, place: int, ticket: int) -> None:
            nonlocal at, lost
            if length > 0:
                runs.append((at, length, place))
                which.append(ticket)
                lost += length if place == LOST else 0
                at += length

        for one in logical.segments:
            start, stop = one.logical * block, min((one.logical + one.count) * block, logical.size)
            if start < at:
                raise Malformed(f"segments overlap at block {one.logical}")
            lay(min(start, logical.size) - at, LOST, 0)
            member = self._members.get(one.member)
            place = one.physical * block
            held = min(stop - at, member.reader.size - place) if member else 0
            held = max(held, 0) // self._header.sector * self._header.sector
            if member:
                lay(held, place, member.ticket)
            lay(stop - at, LOST, 0)
        lay(logical.size - at, LOST, 0)
        if lost:
            self._notes.append(f"{name}: {lost} bytes are lost: no segment at hand has them")
        return runs, which

    def _cipher(
        self, logical: Logical, runs: Sequence[Run], which: Sequence[int], name: str
    ) -> tuple[Codec | None, str]:
        """Return the cipher of a volume, None: none, and what the volume is."""
        head = self._head(runs, which)
        listed = self._found.contexts.get(logical.family)
        if listed is None and len(self._found.contexts) == 1 == len(self._found.volumes):
            (listed,) = self._found.contexts.values()
        contexts = [_cs_keys.context(listed)] if listed is not None else []
        encrypted = contexts[0].encrypted if contexts else None
        if encrypted is False:
            return None, "plain"
        contexts += self._apart
        if known(head) and all(one.status in _DONE for one in contexts):
            if encrypted:
                self._notes.append(f"{name}: its context says it is encrypted, and it is not")
            return None, "plain"
        self._contexts += [one for one in contexts if one not in self._contexts]
        for context in contexts:
            if context.status not in _DONE:
                raise NotSupported(f"CoreStorage volume {name} is being converted: {context.status[:40]}")
            if key := self._trials.master(context):
                return _cs_keys.codec(key, logical.family), "plaintext"
        for secret in self._options.keys:
            if secret.kind == "volume-key" and len(secret.value) in (_cs_keys.VMK, 2 * _cs_keys.VMK):
                how = _cs_keys.codec(secret.value, logical.family)
                if self._fits(how, head):
                    return how, "plaintext"
                self._tried.append("a volume key decrypts to nothing that is known here")
        if not any(context.users for context in contexts):
            self._tried.append("its users are in EncryptedRoot.plist.wipekey of the Recovery HD: a keyfile")
        self._wanted.append(name)
        return None, "encrypted"

    def _head(self, runs: Sequence[Run], which: Sequence[int]) -> bytes:
        """Return the first bytes of a volume as they are stored."""
        if not runs or runs[0][2] < 0:
            return b""
        length = min(HEAD, runs[0][1])
        try:
            return (self._reader, *self._reader.others)[which[0]].read(runs[0][2], length)
        except EvidenceError:
            return b""

    def _fits(self, how: Codec, head: bytes) -> bool:
        sector = self._header.sector
        data = bytearray(head[: len(head) // sector * sector])
        if not data:
            return False
        ciphers.check(Enciphered(size=len(data), sector=sector, codec=how))
        ciphers.decrypt(how, sector, 0, 1, data)
        return known(data)
