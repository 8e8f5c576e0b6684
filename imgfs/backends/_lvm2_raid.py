"""RAID volumes: pairs of hidden volumes, an image and what device-mapper noted about it.

The notes (dm-raid superblocks) say which images had failed, were being rebuilt, or are older than the others:
their bytes are solved from the rest, or lost. Without notes all images count as good, as for a new array.

Source: lvmraid(7); kernel documentation admin-guide/device-mapper/dm-raid.rst (types, parameters, what the
metadata devices are for); the field order of the superblock by comparing what a kernel wrote.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._lvm2_bodies import merged
from imgfs.backends._lvm2_content import Content
from imgfs.backends._lvm2_label import SECTOR
from imgfs.backends._lvm2_mirror import first_of, limited
from imgfs.backends._md_bitmap import ranges
from imgfs.backends._stripes import copies, deal, parity, plain
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Body, Range
    from imgfs.backends._lvm2_group import Segment
    from imgfs.backends._lvm2_volumes import Volumes

_SUPERBLOCK: Final = struct.Struct("<4sIIIQQQQIIIIQIIIIQQQ")
_MAGIC: Final = b"DmRd"
_EXTENDED: Final = 1  # of the features: the fields behind the flags mean something
_RESHAPING: Final = 1
_ALL: Final = (1 << 64) - 1
_BITMAP: Final = struct.Struct("<4sI16sQQQII")  # magic, version, array, events, cleared, size, state, chunk
_BITMAP_AT: Final = 4096  # of a metadata volume
_BITS_AT: Final = 256  # of a bitmap
_BITS: Final = 1 << 24
_PARITY_FIRST: Final = 4
_IMAGES: Final = 64  # the most that the tools make
_DEFAULTS: Final = {"raid5": "raid5_ls", "raid6": "raid6_zr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What one metadata volume says. Units: ``recovered``, ``synced`` and ``offset`` bytes; -1: all."""

    place: int
    events: int
    failed: int
    recovered: int
    synced: int
    reshaping: bool
    offset: int
    form: tuple[int, int]  # level and layout, as md numbers them


def body(volumes: Volumes, name: str, segment: Segment) -> Body:
    """Return the bytes of a RAID segment.

    Raises:
        EvidenceError: nothing can be said of them.
    """
    kind = _DEFAULTS.get(segment.kind, segment.kind)
    images, metas = _members(segment, kind)
    notes = [_note(volumes, name, meta) for meta in metas]
    bodies = [volumes.body(image) for image in images]
    if any(note is not None and note.reshaping for note in notes):
        raise Malformed("it was being reshaped: where its parts lie is not known")
    offsets = {note.offset for note in notes if note is not None}
    if len(offsets) > 1 or max(offsets, default=0) > limits.MAX_SIZE:
        raise Malformed(f"its images begin at {sorted(offsets)}")
    offset = offsets.pop() if offsets else 0
    if offset:
        volumes.say(name, f"it was reshaped: its images begin at {offset}")
        bodies = [volumes.part(image, offset, image.size - offset) for image in bodies]
    bodies = _trusted(volumes, name, bodies, notes)
    missing = [image for image, each in zip(images, bodies, strict=True) if each.lost()]
    if missing:
        volumes.say(name, f"{kind} without all of {', '.join(missing[:16])}")
    if kind == "raid1":
        images_1 = [volumes.part(each, 0, segment.length) for each in bodies]
        return first_of(volumes, segment.length, _kept(images_1))
    chunk = segment.sectors("stripe_size")
    if kind in ("raid0", "raid0_meta"):
        pattern = plain(len(bodies))
    elif kind in ("raid10", "raid10_near"):
        pattern = copies(len(bodies), segment.number("data_copies", 2))
    else:
        pattern = parity(_first_parity(kind, notes), len(bodies))
    disks = [volumes.disk(each) for each in bodies]
    if not missing or not kind.startswith(("raid4", "raid5", "raid6")):
        return deal(volumes.stack, segment.length, chunk, disks, pattern)
    unsure = _unsure(volumes, name, metas, notes, size=bodies[0].size)
    return deal(volumes.stack, segment.length, chunk, disks, pattern, unsure)


def _members(segment: Segment, kind: str) -> tuple[list[str], list[str]]:
    """Return the names of the images, and of what is noted about them."""
    if "raid0_lvs" in segment.section:
        images, metas = segment.names("raid0_lvs"), []
    else:
        names = segment.names("raids")
        images, metas = names[1::2], names[::2]
        if len(images) != len(metas):
            raise Malformed(f"{len(names)} parts of a {kind}")
    count = segment.number("device_count", segment.number("stripe_count", len(images)))
    if not 0 < len(images) <= _IMAGES or count != len(images):
        raise Malformed(f"{len(images)} images, {count} are declared")
    return images, metas


