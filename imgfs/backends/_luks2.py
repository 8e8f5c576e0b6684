"""LUKS version 2: two binary headers with JSON, whichever is newer and whole.

Source: LUKS2 On-Disk Format Specification 1.1.1: sections 2 (binary header, checksum over the header with the
checksum field zero, and the JSON area), 3 (JSON objects), 4 (requirements).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._luks import KINDS, NULL, Slot, codec, found
from imgfs.errors import EvidenceError, Malformed, NeedKey, NotMine, NotSupported
from imgfs.model import Enciphered, Linear, Protector, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Options, Reader
    from imgfs.model import Layout

MAGIC: Final = b"LUKS\xba\xbe"
MAGIC_2: Final = b"SKUL\xba\xbe"
SECONDS: Final = (0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000)
_HEADER: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")  # 512 bytes of 4096
_BINARY: Final = 4096
_SUM_AT: Final = 448
_SLOTS_MOST: Final = 32
_SEGMENTS_MOST: Final = 32


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of the header that is whole."""

    sequence: int
    label: str
    uuid: str
    at: int
    area: dict[str, Any]


def copies(reader: Reader) -> tuple[list[Copy], list[str]]:
    """Return the copies that are whole, newest first, and what is wrong with others."""
    good: list[Copy] = []
    said: list[str] = []
    for at in (0, *SECONDS):
        try:
            good.append(_copy(reader, at))
        except NotMine:
            continue
        except EvidenceError as why:
            said.append(f"header at {at}: {why}")
    good.sort(key=lambda one: (-one.sequence, one.at))
    return good, said


def _copy(reader: Reader, at: int) -> Copy:
    if at + _BINARY > reader.size or reader.read(at, 6) != (MAGIC if at == 0 else MAGIC_2):
        raise NotMine("luks")
    raw = bytearray(reader.read(at, _BINARY))
    fields = _HEADER.unpack_from(raw)
    _, version, size, sequence, label, algorithm, _, uuid, _, offset, _, checksum = fields
    if version != 2 or offset != at or size not in SECONDS:
        raise Malformed(f"version {version}, {size} bytes, said to lie at {offset}")
    name = _text(algorithm)
    raw[_SUM_AT : _SUM_AT + 64] = bytes(64)
    area = reader.read(at + _BINARY, size - _BINARY)
    try:
        summed = hashlib.new(name, bytes(raw) + area).digest()
    except ValueError:
        raise Malformed(f"checksum {name!r}") from None
    if summed != checksum[: len(summed)]:
        raise Malformed("checksum", start=at, stop=at + size)
    try:
        told = json.loads(area.split(b"\0")[0])
    except (ValueError, RecursionError) as why:
        raise Malformed(f"JSON: {why}") from None
    if not isinstance(told, dict):
        raise Malformed("JSON: no object")
    return Copy(sequence, _text(label), _text(uuid), at, told)


def open_2(reader: Reader, options: Options, header: Reader | None = None) -> VolumeTable:
    """Open a volume with the analyst's keys; ``header``: where it lies, if apart.

    Raises:
        NeedKey: none of them opens it.
        NotSupported: with integrity, or a cipher that is not known.
        Malformed: no copy of the header is whole.
    """
    good, said = copies(header or reader)
    if not good:
        raise Malformed("; ".join(said) or "no header")
    copy = good[0]
    if len(good) == 1:
        said.append("one copy of the header is missing" if not said else "read from the other copy")
    try:
        return _opened(reader, header or reader, options, copy, said)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error) as why:
        raise Malformed(f"JSON of the header: {type(why).__name__}: {why}") from None


def _opened(data: Reader, reader: Reader, options: Options, copy: Copy, said: list[str]) -> VolumeTable:
    area = copy.area
    segments = _segments(area, said)
    slots = _slots(area, options.threads)
    digests = list(area.get("digests", {}).values())[:_SLOTS_MOST]
    protectors = [Protector(str(s.number), "password|keyfile", "", s.cost) for s in slots]
    protectors += [
        Protector(f"token {number}", str(token.get("type", ""))[:60])
        for number, token in list(area.get("tokens", {}).items())[:_SLOTS_MOST]
    ]

    def right(key: bytes) -> bool:
        return any(_matches(row, key) for row in digests)

    secrets = [one.value for one in options.keys if one.kind in ("password", "keyfile")]
    key = next((k.value for k in options.keys if k.kind == "volume-key" and right(k.value)), None)
    key = key or found(reader, slots, secrets, right, said)
    first = segments[0]
    what = f"{first['encryption']}, sectors of {first.get('sector_size', 512)}"
    if key is None:
        raise NeedKey(
            "; ".join([f"LUKS2, {what}, {len(slots)} slots", *said]),
            kinds=KINDS,
            protectors=tuple((p.slot, p.kind, p.id, p.cost) for p in protectors),
            memory=max((slot.memory for slot in slots), default=0) * 1024,
        )
    layouts, size = _layouts(data, segments, key)
    volume = Volume(
        slot=1,
        kind=SlotKind.ALLOCATED,
        start=0,
        stop=size,
        type_name="plaintext",
        layout=len(layouts) - 1,
    )
    return VolumeTable(
        scheme="luks",
        version=f"2, {what}",
        sector=512,
        volumes=(volume,),
        layouts=tuple(layouts),
        uuid=copy.uuid,
        label=copy.label,
        protectors=tuple(protectors),
        notes=tuple(said),
    )


