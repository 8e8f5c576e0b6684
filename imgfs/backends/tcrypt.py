"""TrueCrypt and VeraCrypt volumes: nothing tells them from noise but a password that opens them.

Sources: see ``_tcrypt``, ``_tcrypt_places`` and ``_tcrypt_secrets``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.backends._tcrypt import SECTOR
from imgfs.backends._tcrypt_places import mapped, spots
from imgfs.backends._tcrypt_secrets import KINDS, MOST, candidates
from imgfs.backends._tcrypt_trials import Trials
from imgfs.errors import Malformed, NeedKey, NotMine
from imgfs.model import Protector, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._tcrypt import Header
    from imgfs.backends._tcrypt_trials import Spot
    from imgfs.model import Layout


def open_tcrypt(reader: Reader, options: Options) -> VolumeTable:
    """Open the volumes that the analyst's passwords and key files open: the outer one, the hidden one.

    Raises:
        NotMine: no place of a header looks like one, or nothing given opens any.
        NeedKey: nothing opened, and not everything was tried.
    """
    said: list[str] = []
    first, copies = spots(reader, said)
    if not first and not copies:
        raise NotMine("tcrypt")
    given = candidates(options.keys)
    if not given:
        raise NeedKey(kinds=KINDS)
    if len(given) > MOST:
        said.append(f"{len(given)} combinations of passwords and key files: the first {MOST} were tried")
        given = given[:MOST]
    trials = Trials(options.patience, threads=options.threads)
    found = trials.find(first, given)
    kept = {spot.what for spot, _ in found}
    missing = [spot for spot in copies if spot.what not in kept]
    if not found and missing and not trials.late:
        found = trials.find(missing, given)
        said += [f"read from the copy of the {spot.what} header at {spot.at}" for spot, _ in found]
    said += trials.said
    if not found:
        refuse(said)
    return _table(reader, sorted(found, key=lambda pair: pair[0].what != "standard"), said)


def refuse(said: list[str]) -> None:
    """Say that nothing opened.

    Raises:
        NotMine: everything was tried.
        NeedKey: something was not, which its message says.
    """
    if said:
        raise NeedKey("; ".join(["this may be a TrueCrypt or VeraCrypt volume", *said]), kinds=KINDS)
    raise NotMine("tcrypt")


def _table(reader: Reader, found: list[tuple[Spot, Header]], said: list[str]) -> VolumeTable:
    layouts: list[Layout] = []
    volumes: list[Volume] = []
    tickets = 1 + len(reader.others)
    for slot, (spot, header) in enumerate(found, 1):
        try:
            made, size = mapped(header, spot.what, reader, tickets + len(layouts))
        except Malformed as why:
            said.append(f"the {spot.what} volume: {why}")
            continue
        layouts += made
        if header.size > header.length and header.version >= 4:
            said.append(f"encrypted in place as far as {header.length} of {header.size} bytes")
        volumes.append(
            Volume(
                slot=slot,
                kind=SlotKind.ALLOCATED,
                start=0,
                stop=size,
                type_name=spot.what,
                label=spot.what,
                layout=len(layouts) - 1,
            )
        )
    if not volumes:
        raise Malformed("; ".join(said))
    return VolumeTable(
        scheme="tcrypt",
        version=version(found),
        sector=SECTOR,
        volumes=tuple(volumes),
        layouts=tuple(layouts),
        protectors=protectors(found),
        notes=tuple(said),
    )


def version(found: list[tuple[Spot, Header]]) -> str:
    """Return program, version of the header, ciphers and derivation, in words."""
    header = found[0][1]
    return f"{header.program} {header.version}, {header.said}"


def protectors(found: list[tuple[Spot, Header]]) -> tuple[Protector, ...]:
    """Return what opened each header."""
    return tuple(Protector(spot.what, "password|keyfile", "", header.derivation) for spot, header in found)


BACKEND = Backend(
    name="tcrypt",
    title="TrueCrypt/VeraCrypt",
    role=Role.VOLUMES,
    rank=6,
    open=open_tcrypt,
    keys=KINDS,
    by_key=True,
    memory=limits.GIB + 64 * limits.MIB,  # the most that Argon2id may take here, whatever the PIM
    imports=("imgfs.backends._kdf",),
    supports=(
        "VeraCrypt and TrueCrypt; PBKDF2 of sha512, sha256, blake2s, whirlpool, streebog, ripemd160, sha1;"
        " argon2id; PIM, key files; hidden volumes, backup headers; aes, serpent, twofish, camellia,"
        " kuznyechik and their cascades in xts; single ciphers in the cbc of old TrueCrypt"
    ),
    truth=("corpus", "peer", "composed"),
)
