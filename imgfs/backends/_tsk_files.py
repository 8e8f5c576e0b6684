"""A file system as TSK sees it: the ``Files`` verbs over a Format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgfs.backends._listings import Listings
from imgfs.backends._tsk import mapped, open_file
from imgfs.backends._tsk_deleted import Deleted
from imgfs.backends._tsk_layout import read_attribute, size_of
from imgfs.backends._tsk_list import Describer, live_entries
from imgfs.errors import Malformed, NotFound
from imgfs.limits import MAX_LINK, READ_MAX
from imgfs.model import Attr, FilesInfo, Inline, Kind, Layout, Linear, Page, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends._listings import Entries
    from imgfs.backends._tsk_format import Format

ROOT, DELETED = 0, 1  # indices of the trees


class TskFiles:
    """Live tree and deleted entries of one file system; see ``backends.Files``."""

    def __init__(self, fs: Any, form: Format, info: FilesInfo, volume: int) -> None:
        self._fs = fs
        self._format = form
        self.info = info
        self._describer = Describer(form, int(fs.info.block_size), volume)
        self._live = Listings(lambda inum: live_entries(fs, inum, form, self._describer))
        self._deleted = Deleted(fs, form, self._describer)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._is_deleted(tree):
            return self._deleted.list(inum, cursor, limit)
        if not self.is_directory(open_file(self._fs, inum)):
            raise NotFound(f"inode {inum} is no directory")
        with mapped(f"directory {inum}"):
            return self._live.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        if self._is_deleted(tree):
            return self._deleted.stat(inum, stream)
        for entry in self.described(inum, b""):
            if entry.stream == stream:
                return entry.attr
        raise NotFound(f"inode {inum} has no stream {stream}")

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie."""
        file = self._file(tree, inum)
        with mapped(f"inode {inum}"):
            attribute = self._attribute(file, inum, stream)
            if attribute is None:
                size = int(file.info.meta.size) if file.info.meta is not None else 0
                if size <= 0 or self._describer.kind_of(file, list(file)) != Kind.REG:
                    return (Inline(b""),)
                return (Linear.of(size, []),)  # a size without an attribute: lost
            return (self._describer.layout(file, attribute, size_of(attribute))[0],)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        file = self._file(tree, inum)
        with mapped(f"inode {inum}"):
            target = self._format.link(file)
        if len(target) > MAX_LINK:
            raise Malformed(f"inode {inum}: link target of {len(target)} bytes")
        return target

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes."""
        if self._is_deleted(tree) and self._deleted.is_made_up(inum):
            return {}
        file = self._file(tree, inum)
        if file.info.meta is None:
            return {}
        with mapped(f"inode {inum}"):
            return self._format.xattrs(file)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of a stream that only TSK can decode."""
        file = self._file(tree, inum)
        with mapped(f"inode {inum}"):
            attribute = self._attribute(file, inum, stream)
            if (
                attribute is None
                or not 0 <= offset <= offset + length <= size_of(attribute)
                or length > READ_MAX
            ):
                raise Malformed(f"inode {inum}: no bytes [{offset}, {offset + length})")
            return read_attribute(file, attribute, offset, length)

    def _is_deleted(self, tree: int) -> bool:
        if not 0 <= tree < len(self.info.trees):
            raise NotFound(f"tree {tree}")
        return self.info.trees[tree].deleted

    def _file(self, tree: int, inum: int) -> Any:
        return self._deleted.file(inum) if self._is_deleted(tree) else open_file(self._fs, inum)

    def is_directory(self, file: Any) -> bool:
        """Say whether a TSK file is a directory of the image, and not one of TSK's own."""
        meta = file.info.meta
        virtual = meta is not None and int(meta.type) == 11  # TSK_FS_META_TYPE_VIRT_DIR
        return self._describer.kind_of(file, []) == Kind.DIR and not virtual

    def described(self, inum: int, name: bytes) -> Entries:
        """Return the entry of a number of the live tree under a name, and those of its streams."""
        file = open_file(self._fs, inum)
        with mapped(f"inode {inum}"):
            return self._describer.entries(file, name, inum)

    def _attribute(self, file: Any, inum: int, stream: int) -> Any:
        form = self._format
        for attribute in file:
            if stream == 0 and form.is_content(attribute):
                return attribute
            if stream and int(attribute.info.id) + 1 == stream and form.stream_name(attribute) is not None:
                return attribute
        if stream:
            raise NotFound(f"inode {inum} has no stream {stream}")
        return None


def trees(root: int, *, deleted: bool = True) -> tuple[TreeInfo, ...]:
    """Return the trees of a TSK file system; the deleted one mirrors the live one from its root."""
    live = TreeInfo("root", root)
    return (live, TreeInfo("deleted", root << 22, deleted=True)) if deleted else (live,)
