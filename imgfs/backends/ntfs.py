"""NTFS, through TSK, with what TSK keeps to itself read from the MFT records.

Source: NTFS documentation of the Linux-NTFS project; [MS-FSCC] 2.1.2 (reparse points), 2.6 (file
attributes); [MS-DTYP] 2.4 (security descriptors).
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._ntfs_describe import Describer, plain_mode
from imgfs.backends._ntfs_files import NtfsFiles, references
from imgfs.backends._ntfs_orphans import Orphans
from imgfs.backends._ntfs_record import DATA, VOLUME_NAME, Mft, parse
from imgfs.backends._ntfs_security import Descriptors
from imgfs.backends._ntfs_values import Values
from imgfs.backends._tsk import mapped, open_file, open_fs, volume_size
from imgfs.backends._tsk_files import TskFiles, trees
from imgfs.backends._tsk_format import Format
from imgfs.backends._tsk_layout import read_attribute, rows_of, size_of
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import FilesInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_SDS_MAX: Final = 64 << 20  # bytes of $Secure:$SDS that are looked at
_SECURE, _VOLUME = 9, 3  # fixed record numbers


def open_ntfs(reader: Reader, _options: Options) -> Files:
    """Open an NTFS volume.

    Raises:
        NotMine: no NTFS boot sector, or TSK finds no file system behind it.
        Malformed: the sizes in the boot sector are impossible.
    """
    if reader.size < 512:
        raise NotMine("ntfs")
    boot = reader.read(0, 512)
    if boot[3:11] != b"NTFS    ":
        raise NotMine("ntfs")
    sector, cluster_code, record_code = (
        struct.unpack_from("<H", boot, 11)[0],
        boot[13],
        struct.unpack_from("<b", boot, 64)[0],
    )
    sectors = 1 << 256 - cluster_code if cluster_code > 128 else cluster_code
    cluster = sector * sectors
    if sector not in {256, 512, 1024, 2048, 4096} or not 0 < cluster <= 2 << 20 or cluster & cluster - 1:
        raise Malformed(f"cluster of {cluster} bytes", start=11, stop=14)
    record = 1 << -record_code if record_code < 0 else record_code * cluster
    if not 256 <= record <= 65536 or record & record - 1:
        raise Malformed(f"MFT record of {record} bytes", start=64, stop=65)
    fs = open_fs(reader, "NTFS")
    volume = volume_size(fs, reader)
    with mapped("$MFT"):
        table = open_file(fs, 0)
        data = next((a for a in table if int(a.info.type) == DATA and not a.info.name), None)
        rows = [] if data is None else rows_of(data, size_of(data), cluster, volume)[0]
    mft = Mft(reader, rows, record)
    values = Values(mft, Descriptors(lambda: _descriptors(fs)))
    orphans = Orphans(mft, partial(references, reader, fs, cluster, volume))
    form = Format(
        content=frozenset({DATA}),
        named=frozenset({DATA}),
        kind=values.kind,
        valid=values.valid,
        link=values.link,
        xattrs=values.xattrs,
        owners=False,
        repair=plain_mode,
        next_orphan=orphans.next_orphan,
        orphan_name=orphans.name,
        directory_streams=True,
        holes=True,
    )
    (serial,) = struct.unpack_from("<Q", boot, 72)
    info = FilesInfo(
        type="ntfs",
        trees=trees(int(fs.info.root_inum)),
        block=cluster,
        size=struct.unpack_from("<Q", boot, 40)[0] * sector,
        label=_label(mft),
        uuid=f"{serial:016X}",
    )
    files = TskFiles(fs, form, info, volume)
    return NtfsFiles(reader, fs, files, Describer(mft, cluster, volume), volume)


def _label(mft: Mft) -> str:
    try:
        found = [a.content for a in parse(mft.record(_VOLUME)) if a.type == VOLUME_NAME]
    except EvidenceError:
        return ""
    return found[0].decode("utf-16-le", "replace") if found else ""


def _descriptors(fs: Any) -> bytes:
    file = open_file(fs, _SECURE)
    for attribute in file:
        if int(attribute.info.type) == DATA and attribute.info.name == b"$SDS":
            return read_attribute(file, attribute, 0, min(size_of(attribute), _SDS_MAX))
    return b""


BACKEND = Backend(
    name="ntfs",
    title="NTFS",
    role=Role.FILES,
    rank=20,  # before fat: the boot sectors share their jump and 55AA
    signatures=(Signature(3, b"NTFS    "),),
    open=open_ntfs,
    imports=("pytsk3",),
    supports=(
        "streams, sparse, LZNT1, resident, reparse points, security identifiers, deleted files, orphans; "
        "no EFS, no WOF, no deduplicated files"
    ),
    truth=("peer", "tsk", "corpus"),
)
