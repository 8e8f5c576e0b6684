"""What of a container becomes a tree, and what is said of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from imgfs import limits
from imgfs.backends.apfs.container import CRYPTO_SW
from imgfs.backends.apfs.keybag import keys_of
from imgfs.backends.apfs.records import ROOT
from imgfs.backends.apfs.states import State, snapshots_of
from imgfs.backends.apfs.volume import read_volume
from imgfs.errors import EvidenceError, Malformed, NeedKey, NotFound, NotSupported
from imgfs.model import FilesInfo, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Options
    from imgfs.backends.apfs.container import Container
    from imgfs.backends.apfs.keys import Trials
    from imgfs.backends.apfs.volume import Volume
    from imgfs.model import Codec, Protector

KINDS: Final = ("password", "recovery", "volume-key")
_MOST: Final = 4000  # trees of one container
_WORDS: Final = 400_000  # characters of their names: the daemon takes a million of all texts
_NAME: Final = 1000  # bytes of a name: the kernel shows 1,024
_NOTE, _NOTES = 1000, 100_000  # characters of a note, and of all


class Opening:
    """The volumes of a container, opened as far as there are keys."""

    def __init__(self, container: Container, options: Options) -> None:
        """Look at all volumes.

        Raises:
            NeedKey: one is encrypted, and no key opens any.
            NotSupported: all are encrypted with keys in hardware.
            Malformed: there is no volume.
        """
        self.container = container
        self.states: list[State] = []
        self._names: list[str] = []
        self._notes = list(container.notes)
        self._options = options
        self._trials: Trials | None = None
        self._locked: list[str] = []
        self._hardware: list[str] = []
        self._protectors: list[Protector] = []
        self._opened = 0  # volumes that a key opened
        self._volumes: list[Volume] = []
        volumes = container.head.volumes
        for number, oid in enumerate(volumes, 1):
            try:
                volume = read_volume(container, oid)
            except EvidenceError as why:
                self._notes.append(f"volume {number} of {len(volumes)}: {why.message}")
                continue
            self._notes.append(volume.said())
            self._volumes.append(volume)
            self._add(number, volume)
        self._judge()

    def _judge(self) -> None:
        """Raise what keeps anything from being shown."""
        protectors = self._protectors[: limits.MAX_PROTECTORS]
        if self._locked and not self._opened and not (self._options.keyless and self.states):
            raise NeedKey(
                "; ".join([f"APFS, encrypted volume {', '.join(self._locked)}", *self._said()])[:2000],
                kinds=KINDS,
                protectors=tuple((one.slot, one.kind, one.id, one.cost) for one in protectors),
            )
        if not self.states and self._hardware:
            which = ", ".join(self._hardware)
            raise NotSupported(f"APFS, {which}: encrypted with keys in the machine's hardware")
        if not self.states:
            raise Malformed("; ".join(["apfs: no volume can be read", *self._notes])[:2000])
        self._notes += [f"volume {name} is locked: no key opens it" for name in self._locked]

    def _said(self) -> list[str]:
        """Return what was noted about keys."""
        return [note for note in self._notes if note.startswith(("user ", "keybag"))]

    def _add(self, number: int, volume: Volume) -> None:
        """Add the trees of a volume, if it can be read."""
        codec: Codec | None = None
        if volume.encrypted:
            found = self._cipher(number, volume)
            if found is False:
                return
            codec = found
        self.states.append(State(self.container, volume, None, number, codec))
        self._names.append(volume.label)
        for snapshot in snapshots_of(self.container, volume, self._notes):
            self.states.append(State(self.container, volume, snapshot, number, codec))
            self._names.append(f"{volume.label}@{snapshot.label}")

    def _cipher(self, number: int, volume: Volume) -> Codec | Literal[False] | None:
        """Return the cipher of an encrypted volume; None: it is plaintext after all; False: it is locked."""
        if self._reads(number, volume, None):
            self._notes.append(f"volume {volume.label} says that it is encrypted, and its records are not")
            return None
        if not self.container.head.flags & CRYPTO_SW:
            self._hardware.append(volume.label)
            self._notes.append(f"volume {volume.label}: encrypted with keys in the machine's hardware")
            return False
        keys = keys_of(self.container, volume.uuid, self._notes)
        if self._options.keys:
            if self._trials is None:
                from imgfs.backends.apfs.keys import Trials

                self._trials = Trials(self._options.keys, self._notes)
            for codec in self._trials.codecs(keys, volume.uuid):
                if self._reads(number, volume, codec):
                    self._opened += 1
                    return codec
        self._locked.append(volume.label)
        for user in keys.users:
            self._protectors.append(user.protector(f"{number}.{len(self._protectors)}"))
        return False

    def _reads(self, number: int, volume: Volume, codec: Codec | None) -> bool:
        """Say whether records of a volume can be read with a cipher: their checksums tell."""
        try:
            state = State(self.container, volume, None, number, codec)
            return state.catalog.item(ROOT).inode.number == ROOT
        except (EvidenceError, NotFound):
            return False

    def info(self) -> FilesInfo:
        """Return what the container says of itself."""
        head = self.container.head
        if len(self.states) > _MOST:
            self._notes.append(f"{len(self.states)} trees: the first {_MOST} are shown")
            del self.states[_MOST:]
        trees, room = [], _WORDS
        for index, name in enumerate(self._names[:_MOST]):
            room -= len(name)
            fits = room > 0 and len(name.encode()) + 2 * name.count("/") <= _NAME
            trees.append(TreeInfo(name if fits else f"tree-{index}", ROOT))
        return FilesInfo(
            type="apfs",
            trees=tuple(trees),
            block=head.block,
            size=min(head.block * head.count, limits.MAX_SIZE),
            label=self._volumes[0].label if len(self._volumes) == 1 else "",
            uuid=str(UUID(bytes=head.uuid)),
            notes=_bounded(self._notes),
        )


def _bounded(notes: list[str]) -> tuple[str, ...]:
    """Return notes as far as there is room for them."""
    kept, room = [], _NOTES
    for note in notes:
        room -= len(note[:_NOTE])
        if room < 0:
            kept.append("and more")
            break
        kept.append(note[:_NOTE])
    return tuple(kept)
