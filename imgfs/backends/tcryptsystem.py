"""A disk whose system TrueCrypt or VeraCrypt encrypted: the header lies in sector 62, before any partition.

The volume is the whole disk, decrypted where it is encrypted: its partitions are found on it as on any disk.
Sources: see ``_tcrypt``; the encrypted area is that of the header, sectors count from the start of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._tcrypt import SECTOR, SYSTEM
from imgfs.backends._tcrypt_places import deciphered, system_spot
from imgfs.backends._tcrypt_secrets import KINDS, MOST, candidates
from imgfs.backends._tcrypt_trials import Trials
from imgfs.backends.tcrypt import protectors, refuse, version
from imgfs.errors import Malformed, NeedKey, NotMine
from imgfs.model import DISK, Linear, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader


def open_system(reader: Reader, options: Options) -> VolumeTable:
    """Open a disk with the analyst's passwords.

    Raises:
        NotMine: this is no whole disk, sector 62 is no header, or nothing given opens it.
        NeedKey: nothing opened, and not everything was tried.
        Malformed: the header puts the encrypted area where there is no disk.
    """
    spot = system_spot(reader) if not options.base else None
    if spot is None:
        raise NotMine("tcryptsystem")
    given = candidates(options.keys)[:MOST]
    if not given:
        raise NeedKey(kinds=KINDS)
    trials = Trials(options.patience, system=True, threads=options.threads)
    found = trials.find([spot], given)
    if not found:
        refuse(trials.said)
    header = found[0][1]
    start, length = header.start, header.length
    if header.size:
        length = min(length, header.size)
    if not header.flags & SYSTEM or start % SECTOR or start >= reader.size:
        raise Malformed(f"no system: {length} bytes at {start} of {reader.size}, flags {header.flags:#x}")
    stop = start + min(length, reader.size - start) // SECTOR * SECTOR
    said = list(trials.said)
    if header.length < header.size:
        said.append(f"encrypted as far as {header.length} of {header.size} bytes")
    tickets = 1 + len(reader.others)
    layouts = deciphered(header, start, stop - start, tickets)
    top = tickets + len(layouts) - 1
    rows = [(0, start, 0, 0), (start, stop - start, 0, top), (stop, reader.size - stop, stop, 0)]
    rows = [row for row in rows if row[1]]
    layouts.append(Linear.of(reader.size, [row[:3] for row in rows], [row[3] for row in rows]))
    volume = Volume(
        slot=1,
        kind=SlotKind.ALLOCATED,
        start=0,
        stop=reader.size,
        type_id=DISK,
        type_name="decrypted",
        layout=len(layouts) - 1,
    )
    return VolumeTable(
        scheme="tcrypt",
        version=f"{version(found)}, encrypted from {start} to {stop}",
        sector=SECTOR,
        volumes=(volume,),
        layouts=tuple(layouts),
        protectors=protectors(found),
        notes=tuple(said),
    )


BACKEND = Backend(
    name="tcryptsystem",
    title="TrueCrypt/VeraCrypt system disk",
    role=Role.VOLUMES,
    rank=0,  # before the partition table, which is there too
    signatures=(Signature(510, b"\x55\xaa"),),
    open=open_system,
    keys=KINDS,
    by_key=True,
    memory=limits.WORKER_MEMORY // 4,
    imports=("imgfs.backends._kdf",),
    supports="the encrypted partition or disk of a system, read from the image of the whole disk",
    truth=("corpus", "composed"),
)
