"""exFAT, through TSK, with the valid data length TSK ignores.

Source: Microsoft exFAT file system specification, sections 3.1 (boot sector), 7.3 (volume label),
7.6 (stream extension).
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._fat_boot import serial_text
from imgfs.backends._fat_orphans import Slots
from imgfs.backends._fat_time import localiser, use_utc
from imgfs.backends._tsk import VIRTUAL_DIR, open_fs, volume_size
from imgfs.backends._tsk_files import TskFiles, trees
from imgfs.backends._tsk_format import Format
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Attr, FilesInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Files, Options, Reader
    from imgfs.backends._tsk_layout import Row

_LABEL: Final = b" (Volume Label Entry)"
_ROOT_MAX: Final = 4 << 20  # bytes of the root directory in which a label is looked for
_LABEL_ENTRY, _FILE_ENTRY, _STREAM_ENTRY = 0x83, 0x05, 0x40  # the latter two without their in-use bit


def open_exfat(reader: Reader, options: Options) -> Files:
    """Open an exFAT volume.

    Raises:
        NotMine: no exFAT boot sector, or TSK finds no file system behind it.
        Malformed: sector or cluster sizes that the specification excludes.
    """
    if reader.size < 512:
        raise NotMine("exfat")
    boot = reader.read(0, 512)
    if boot[3:11] != b"EXFAT   ":
        raise NotMine("exfat")
    (sectors,) = struct.unpack_from("<Q", boot, 72)
    heap, _, _, serial = struct.unpack_from("<4I", boot, 88)
    sector_shift, cluster_shift = boot[108], boot[109]
    if not 9 <= sector_shift <= 12 or cluster_shift > 25 - sector_shift:
        raise Malformed(
            f"sectors of 2^{sector_shift}, clusters of 2^{cluster_shift} sectors", start=108, stop=110
        )
    use_utc()
    fs = open_fs(reader, "EXFAT")
    localise, note = localiser(options.tz)
    sector, cluster = 1 << sector_shift, 1 << sector_shift + cluster_shift
    heap_at = heap * sector
    volume = volume_size(fs, reader)
    sets = _Sets(reader, heap_at, localise)
    slots = Slots(reader, heap_at, sector, exfat=True)
    table, length = (field * sector for field in struct.unpack_from("<II", boot, 80))
    one_table = boot[110] == 1 and table + length <= reader.size  # with two, TSK numbers otherwise
    first_table = int(fs.info.last_inum) - 1  # $FAT1 stands before $OrphanFiles

    def rows(inum: int, size: int) -> list[Row]:
        """Return where $FAT1 lies: TSK gives it no runs on some volumes."""
        return [(0, size, table)] if one_table and (inum, size) == (first_table, length) else []

    form = Format(keep=_keep, repair=sets.repair, valid=sets.valid, next_orphan=slots.next_orphan, rows=rows)
    info = FilesInfo(
        type="exfat",
        trees=trees(int(fs.info.root_inum)),
        block=cluster,
        size=sectors << sector_shift,
        label=_label(reader, boot, sector, cluster),
        uuid=serial_text(serial),
        notes=(note,) if note else (),
    )
    return TskFiles(fs, form, info, volume)


def _keep(file: Any) -> bool:
    """Leave out ``$OrphanFiles`` and the volume label, an entry without times."""
    name, meta = file.info.name, file.info.meta
    if int(name.type) == VIRTUAL_DIR:
        return False
    return not (
        bytes(name.name or b"").endswith(_LABEL) and (meta is None or not (meta.mtime or meta.crtime))
    )


def _chain(reader: Reader, table: int, number: int, clusters: int) -> Iterator[int]:
    """Yield the clusters of a chain through the FAT at ``table``; one that bites its tail ends."""
    seen: set[int] = set()
    while 2 <= number < clusters + 2 and number not in seen:
        seen.add(number)
        yield number
        number = int.from_bytes(reader.read(table + 4 * number, 4), "little")


def _label(reader: Reader, boot: bytes, sector: int, cluster: int) -> str:
    """Return the label from the root directory: its entry may stand in any cluster of that."""
    table, _, heap, clusters, first = struct.unpack_from("<5I", boot, 80)
    try:
        chain = _chain(reader, table * sector, first, clusters)
        for number in islice(chain, max(_ROOT_MAX // cluster, 1)):
            at, length = heap * sector + (number - 2) * cluster, min(cluster, _ROOT_MAX)
            found = _label_in(reader.read(at, length))
            if found is not None:
                return found
    except EvidenceError:
        pass  # a label is no reason not to show the files
    return ""


def _label_in(root: bytes) -> str | None:
    """Return the label in one cluster of the root directory, empty: no later one has it, None: go on."""
    for entry in range(0, len(root) - 31, 32):
        if root[entry] == _LABEL_ENTRY and root[entry + 1] <= 15:
            return root[entry + 2 : entry + 2 + 2 * min(root[entry + 1], 11)].decode("utf-16-le", "replace")
        if not root[entry]:
            return ""
    return None


class _Sets:
    """Directory entry sets, found through the number TSK gives their first entry.

    TSK numbers slots of 32 bytes from 3 at the start of the cluster heap. A set may go on in another
    cluster; what is not found where it is expected is not guessed.
    """

    __slots__ = ("_heap", "_localise", "_reader")

    def __init__(self, reader: Reader, heap: int, localise: Callable[[Attr, int], Attr]) -> None:
        self._reader = reader
        self._heap = heap
        self._localise = localise

    def _entry(self, inum: int) -> bytes:
        at = self._heap + (inum - 3) * 32
        if inum < 3 or at + 64 > self._reader.size:
            return b""
        entry = self._reader.read(at, 64)
        return entry if entry[0] & 0x7F == _FILE_ENTRY else b""

    def valid(self, inum: int, _name: bytes | None) -> int | None:
        """Return the valid data length of a file, None: all of it."""
        entry = self._entry(inum)
        if not entry or entry[32] & 0x7F != _STREAM_ENTRY:
            return None
        valid, size = struct.unpack_from("<Q", entry, 40)[0], struct.unpack_from("<Q", entry, 56)[0]
        return int(valid) if valid < size else None

    def repair(self, attr: Attr, meta: int) -> Attr:
        """Apply the offsets from UTC that the entry states; a time without one is local."""
        entry = self._entry(meta)
        if not entry:
            return attr
        local = self._localise(attr, meta)
        fields = {name: getattr(local, name) for name in attr.__struct_fields__}
        for name, at in (("b_ns", 22), ("m_ns", 23), ("a_ns", 24)):
            stored, code = getattr(attr, name), entry[at]
            if stored is not None and code & 0x80:
                quarters = (code & 0x7F) - (128 if code & 0x40 else 0)
                fields[name] = stored - quarters * 900 * 10**9
        return Attr(**fields)


BACKEND = Backend(
    name="exfat",
    title="exFAT",
    role=Role.FILES,
    rank=20,
    signatures=(Signature(3, b"EXFAT   "),),
    open=open_exfat,
    imports=("pytsk3",),
    supports="deleted files, valid data length, orphans",
    truth=("peer", "tsk", "corpus"),
)
