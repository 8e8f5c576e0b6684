"""AFF4: disk and memory images in ZIP volumes, of the standard and of before it.

Chunks are units the daemon decodes; the map lies over them as runs. What the image says is unknown or
unreadable is lost, never zeros. A stripe of an image in several volumes finds the others beside it.

Source: AFF4 Standard v1.0a (aff4.org), the AFF4 reference images.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._aff4_facts import digests, facts, other_hashes
from imgfs.backends._aff4_plan import Plan
from imgfs.backends._aff4_targets import Targets
from imgfs.backends._aff4_turtle import Literal
from imgfs.backends._aff4_volume import ENCRYPTED, FILES, LEGACY, MAPS, STREAMS, open_volumes
from imgfs.backends._aff4_zip import MAGIC
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import LOST, Media, plain

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._aff4_plan import Target
    from imgfs.backends._aff4_volume import Volume

_SECTORS: Final = (512, 1024, 2048, 4096)
_STRIPES: Final = 32  # volumes of one image that are looked for beside it
_NUMBER: Final = re.compile(r"(\D*)([0-9]+)(.*)")  # backwards: the last number


def open_aff4(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the first image of a volume, with the streams of further volumes at hand.

    Raises:
        NotMine: no volume of AFF4, or one of files (see ``aff4l``).
        NotSupported: encrypted.
        Malformed: without its statements, or without any image.
    """
    notes: list[str] = []
    volumes = open_volumes(reader, notes)
    image, streams = _image(volumes[0], notes)
    tickets = 1 + len(reader.others)
    plan = Plan(tickets)
    targets = Targets(volumes, plan, notes)
    whole = _whole(volumes, image, streams, targets)
    if whole.base == LOST or not whole.follows:
        if targets.missing or "encrypted" not in whole.why:
            raise Malformed(f"no byte of the image {image[:200]} can be had: {whole.why or 'it is empty'}")
        raise NotSupported(f"AFF4 with {whole.why}")
    whole = targets.last(whole, tickets, whole.size)
    layouts = plan.layouts(reader)
    described = (image, *streams)
    missing = list(dict.fromkeys(targets.missing))
    notes += [f"stream {urn[:200]} is in none of the volumes at hand" for urn in missing[:10]]
    notes += other_hashes(volumes, described)
    state = volumes[0].one(image, "acquisitioncompletionstate")
    if state not in ("", "Completed Normally"):
        notes.append(f"the acquisition says of its end: {state[:200]}")
    sector = volumes[0].number(image, "blocksize") or 512
    stored: dict[str, str] = {}
    for volume in reversed(volumes):
        stored |= digests(volume, described)
    return Media(
        layouts=layouts,
        sector=sector if sector in _SECTORS else 512,
        version=_version(volumes[0]),
        metadata=facts(volumes, image),
        digests=stored,
        lost=tuple(targets.lost(whole.which)),
        notes=tuple(dict.fromkeys(notes))[:200],
        wants=_wants(volumes) if missing else (),
    )


def _image(volume: Volume, notes: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the image of a volume and the streams that may be its bytes, the best first.

    Raises:
        NotMine, NotSupported, Malformed: as ``open_aff4``.
    """
    found: list[tuple[int, str, tuple[str, ...]]] = []
    files = encrypted = 0
    for subject, properties in volume.objects.items():
        types = volume.types(subject)
        if types & FILES or "originalfilename" in properties or "pathname" in properties:
            files += 1
            continue
        streams = tuple(term for term in properties.get("datastream", ()) if isinstance(term, str))
        if any(t.endswith("Image") for t in types) and (streams or types & (MAPS | STREAMS)):
            found.append((0, subject, streams or (subject,)))
        elif types & MAPS:
            found.append((1 if "category" in properties else 2, subject, (subject,)))
        elif types & STREAMS:
            found.append((3, subject, (subject,)))
        encrypted += bool(types & ENCRYPTED)
    if files and not any(rank < 2 for rank, _, _ in found):
        raise NotMine("aff4: files, no disk")
    if not found:
        if encrypted:
            raise NotSupported(
                "encrypted AFF4: imgfs cannot read it yet; its password or certificate opens it"
            )
        raise Malformed("a volume of AFF4 without an image")
    best = min(found, key=lambda row: row[0])
    others = [subject for rank, subject, _ in found if rank == best[0] and subject != best[1]]
    if others:
        notes.append(f"further images in the volume are not shown: {', '.join(others)[:1000]}")
    if files:
        notes.append(f"{files} logical files beside the image are not shown")
    return best[1], best[2]


def _whole(volumes: list[Volume], image: str, streams: tuple[str, ...], targets: Targets) -> Target:
    """Return the bytes of the image: of this volume's map, or of another volume's if that is damaged."""
    more = [term for v in volumes[1:] for term in v.get(image, "datastream") if isinstance(term, str)]
    found = [targets.target(urn) for urn in dict.fromkeys((*streams, *more))]
    return next((target for target in found if target.base != LOST and target.follows), found[0])


def _version(volume: Volume) -> str:
    if "major" in volume.version:
        return f"{volume.version['major']}.{volume.version.get('minor', '0')}"[:100]
    early = any(
        term.startswith(LEGACY)
        for properties in volume.objects.values()
        for term in properties.get("type", ())
        if isinstance(term, str)
    )
    return "before the standard" if early else ""


def _wants(volumes: list[Volume]) -> tuple[str, ...]:
    """Name host files that may hold what is missing: volumes named inside, and stripes by their number."""
    names: dict[str, None] = {}
    for volume in volumes:
        for subject in volume.objects:
            for term in volume.get(subject, "stored"):
                if isinstance(term, Literal) and plain(term.value):
                    names[term.value] = None
    stem, dot, suffix = volumes[0].name.rpartition(".")
    number = _NUMBER.fullmatch(stem[::-1])
    if dot and number is not None:
        tail, digits, head = (part[::-1] for part in number.groups())
        for stripe in range(_STRIPES):
            names[f"{head}{stripe:0{len(digits)}d}{tail}.{suffix}"] = None
    names.pop(volumes[0].name, None)
    return tuple(name for name in names if plain(name) and len(name) <= limits.MAX_NAME)[: 2 * _STRIPES]


BACKEND = Backend(
    name="aff4",
    title="AFF4",
    role=Role.MEDIA,
    rank=30,
    signatures=(Signature(0, MAGIC),),
    open=open_aff4,
    imports=("lz4", "cramjam"),
    supports="standard 1.0 and before it; maps, symbolic streams, unknown and unreadable ranges as LOST; "
    "snappy, LZ4, deflate, zlib; stripes beside the image; stored digests",
    truth=("composed", "corpus"),
)
