"""LUKS version 1: one header, eight slots, PBKDF2.

Source: LUKS1 On-Disk Format Specification 1.2.3, figure 1 and section 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends._luks import KINDS, NULL, Slot, codec, found
from imgfs.errors import Malformed, NeedKey
from imgfs.model import Enciphered, Linear, Protector, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Layout

_HEADER: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")  # 208 bytes, then the slots
_SLOT: Final = struct.Struct(">II32sII")
_SLOTS: Final = 8
_ACTIVE: Final = 0x00AC_71F3
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the header says. Units: ``key`` bytes, ``payload`` bytes from the start of the volume."""

    cipher: str
    digest: str
    payload: int
    key: int
    mk_digest: bytes
    salt: bytes
    rounds: int
    uuid: str
    slots: tuple[Slot, ...]


def read_header(reader: Reader) -> Header:
    """Read the header.

    Raises:
        Malformed: it contradicts itself.
    """
    from imgfs.backends import _kdf

    fields = _HEADER.unpack(reader.read(0, _HEADER.size))
    _, _, cipher, mode, name, payload, key, mk_digest, salt, rounds, uuid = fields
    digest = _text(name)
    spelled = f"{_text(cipher)}-{_text(mode)}"
    slots = []
    for number in range(_SLOTS):
        at = _HEADER.size + number * _SLOT.size
        active, iterations, slot_salt, offset, stripes = _SLOT.unpack(reader.read(at, _SLOT.size))
        if active != _ACTIVE:
            continue

        def derive(secret: bytes, salt: bytes = slot_salt, iterations: int = iterations) -> bytes:
            return _kdf.pbkdf2(digest, secret, salt, iterations, key)

        slots.append(
            Slot(
                number=number,
                key=key,
                at=offset * _SECTOR,
                stripes=stripes,
                digest=digest,
                cipher=spelled,
                area_key=key,
                derive=derive,
                cost=f"pbkdf2-{digest}, {iterations} iterations",
            )
        )
    if not 0 < key <= 128 or not digest:
        raise Malformed(f"a volume key of {key} bytes, digest {digest!r}")
    return Header(
        cipher=spelled,
        digest=digest,
        payload=payload * _SECTOR,
        key=key,
        mk_digest=mk_digest,
        salt=salt,
        rounds=rounds,
        uuid=_text(uuid),
        slots=tuple(slots),
    )


def open_1(data: Reader, options: Options, apart: Reader | None = None) -> VolumeTable:
    """Open a volume with the analyst's keys; ``apart``: where its header lies, if not at its start.

    Raises:
        NeedKey: none of them opens it.
        Malformed: the header contradicts itself.
    """
    from imgfs.backends import _kdf

    reader = apart or data
    header = read_header(reader)
    protectors = tuple(Protector(str(s.number), "password|keyfile", "", s.cost) for s in header.slots)

    def right(key: bytes) -> bool:
        length = len(key) == header.key
        return length and _kdf.pbkdf2(header.digest, key, header.salt, header.rounds, 20) == header.mk_digest

    said: list[str] = []
    secrets = [one.value for one in options.keys if one.kind in ("password", "keyfile")]
    key = next((k.value for k in options.keys if k.kind == "volume-key" and right(k.value)), None)
    key = key or found(reader, list(header.slots), secrets, right, said)
    if key is None:
        what = f"LUKS1, {header.cipher}, {len(header.slots)} of {_SLOTS} slots in use"
        raise NeedKey(
            "; ".join([what, *said]),
            kinds=KINDS,
            protectors=tuple((p.slot, p.kind, p.id, p.cost) for p in protectors),
        )
    size = max(data.size - header.payload, 0) // _SECTOR * _SECTOR
    layout: Layout
    if header.cipher.startswith(NULL):
        layout = Linear.of(size, [(0, size, header.payload)] if size else [])
    else:
        how = codec(header.cipher, key)
        layout = Enciphered(size=size, sector=_SECTOR, codec=how, base=header.payload)
    volume = Volume(slot=1, kind=SlotKind.ALLOCATED, start=0, stop=size, type_name="plaintext", layout=0)
    return VolumeTable(
        scheme="luks",
        version=f"1, {header.cipher}",
        sector=_SECTOR,
        volumes=(volume,),
        layouts=(layout,),
        uuid=header.uuid,
        protectors=protectors,
        notes=tuple(said),
    )


def _text(field: bytes) -> str:
    text = field.split(b"\0")[0].decode("ascii", "replace")
    if not text.isprintable():
        raise Malformed(f"a name of the header is {text!r}")
    return text
