"""What rows of formats that are named but not read have in common."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from imgfs.backends import Backend, Role, Signature
from imgfs.errors import EvidenceError, NotMine, NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Options, Reader

    Judge = Callable[[Reader], str]

_RANK: Final = 900  # behind everything that can be read
_NEEDS: Final = {
    Role.MEDIA: "convert it to raw first",
    Role.VOLUMES: "the volumes in it stay closed",
    Role.FILES: "its bytes are in volume.raw",
}


@dataclass(frozen=True, slots=True)
class Version:
    """A version number at a fixed place, ``major.minor`` for a form of two. Units: ``at`` bytes."""

    at: int
    form: str
    mask: int = -1


@dataclass(frozen=True, slots=True)
class Label:
    """A label at a fixed place, up to the first zero. Units: ``at`` and ``length`` bytes."""

    at: int
    length: int
    code: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Row:
    """What one recognised format declares besides its signatures."""

    title: str
    signatures: tuple[Signature, ...]
    needs: str
    version: Version | None
    label: Label | None
    judge: Judge | None
    suffix: tuple[str, ...]


def seen(reader: Reader, signature: Signature) -> bool:
    """Compare one signature with a source, as probing does."""
    at = signature.offset if signature.offset >= 0 else reader.size + signature.offset
    at -= at % signature.align
    if at < 0 or at + len(signature.magic) > reader.size:
        return False
    try:
        return reader.read(at, len(signature.magic)) == signature.magic
    except EvidenceError:
        return False


def at(offset: int, *magics: bytes, align: int = 1) -> tuple[Signature, ...]:
    """Return signatures of one place."""
    return tuple(Signature(offset, magic, align) for magic in magics)


def row(
    name: str,
    title: str,
    role: Role,
    *places: tuple[Signature, ...],
    needs: str = "",
    version: Version | None = None,
    label: Label | None = None,
    judge: Judge | None = None,
    suffix: tuple[str, ...] = (),
    exclusive: bool = True,
) -> Backend:
    """Declare a format that is named but not read.

    Args:
        name: the name its back-end will have one day: that one overrules this row.
        title: what users call it.
        role: what opening it would give.
        places: its signatures.
        needs: what the analyst can do about it.
        version: where its version lies.
        label: where its label lies.
        judge: says more about it, or raises NotMine.
        suffix: ends of the host file's name, one must fit; for formats that also occur as plain content.
        exclusive: False when something readable may lie on the same source.
    """
    signatures = tuple(signature for place in places for signature in place)
    facts = Row(title, signatures, needs or _NEEDS[role], version, label, judge, suffix)
    return Backend(
        name=name,
        title=title,
        role=role,
        rank=_RANK,
        open=partial(_refuse, facts),
        signatures=signatures,
        exclusive=exclusive,
        recognised=True,
    )


def _refuse(facts: Row, reader: Reader, options: Options) -> NoReturn:
    del options
    if not any(seen(reader, signature) for signature in facts.signatures):
        raise NotMine(facts.title)
    if facts.suffix and not reader.name.lower().endswith(facts.suffix):
        raise NotMine(f"{facts.title}: no container by its name")
    words = [facts.title]
    if facts.version is not None:
        words.append("version " + _version(reader, facts.version))
    if facts.judge is not None and (said := facts.judge(reader)):
        words.append(said)
    if facts.label is not None and (said := quoted(reader, facts.label)):
        words.append(said)
    raise NotSupported(f"{' '.join(words)}: imgfs cannot read it yet; {facts.needs}")


def _version(reader: Reader, version: Version) -> str:
    raw = reader.read(version.at, struct.calcsize(version.form))
    return ".".join(str(number & version.mask) for number in struct.unpack(version.form, raw))


def quoted(reader: Reader, label: Label) -> str:
    """Return a label in quotes; empty: there is none."""
    raw = reader.read(label.at, label.length)
    text = raw.decode(label.code, "backslashreplace").partition("\0")[0].strip()
    return f'"{text}"' if text else ""
