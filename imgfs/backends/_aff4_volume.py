"""A volume of AFF4: one archive, what it says of its objects, and where their segments are.

Source: AFF4 Standard v1.0a, sections 1, 2 and 5; names of before the standard as pyaff4 (Apache-2.0) lists
them in lexicon.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from imgfs import limits
from imgfs.backends._aff4_turtle import RDF_TYPE, Literal, parse
from imgfs.backends._aff4_zip import MAGIC, Archive
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._aff4_turtle import Term
    from imgfs.backends._aff4_zip import Segment

STANDARD: Final = "http://aff4.org/Schema#"
LEGACY: Final = "http://afflib.org/2009/aff4#"
SCHEME: Final = "aff4://"
STREAMS: Final = frozenset({"ImageStream", "stream", "image"})
MAPS: Final = frozenset({"Map", "map"})
FILES: Final = frozenset({"FileImage"})
FOLDERS: Final = frozenset({"FolderImage", "Folder"})
ENCRYPTED: Final = frozenset({"EncryptedStream", "RandomAccessImageStream"})
_DESCRIPTION: Final = "container.description"
_INFORMATION: Final = "information.turtle"
_VERSION: Final = "version.txt"
_ESCAPED_SCHEME: Final = "aff4%3a%2f%2f"
_MAX_INFORMATION: Final = 64 * limits.MIB  # 60,000 files of a logical image
_NUMBER: Final = re.compile(r"\+?([0-9]{1,19})")

Properties = dict[str, list["Term"]]


def local(iri: str) -> str:
    """Return the name of an IRI of the AFF4 schema, of either time; empty: it is another one."""
    for space in (STANDARD, LEGACY):
        if iri.startswith(space):
            return iri[len(space) :]
    return ""


class Volume:
    """One archive. ``objects`` holds properties by subject, their names folded: ``chunksize``.

    ``spelled`` has the names as they were written.
    """

    __slots__ = (
        "_canonical",
        "archive",
        "arn",
        "name",
        "notes",
        "objects",
        "reader",
        "spelled",
        "ticket",
        "version",
    )

    def __init__(self, reader: Reader, ticket: int) -> None:
        """Read the directory and the statements.

        Raises:
            NotMine: no archive, or one that is no volume of AFF4.
            Malformed: a volume without statements.
        """
        if reader.size < len(MAGIC) or reader.read(0, len(MAGIC)) != MAGIC:
            raise NotMine("aff4")
        try:
            self.archive = Archive(reader)
        except EvidenceError as why:
            raise NotMine("aff4") from why
        self.reader = reader
        self.ticket = ticket
        self.name = reader.name
        self.notes = list(self.archive.notes)
        segments = self.archive.segments
        comment = self.archive.comment.split(b"\0")[0].decode("utf-8", "replace").strip()
        if not ({_DESCRIPTION, _INFORMATION} & segments.keys() or comment.startswith(SCHEME)):
            raise NotMine("aff4")
        self._canonical: dict[str, Segment] = {}
        for name, segment in segments.items():
            self._canonical.setdefault(_canonical(name), segment)
        self.objects: dict[str, Properties] = {}
        self.spelled: dict[str, str] = {}
        self._information()
        described = self._text(_DESCRIPTION).strip()
        self.arn = next((arn for arn in (described, comment, *self._volumes()) if arn.startswith(SCHEME)), "")
        pairs = (line.partition("=") for line in self._text(_VERSION).splitlines())
        self.version = {key.strip(): value.strip() for key, _, value in pairs if value}

    def _information(self) -> None:
        segment = self.archive.segments.get(_INFORMATION)
        if segment is None:
            raise Malformed("a volume of AFF4 without information.turtle: cut short?")
        try:
            raw = self.archive.read(segment, _MAX_INFORMATION)
        except EvidenceError as why:
            raw = self.archive.unchecked(segment, _MAX_INFORMATION)
            self.notes.append(f"information.turtle is damaged: {why}")
        statements, said = parse(raw.decode("utf-8", "replace").removeprefix("\ufeff"))
        self.notes += said
        folded: dict[str, str] = {}
        for subject, predicates in statements.items():
            properties: Properties = {}
            for predicate, objects in predicates.items():
                name = folded.get(predicate)
                if name is None:
                    name = local(predicate).replace("_", "").lower()
                    folded[predicate] = name = "type" if predicate == RDF_TYPE else name
                    self.spelled.setdefault(name, local(predicate))
                if name in properties:
                    properties[name] += objects
                elif name:
                    properties[name] = objects
            self.objects[subject] = properties

    def _volumes(self) -> list[str]:
        return [s for s in self.objects if self.types(s) & {"ZipVolume", "zip_volume"}]

    def _text(self, name: str) -> str:
        segment = self.archive.segments.get(name)
        if segment is None:
            return ""
        try:
            return self.archive.read(segment, 64 * limits.KIB).decode("utf-8", "replace")
        except EvidenceError as why:
            self.notes.append(f"{name}: {why}")
            return ""

    def types(self, subject: str) -> set[str]:
        """Return the types of an object that are of the AFF4 schema."""
        return {local(t) for t in self.get(subject, "type") if isinstance(t, str)}

    def get(self, subject: str, name: str) -> list[Term]:
        """Return the values of a property, by its folded name."""
        return self.objects.get(subject, {}).get(name, [])

    def one(self, subject: str, *names: str) -> str:
        """Return the first value of the first of these properties, as text; empty: there is none."""
        for name in names:
            for term in self.get(subject, name):
                return term.value if isinstance(term, Literal) else term
        return ""

    def number(self, subject: str, *names: str) -> int | None:
        """Return a number that is not negative, None: there is none."""
        found = _NUMBER.fullmatch(self.one(subject, *names).strip())
        return int(found[1]) if found is not None else None

    def find(self, urn: str, stored: str = "") -> Segment | None:
        """Return the segment of an object: below its volume, or named by its whole address (5.1, 5.2).

        ``stored`` is the volume the object says it is in, for archives that do not say who they are.
        """
        named = self.one(urn, "filename")
        below = [urn[len(arn) + 1 :] for arn in (self.arn, stored) if arn and urn.startswith(arn + "/")]
        for form in (named, *below, urn, urn.removeprefix(SCHEME)):
            if form:
                found = self.archive.segments.get(form) or self._canonical.get(_canonical(form))
                if found is not None:
                    return found
        return None


def _canonical(name: str) -> str:
    name = name.lstrip("/")
    if name[: len(_ESCAPED_SCHEME)].lower() == _ESCAPED_SCHEME:
        name = SCHEME + name[len(_ESCAPED_SCHEME) :]
    return unquote(name, errors="surrogateescape") if "%" in name else name


def open_volumes(reader: Reader, notes: list[str]) -> list[Volume]:
    """Read the first volume, and what further ones are at hand.

    Raises:
        NotMine, Malformed: the first is none, or is damaged.
    """
    volumes = [Volume(reader, 0)]
    for ticket, other in enumerate(reader.others, 1):
        try:
            volumes.append(Volume(other, ticket))
        except NotMine:
            notes.append(f"{other.name or ticket}: no volume of AFF4")
        except EvidenceError as why:
            notes.append(f"{other.name or ticket}: {why}")
    for volume in volumes:
        notes += volume.notes if not volume.ticket else [f"{volume.name}: {note}" for note in volume.notes]
    return volumes