def _note(volumes: Volumes, name: str, meta: str) -> Note | None:
    try:
        content = Content(volumes.stack, volumes.body(meta))
        raw = content.read(0, 512)
    except EvidenceError:
        return None  # its image is gone with it, or is the same without it
    fields = _SUPERBLOCK.unpack_from(raw)
    magic, features, _, place, events, failed, recovered, synced, level, layout, _, flags = fields[:12]
    if magic != _MAGIC:
        if raw.count(0) < len(raw):
            volumes.say(name, f"{meta} holds no notes of a RAID")
        return None
    if not features & _EXTENDED:
        flags, offset = 0, 0
    else:
        offset = fields[18]
    return Note(
        place=place,
        events=events,
        failed=failed,
        recovered=-1 if recovered == _ALL else recovered * SECTOR,
        synced=-1 if synced == _ALL else synced * SECTOR,
        reshaping=bool(flags & _RESHAPING),
        offset=offset * SECTOR,
        form=(level, layout),
    )


def _trusted(volumes: Volumes, name: str, bodies: list[Body], notes: list[Note | None]) -> list[Body]:
    """Return the images with what is not to be trusted of them as lost."""
    told = [note for note in notes if note is not None]
    if not told:
        return bodies
    newest = max(note.events for note in told)
    failed = 0
    for each in told:
        if each.events == newest:
            failed |= each.failed
    found = list(bodies)
    for number, note in enumerate(notes):
        ranges: list[Range] | None = None
        if failed >> number & 1:
            volumes.say(name, f"image {number} had failed")
            ranges = []
        elif note is not None and note.place != number:
            volumes.say(name, f"image {number} is noted as image {note.place}")
            ranges = []
        elif note is not None and note.events + 1 < newest:
            volumes.say(name, f"image {number} is older than the others: {note.events} of {newest} events")
            ranges = []
        elif note is not None and note.recovered >= 0:
            volumes.say(name, f"image {number} was being rebuilt and is good up to {note.recovered}")
            ranges = [(0, min(note.recovered, bodies[number].size))] if note.recovered else []
        if ranges is not None:
            found[number] = limited(bodies[number], ranges)
    return found


def _first_parity(kind: str, notes: list[Note | None]) -> str:
    """Return the layout of a RAID 4: whatever its documentation says, kernels put the parity first.

    Some put it last: level and layout of the notes tell.
    """
    if kind != "raid4":
        return kind
    forms = {note.form for note in notes if note is not None}
    if len(forms) > 1:
        raise Malformed(f"its images disagree about the layout: {sorted(forms)}")
    last = bool(forms) and forms.pop() != (5, _PARITY_FIRST)
    return "raid5_n" if last else "raid5_0"


def _kept(images: list[Body]) -> list[Body]:
    """Return the images in order, but those that are whole first: no seam where none is needed."""
    return sorted(images, key=lambda image: bool(image.lost()))


def _unsure(
    volumes: Volumes, name: str, metas: list[str], notes: list[Note | None], *, size: int
) -> list[Range]:
    """Return the ranges of the images where parity may not fit the data, so that nothing is solved.

    They are those that had not been synchronised yet, and those in the middle of a write: the bitmap says so.
    While an image is known to have failed its bits stay set, and mean nothing of the kind.
    """
    told = [(meta, note) for meta, note in zip(metas, notes, strict=True) if note is not None]
    unsynced = min((note.synced for _, note in told if note.synced >= 0), default=size)
    found = [(unsynced, size)] if unsynced < size else []
    if found:
        volumes.say(name, f"its parity had been made up to {unsynced} of each image")
    newest = max((note.events for _, note in told), default=0)
    for meta, note in told:
        if note.events == newest and not note.failed:
            dirty = _dirty(volumes, meta, size)
            if dirty:
                volumes.say(
                    name, f"it was not closed: parity of {len(dirty)} ranges of each image may be older"
                )
            return merged([*found, *dirty])
    return found


def _dirty(volumes: Volumes, meta: str, size: int) -> list[Range]:
    """Return the ranges whose bits are set; all, if the bitmap cannot be read."""
    try:
        content = Content(volumes.stack, volumes.body(meta))
        magic, version, _, _, _, _, _, chunk = _BITMAP.unpack(content.read(_BITMAP_AT, _BITMAP.size))
        count = -(-size // chunk) if chunk else 0
        if magic != b"bitm" or version not in (3, 4) or not 0 < count <= _BITS:
            raise Malformed("no bitmap")
        raw = content.read(_BITMAP_AT + _BITS_AT, -(-count // 8))
    except EvidenceError:
        return [(0, size)]
    bits = int.from_bytes(raw, "little") & (1 << count) - 1
    return [(start, min(stop, size)) for start, stop in ranges(f"{bits:b}"[::-1], chunk)]
