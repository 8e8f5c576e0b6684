"""BitLocker: volumes of Windows that a password, a recovery password, a start-up key or a clear key opens.

The worker finds the key and says what is ciphertext; the daemon decrypts, sector by sector, in its pool.
Sources: see ``_bde``, ``_bde_keys``, ``_bde_layout`` and ``_bde_eow``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._bde import (
    CCM,
    CLEAR,
    DECRYPTED,
    FVEK,
    GUID,
    MAGIC,
    PASSWORD,
    RECOVERY,
    STARTUP,
    STATES,
    TPM,
    entries,
    read_boot,
    read_metadata,
)
from imgfs.backends._bde_eow import ranges as eow_ranges
from imgfs.backends._bde_layout import codec, known, layouts, length
from imgfs.errors import Malformed, NeedKey, NotSupported
from imgfs.model import Enciphered, Protector, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._bde import Boot, Metadata
    from imgfs.backends._bde import Protector as Locked
    from imgfs.model import Codec

KINDS: Final = ("password", "recovery", "keyfile", "volume-key", "clear")
_KIND: Final = {
    CLEAR: "clear",
    TPM: "tpm",
    STARTUP: "keyfile",
    RECOVERY: "recovery",
    PASSWORD: "password",
    0x0500: "tpm+pin",
}
_STRETCHED: Final = "1048576 rounds of sha256"


def open_bitlocker(reader: Reader, options: Options) -> VolumeTable:
    """Open a volume with the analyst's keys, or without any where none is needed.

    Raises:
        NotMine: no header of BitLocker.
        NeedKey: no key, or none of them opens it.
        NotSupported: its method of encryption is not known here.
        Malformed: no copy of the metadata is intact.
    """
    boot = read_boot(reader)
    meta = read_metadata(reader, boot)
    said = list(meta.notes)
    eow = eow_ranges(reader, boot.eow, said) if boot.eow else None
    ranges = known(meta, eow, reader.size)
    size = length(meta, eow, reader.size)
    locked = meta.protectors()
    protectors = tuple(_shown(number, one) for number, one in enumerate(locked[: limits.MAX_PROTECTORS]))
    how: Codec | None = None
    if any(encrypted for _, _, encrypted in ranges):
        how = _cipher(reader, options, boot, meta, locked, protectors, said)
    if meta.state != 4:
        said.append(STATES.get(meta.state, f"a state that is not known: {meta.state}"))
        if meta.state != DECRYPTED:
            plain = sum(stop - start for start, stop, encrypted in ranges if not encrypted)
            said.append(f"{plain} bytes are not encrypted; a block that was being converted may be neither")
    if size > reader.size:
        said.append(f"the image ends after {reader.size} of {size} bytes: the rest is lost")
    made = layouts(reader, boot, meta, ranges, how, size)
    volume = Volume(
        slot=1, kind=SlotKind.ALLOCATED, start=0, stop=size, type_name="plaintext", layout=len(made) - 1
    )
    return VolumeTable(
        scheme="bitlocker",
        version=_described(boot, meta),
        sector=boot.sector,
        volumes=(volume,),
        layouts=tuple(made),
        uuid=meta.uuid,
        label=meta.label,
        protectors=protectors,
        notes=tuple(said),
    )


def _described(boot: Boot, meta: Metadata) -> str:
    from imgfs.backends._bde_keys import METHODS

    method = METHODS.get(meta.method, (0, f"method {meta.method:#06x}"))[1]
    kind = {"7": "of Windows 7 or later"}.get(boot.kind, boot.kind)
    written = ", encrypted when written to" if boot.eow else ""
    return f"{'of Vista' if meta.version == 1 else kind}, {method}{written}"


def _shown(number: int, one: Locked) -> Protector:
    kind = _KIND.get(one.kind, f"protection {one.kind:#06x}")
    cost = _STRETCHED if kind in ("password", "recovery") else ""
    return Protector(str(number), kind, one.id, "needs the machine" if kind.startswith("tpm") else cost)


def _cipher(
    reader: Reader,
    options: Options,
    boot: Boot,
    meta: Metadata,
    locked: list[Locked],
    protectors: tuple[Protector, ...],
    said: list[str],
) -> Codec:
    """Return the cipher of the volume, by the first key that opens it."""
    from imgfs.backends import _bde_keys as keys

    master = keys.cleared(locked)
    if master:
        said.append("protection is suspended: the volume holds a clear key")
    tried: list[str] = []
    master = master or keys.opened(locked, options.keys, tried)
    sealed = next((entry for entry in meta.entries if entry.type == FVEK and entry.value == CCM), None)
    method, key = 0, b""
    if master and sealed is not None:
        method, key = keys.contained(master, sealed)
        if not key:
            raise Malformed("the volume master key does not open the key of the volume")
    for secret in options.keys if not key else ():
        if secret.kind != "volume-key":
            continue
        if sealed is not None and len(secret.value) == 32:  # the volume master key
            method, key = keys.contained(secret.value, sealed)
            master = secret.value if key else b""
        if not key and _fits(reader, boot, meta, secret.value):
            method, key = meta.method, _spread(meta.method, secret.value)
        if key:
            break
    if not key:
        shown = ", ".join(sorted({one.kind for one in protectors})) or "nothing that is known here"
        raise NeedKey(
            "; ".join([f"BitLocker {_described(boot, meta)}, protected by {shown}", *tried]),
            kinds=KINDS,
            protectors=tuple((one.slot, one.kind, one.id, one.cost) for one in protectors),
        )
    said += tried
    if master:
        _validate(master, meta, said)
    method = method if method in keys.METHODS else meta.method
    if method not in keys.METHODS:
        raise NotSupported(f"BitLocker with a method of encryption that is not known: {method:#06x}")
    return codec(method, key)


def _validate(master: bytes, meta: Metadata, said: list[str]) -> None:
    """Say so where the metadata is not what was signed with the key: anybody can make a CRC-32."""
    from imgfs.backends import _bde_keys as keys

    signed = next((entry for entry in entries(meta.validation) if entry.value == CCM), None)
    if signed is None:
        return
    plain = keys.unsealed(master, signed)
    if plain[-32:] != hashlib.sha256(meta.block).digest():
        said.append("the metadata is not what was signed with the volume master key")


def _spread(method: int, key: bytes) -> bytes:
    """Return a key as the metadata holds it: with a diffuser each half has 32 bytes of room."""
    if method == 0x8000 and len(key) == 32:
        return key[:16] + bytes(16) + key[16:] + bytes(16)
    return key


def _fits(reader: Reader, boot: Boot, meta: Metadata, key: bytes) -> bool:
    """Say whether a key of the volume itself decrypts it: its first sector must look like one."""
    from imgfs.block import ciphers

    try:
        how = codec(meta.method, _spread(meta.method, key))
    except Malformed:
        return False
    at = meta.header_at
    if boot.kind == "Vista":  # the first sectors are plain: the first record of the file table is not
        (cluster, table) = boot.raw[13], int.from_bytes(boot.raw[48:56], "little")
        at = table * cluster * boot.sector
    if at % boot.sector or not 0 < at <= reader.size - boot.sector:
        return False
    data = bytearray(reader.read(at, boot.sector))
    ciphers.check(Enciphered(size=len(data), sector=boot.sector, codec=how))
    ciphers.decrypt(how, boot.sector, at // boot.sector, 1, data)
    if boot.kind == "Vista":
        return data[:4] == b"FILE"
    return data[3:7] == b"ReFS" or (data[510:512] == b"\x55\xaa" and data[0] in (0xEB, 0xE9))


BACKEND = Backend(
    name="bitlocker",
    title="BitLocker",
    role=Role.VOLUMES,
    rank=5,  # before tables: the header ends like a partition table
    signatures=(Signature(3, MAGIC), Signature(424, GUID)),
    open=open_bitlocker,
    keys=KINDS,
    imports=("imgfs.backends._kdf", "imgfs.backends._bde_keys"),
    supports=(
        "Vista to 11, To Go; aes-cbc with and without diffuser, aes-xts; password, recovery password, .BEK,"
        " clear key, volume key; partly encrypted, encrypted when written to; three copies of metadata"
    ),
    truth=("peer", "composed", "corpus"),
)