def _segments(area: dict[str, Any], said: list[str]) -> list[dict[str, Any]]:
    """Return the segments of the volume in order.

    Raises:
        NotSupported: one has integrity, or is being re-encrypted.
    """
    rows = sorted(((int(n), row) for n, row in area["segments"].items()), key=lambda pair: pair[0])
    if not 0 < len(rows) <= _SEGMENTS_MOST:
        raise Malformed(f"{len(rows)} segments")
    shown = []
    for _, row in rows:
        flags = row.get("flags", [])
        if any(flag.startswith("backup-") for flag in flags):
            continue
        if "in-reencryption" in flags:
            raise NotSupported("LUKS2: a re-encryption was interrupted in this segment")
        if row["type"] not in ("crypt", "linear"):
            raise NotSupported(f"LUKS2: segment of type {row['type'][:40]!r}")
        if row.get("integrity"):
            kind = row["integrity"].get("type", "")[:40]
            raise NotSupported(f"LUKS2 with integrity ({kind}): dm-integrity is not read")
        shown.append(row)
    requirements = area.get("config", {}).get("requirements", {}).get("mandatory", [])
    said += [f"needs {str(name)[:60]}" for name in requirements[:16]]
    return shown


def _slots(area: dict[str, Any], threads: int) -> list[Slot]:
    """Return the slots that a passphrase may open, those preferred first."""
    slots = []
    for number, row in list(area["keyslots"].items())[:_SLOTS_MOST]:
        if row["type"] != "luks2":
            continue
        kdf, place, splitter = row["kdf"], row["area"], row["af"]
        salt = base64.b64decode(kdf["salt"])
        slots.append(
            (
                -int(row.get("priority", 1)),
                Slot(
                    number=int(number),
                    key=int(row["key_size"]),
                    at=int(place["offset"]),
                    stripes=int(splitter["stripes"]),
                    digest=str(splitter["hash"]),
                    cipher=str(place["encryption"]),
                    area_key=int(place["key_size"]),
                    derive=_derive(kdf, salt, int(place["key_size"]), threads),
                    cost=_cost(kdf),
                    memory=int(kdf.get("memory", 0)),
                ),
            )
        )
    return [slot for _, slot in sorted(slots, key=lambda pair: (pair[0], pair[1].number))]


def _derive(kdf: dict[str, Any], salt: bytes, length: int, threads: int) -> Callable[[bytes], bytes]:
    def derive(secret: bytes) -> bytes:
        from imgfs.backends import _kdf

        if kdf["type"] == "pbkdf2":
            return _kdf.pbkdf2(str(kdf["hash"]), secret, salt, int(kdf["iterations"]), length)
        return _kdf.argon2(
            str(kdf["type"]),
            secret,
            salt,
            time=int(kdf["time"]),
            memory=int(kdf["memory"]),
            lanes=int(kdf["cpus"]),
            length=length,
            threads=threads,
        )

    return derive


def _cost(kdf: dict[str, Any]) -> str:
    if kdf["type"] == "pbkdf2":
        return f"pbkdf2-{str(kdf['hash'])[:20]}, {int(kdf['iterations'])} iterations"
    return (
        f"{str(kdf['type'])[:20]}, {int(kdf['time'])} iterations, {int(kdf['memory'])} KiB,"
        f" {int(kdf['cpus'])} lanes"
    )


def _matches(row: dict[str, Any], key: bytes) -> bool:
    from imgfs.backends import _kdf

    expected, salt = base64.b64decode(row["digest"]), base64.b64decode(row["salt"])
    return _kdf.pbkdf2(str(row["hash"]), key, salt, int(row["iterations"]), len(expected)) == expected


def _layouts(reader: Reader, segments: list[dict[str, Any]], key: bytes) -> tuple[list[Layout], int]:
    """Return the layouts of the segments, and one that puts them together where there are several."""
    layouts: list[Layout] = []
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    total = 0
    tickets = 1 + len(reader.others)
    for row in segments:
        at, sector = int(row["offset"]), int(row.get("sector_size", 512))
        room = max(reader.size - at, 0)
        size = room if row["size"] == "dynamic" else int(row["size"])
        plain = row["type"] == "linear" or str(row["encryption"]).startswith(NULL)
        if sector not in (512, 1024, 2048, 4096) or at < 0 or size < 0:
            raise Malformed(f"a segment of {size} bytes at {at} in sectors of {sector}")
        there = min(size, room) // sector * sector
        if there:
            runs.append((total, there, at if plain else 0))
            which.append(0 if plain else tickets + len(layouts))
        if there and not plain:
            how = codec(str(row["encryption"]), key)
            first, step = int(row.get("iv_tweak", 0)), sector // 512
            layouts.append(Enciphered(size=there, sector=sector, codec=how, first=first, step=step, base=at))
        total += size // sector * sector
    if len(layouts) == 1 and len(runs) == 1 and total == runs[0][1]:
        return layouts, total
    return [*layouts, Linear.of(total, runs, which)], total


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace")
