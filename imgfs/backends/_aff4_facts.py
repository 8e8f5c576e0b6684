"""What the examiner and the tool wrote beside the image: case, device, tool, digests.

Source: AFF4 Standard v1.0a, sections 1 and 6; the properties of the AFF4 reference images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._aff4_turtle import Literal
from imgfs.backends._aff4_volume import local

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends._aff4_volume import Volume

_LINEAR: Final = {"md5": "md5", "sha1": "sha1", "sha256": "sha256", "sha512": "sha512", "blake2b": "blake2b"}
_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "blake2b": 128}
_TOLD: Final = {
    "CaseDetails",
    "CaseNotes",
    "caseNotes",
    "TimeStamps",
    "timeStamps",
    "Tool",
    "ComputeResource",
}
_SKIPPED: Final = {"type", "stored", "target", "contains", "datastream", "interface", "hash", "queries"}
_MAX_FACTS: Final = 300
_MAX_TEXT: Final = 2000  # characters of one value


def digests(volume: Volume, subjects: Sequence[str]) -> dict[str, str]:
    """Return the stored digests of the linear bytes of these objects, the first one's word wins."""
    found: dict[str, str] = {}
    for subject in subjects:
        for kind, value in hashes(volume, subject):
            name = _LINEAR.get(kind.lower(), "")
            if name and len(value) == _DIGITS[name]:
                found.setdefault(name, value.lower())
    return found


def hashes(volume: Volume, subject: str) -> Iterator[tuple[str, str]]:
    """Return kind and value of the hashes of an object, whatever they are of."""
    for term in volume.get(subject, "hash"):
        if (
            isinstance(term, Literal)
            and term.value
            and all(c in "0123456789abcdefABCDEF" for c in term.value)
        ):
            yield local(term.datatype) or "hash", term.value


def other_hashes(volumes: Sequence[Volume], known: Sequence[str]) -> list[str]:
    """Say which further hashes there are, which no reading of the whole media can compare."""
    kinds: dict[str, int] = {}
    for volume in volumes:
        for subject, properties in volume.objects.items():
            for kind, _ in hashes(volume, subject):
                if subject not in known or kind.lower() not in _LINEAR:
                    kinds[kind] = kinds.get(kind, 0) + 1
            for name in properties:
                if name != "hash" and name.endswith("hash"):
                    kinds[name] = kinds.get(name, 0) + 1
    if not kinds:
        return []
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items())[:40])
    return [f"hashes of streams, maps and blocks are stored and not compared: {listed}"]


def facts(volumes: Sequence[Volume], image: str) -> dict[str, str]:
    """Return what is said of the image, the case and the acquisition; names tell the kind of object."""
    found: dict[str, str] = {}
    for volume in volumes:
        _add(found, "volume", volume.arn)
        for key, value in volume.version.items():
            _add(found, key, value)
        for name, value in _values(volume, image):
            _add(found, name, value)
    _add(found, "image", image)
    for volume in volumes:
        for subject in volume.objects:
            for kind in sorted(volume.types(subject) & _TOLD):
                for name, value in _values(volume, subject):
                    _add(found, f"{kind}.{name}", value)
    return found


def _values(volume: Volume, subject: str) -> Iterator[tuple[str, str]]:
    for name, terms in volume.objects.get(subject, {}).items():
        if name not in _SKIPPED and not name.endswith("hash"):
            for term in terms:
                if isinstance(term, Literal) and term.value:
                    yield volume.spelled.get(name, name), term.value


def _add(found: dict[str, str], name: str, value: str) -> None:
    """Keep a value; a second, different one of the same name gets a number."""
    name, value = name[:100], value[:_MAX_TEXT]
    if not value or len(found) >= _MAX_FACTS:
        return
    number, key = 1, name
    while key in found and found[key] != value and number < 50:
        number += 1
        key = f"{name} {number}"
    found.setdefault(key, value)
