"""UDF 1.01 to 2.60, read by our own reader.

Source: ECMA-167 3rd edition, 2/8 and 2/9 (volume recognition), 4/14.1 (file set descriptor);
OSTA UDF 2.60, 2.2.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.udf.files import UdfFiles
from imgfs.backends.udf.icb import read_icb
from imgfs.backends.udf.maps import read_maps
from imgfs.backends.udf.sequence import read_sequence, was_closed
from imgfs.backends.udf.structures import FILE_SET, clock_of, dstring, long_address
from imgfs.backends.udf.volume import Volume
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_SETS: Final = 64  # file set descriptors that are looked at
_LENGTH: Final = 0x3FFF_FFFF


def open_udf(reader: Reader, options: Options) -> Files:
    """Open a volume.

    Raises:
        NotMine: no anchor leads to a logical volume.
        Malformed: no partition, no file set, or no root directory.
    """
    sequence = read_sequence(reader)
    logical = sequence.logical
    (block,) = struct.unpack_from("<I", logical, 212)
    if block & (block - 1) or not 512 <= block <= 32_768:
        raise Malformed(f"logical blocks of {block} bytes")
    volume = Volume(reader, block)
    notes = sequence.notes + read_maps(volume, sequence)
    if was_closed(reader, sequence) is False:
        notes += ("the last writer did not close the volume",)
    try:
        files = _file_set(volume, logical)
        root = long_address(files, 400)
        icb = read_icb(volume, root.ref, root.block)
    except EvidenceError as why:
        raise Malformed("; ".join([why.message, *notes])) from None
    if icb.kind != Kind.DIR:
        raise Malformed(f"the root in block {root.block} is no directory")
    clock, said = clock_of(options.tz)
    (revision,) = struct.unpack_from("<H", logical, 240)
    sizes = [struct.unpack_from("<II", raw, 188) for raw in sequence.partitions.values()]
    stop = max((start + length for start, length in sizes), default=0) * sequence.sector
    if stop > reader.size:
        notes += (f"the volume has {reader.size} bytes, its partitions end at {stop}",)
    info = FilesInfo(
        type="udf",
        trees=(TreeInfo("root", icb.number),),
        block=block,
        size=stop,
        label=dstring(logical[84:212]),
        uuid=_uuid(sequence.primary),
        version=f"{revision >> 8:x}.{revision & 0xFF:02x}",
        notes=(*notes, said) if said else notes,
    )
    return UdfFiles(volume, info, clock)


def _file_set(volume: Volume, logical: bytes) -> bytes:
    """Return the last file set descriptor of the sequence that is whole.

    Raises:
        EvidenceError: there is none.
    """
    address, found, why = long_address(logical, 248), b"", ""
    for _ in range(_SETS):
        length = address.length & _LENGTH
        following = None
        for block in range(address.block, address.block + min(length // volume.block, _SETS)):
            try:
                found = volume.descriptor(address.ref, block, (FILE_SET,))
            except EvidenceError as error:
                why = why or error.message
                break  # terminating, or not recorded
            following = long_address(found, 448)
        if following is None or not following.length & _LENGTH or following == address:
            break
        address = following
    if not found:
        raise Malformed(f"no file set descriptor: {why}")
    return found


def _uuid(primary: bytes) -> str:
    """Return what Linux calls the UUID: the first characters of the volume set identifier.

    Sixteen hexadecimal digits stand for themselves; behind eight, the next four characters are spelt in
    hexadecimal; else the first eight characters are.
    """
    if not primary:
        return ""
    text = dstring(primary[72:200]).encode()[:16]
    digits = b"0123456789abcdefABCDEF"
    if len(text) < 8:
        return ""
    if len(text) == 16 and all(char in digits for char in text):
        return text.decode().lower()
    if all(char in digits for char in text[:8]):
        return text[:8].decode().lower() + text[8:12].hex()
    return text[:8].hex()


BACKEND = Backend(
    name="udf",
    title="UDF",
    role=Role.FILES,
    rank=11,  # behind the ISO 9660 of the same disc
    signatures=tuple(
        Signature(32_769 + 2048 * n, magic) for n in range(1, 16) for magic in (b"NSR02", b"NSR03")
    ),
    open=open_udf,
    exclusive=False,  # hybrid images carry a partition table as well
    supports=(
        "revisions 1.01 to 2.60, virtual, sparable and metadata partitions, rewritten ICBs, named streams;"
        " no deleted files"
    ),
    truth=("kernel", "peer", "corpus"),
)
