"""CoreStorage: logical volumes of Mac OS 10.7 to 10.12, plain or encrypted by FileVault 2.

A group over several physical volumes (Fusion) is a set, named by the group's identifier. The context of
encryption of a system's volume is not in the metadata, but in a file of its Recovery HD,
EncryptedRoot.plist.wipekey, which the analyst gives as a keyfile beside the password.

The worker finds the key and says what is ciphertext; the daemon decrypts, sector by sector, in its pool.
Sources: see ``_cs_label``, ``_cs_blocks``, ``_cs_keys``, ``_cs_group``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._cs_blocks import catalogue, decrypted
from imgfs.backends._cs_label import BLOCK, KINDS, MAGIC, MAGIC_AT, Member, read_header, read_label
from imgfs.errors import EvidenceError, NeedMembers, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._cs_blocks import Catalogue
    from imgfs.backends._cs_label import Block, Header, Label
    from imgfs.model import VolumeTable


def open_corestorage(reader: Reader, options: Options) -> VolumeTable:
    """Read a group with the analyst's keys, or without any where none is needed.

    Raises:
        NotMine: no header.
        NeedMembers: the group has further physical volumes.
        NeedKey: no key, or none of them opens any of its volumes.
        NotSupported: its encryption is not known here, or is being changed.
        Malformed: no label, or no list of volumes is intact.
    """
    from imgfs.backends._cs_group import Group

    notes: list[str] = []
    header = read_header(reader, notes)
    label = read_label(reader, header, notes)
    members = _members(reader, header, label, notes)
    if not options.final and len(members) < len(label.members):
        raise NeedMembers("corestorage", str(UUID(bytes=header.group)), len(members), len(label.members))
    found = _catalogue(members, label, notes)
    notes += found.notes
    if not found.volumes:
        notes.append("no logical volume")
    return Group(reader, header, label, members, found, options, notes).table()


def _members(reader: Reader, header: Header, label: Label, notes: list[str]) -> dict[int, Member]:
    """Return the physical volumes at hand by their index."""
    found: dict[int, Member] = {}
    for ticket, source in enumerate((reader, *reader.others)):
        try:
            its = header if not ticket else read_header(source, [])
        except (EvidenceError, NotMine, NotSupported) as why:
            notes.append(f"source {ticket + 1} is no physical volume: {why}")
            continue
        if its.group != header.group or its.uuid not in label.members:
            notes.append(f"physical volume {UUID(bytes=its.uuid)} is not of this group")
            continue
        found.setdefault(label.members.index(its.uuid), Member(ticket=ticket, reader=source, header=its))
    notes += [
        f"physical volume {number + 1} of {len(label.members)} is missing"
        for number in range(len(label.members))
        if number not in found
    ]
    return found


def _catalogue(members: dict[int, Member], label: Label, notes: list[str]) -> Catalogue:
    """Read the metadata, and its other copy where the first one has damage."""
    blocks: list[Block] = []
    for number, (index, at) in enumerate(label.places, 1):
        member = members.get(index)
        if member is None:
            notes.append(f"copy {number} of the metadata lies on a physical volume that is missing")
            continue
        held = max(min(label.size, member.reader.size - at), 0) // BLOCK * BLOCK
        try:
            read, damaged = decrypted(member.header, member.reader.read(at, held))
        except EvidenceError as why:
            notes.append(f"copy {number} of the metadata cannot be read: {why.message}")
            continue
        blocks += read
        if read and not damaged and held == label.size:
            break
        notes.append(f"copy {number} of the metadata: {damaged} blocks are damaged, {len(read)} are not")
    return catalogue(blocks)


BACKEND = Backend(
    name="corestorage",
    title="Apple CoreStorage",
    role=Role.VOLUMES,
    rank=5,  # before tables and what a logical volume at the start may look like
    signatures=(Signature(MAGIC_AT, MAGIC), Signature(MAGIC_AT - 512, MAGIC)),
    open=open_corestorage,
    keys=KINDS,
    imports=("xml.parsers.expat", "imgfs.backends._kdf", "imgfs.backends._cs_group"),
    supports=(
        "FileVault 2: password, recovery password, volume key; EncryptedRoot.plist.wipekey as keyfile; plain"
        " volumes; several physical volumes; four labels, two copies of metadata"
    ),
    truth=("peer", "composed"),
)
