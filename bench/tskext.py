"""ext through The Sleuth Kit, as a back-end from outside: the listing that others are measured against.

No part of the product: ``offered`` writes what an installed package would have, for one mount.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._listings import Listings
from imgfs.errors import NotFound, NotSupported
from imgfs.model import Attr, Entry, FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.model import Layout, Page

_KINDS = {1: Kind.REG, 2: Kind.DIR, 3: Kind.FIFO, 4: Kind.CHR, 5: Kind.BLK, 6: Kind.LNK, 8: Kind.SOCK}
_ALLOCATED = 1  # TSK_FS_NAME_FLAG_ALLOC
_SECOND = 10**9


def offered(place: Path) -> Path:
    """Write the metadata of a package that offers this back-end; returns what belongs on PYTHONPATH."""
    about = place / "imgfs_tskext-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: imgfs-tskext\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[imgfs.backends]\ntskext = bench.tskext\n")
    return place


class TskFiles:
    """What ``find`` needs of ``backends.Files``: names with attributes."""

    def __init__(self, reader: Reader) -> None:
        import pytsk3  # noqa: PLC0415  # in workers, as in every back-end

        class Image(pytsk3.Img_Info):  # type: ignore[misc]  # the binding has no types
            def __init__(self) -> None:
                super().__init__("", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

            def get_size(self) -> int:
                return reader.size

            def read(self, offset: int, length: int) -> bytes:
                return reader.read(offset, min(length, reader.size - offset))

        self._fs = pytsk3.FS_Info(Image(), offset=0, type=pytsk3.TSK_FS_TYPE_EXT_DETECT)
        self._listings = Listings(self._names)
        self.info = FilesInfo(type="ext through TSK", trees=(TreeInfo("root", int(self._fs.info.root_inum)),))

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        return _attr(self._fs.open_meta(inode=inum).info.meta, inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        raise NotSupported("only listings are measured")

    def link(self, tree: int, inum: int) -> bytes:
        raise NotFound(f"inode {inum}")

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        raise NotSupported("only listings are measured")

    def _names(self, inum: int) -> Iterator[Entry | str]:
        for file in self._fs.open_dir(inode=inum):
            name, meta = file.info.name, file.info.meta
            if meta is not None and int(name.flags) & _ALLOCATED and bytes(name.name) not in {b".", b".."}:
                yield Entry(bytes(name.name), _attr(meta, int(name.meta_addr)))


def _attr(meta: Any, inum: int) -> Attr:
    return Attr(
        kind=_KINDS.get(int(meta.type), Kind.REG),
        inum=inum,
        generation=int(meta.seq) & 0xFFFFFFFF,
        size=int(meta.size),
        allocated=int(meta.size),
        mode=int(meta.mode) & 0o7777,
        uid=int(meta.uid),
        gid=int(meta.gid),
        nlink=int(meta.nlink),
        m_ns=int(meta.mtime) * _SECOND + int(meta.mtime_nano),
        a_ns=int(meta.atime) * _SECOND + int(meta.atime_nano),
        c_ns=int(meta.ctime) * _SECOND + int(meta.ctime_nano),
        b_ns=int(meta.crtime) * _SECOND + int(meta.crtime_nano),
    )


def open_tsk(reader: Reader, _options: Options) -> TskFiles:
    return TskFiles(reader)


BACKEND = Backend(
    name="tskext",
    title="ext through TSK",
    role=Role.FILES,
    rank=1,  # before our own
    signatures=(Signature(1080, b"\x53\xef"),),
    open=open_tsk,
    imports=("pytsk3",),
)
