"""Listings of the live tree: a directory is loaded once, with the attributes of everything in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._tsk import ALLOCATED, META_KINDS, NAME_KINDS, RESIDENT, attr_of, clamp_size, mapped
from imgfs.backends._tsk_layout import RESIDENT_IN_LISTING, layout_of, size_of
from imgfs.errors import ImgfsError
from imgfs.model import Attr, Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._tsk_format import Format

_NO_FILES: Final = "the entry has no metadata"


def names_of(fs: Any, inum: int) -> Iterator[Any]:
    """Yield the files of a directory, dot entries too; a string says what could not be read.

    One entry TSK cannot resolve does not end the listing as long as its iterator moves on.
    """
    with mapped(f"directory {inum}"):
        directory = fs.open_dir(inode=inum)
    iterator = iter(directory)
    while True:
        before = directory.current
        try:
            file = next(iterator)
        except StopIteration:
            return
        except OSError as why:
            yield f"directory {inum}: entry {before}: {str(why).splitlines()[0][:200]}"
            if directory.current <= before:
                return
            continue
        yield file


class Describer:
    """Turns a TSK file into entries: attributes, streams, and layouts of a run or two."""

    __slots__ = ("_block", "_format", "_volume")

    def __init__(self, form: Format, block: int, volume: int) -> None:
        self._format = form
        self._block = block
        self._volume = volume

    def kind_of(self, file: Any, attributes: list[Any]) -> Kind:
        """Say what a file is: the format's word, then the metadata's, then the name's."""
        name, meta = file.info.name, file.info.meta
        kind = self._format.kind(file, attributes)
        if kind is None and meta is not None:
            kind = META_KINDS.get(int(meta.type))
        if kind is None and name is not None:
            kind = NAME_KINDS.get(int(name.type))
        return Kind.REG if kind is None else kind

    def entries(self, file: Any, name: bytes, inum: int, *, deleted: bool = False) -> list[Entry]:
        """Return the entry of a file and, after it, those of its streams."""
        meta, form = file.info.meta, self._format
        if meta is None:
            kind = NAME_KINDS.get(int(file.info.name.type), Kind.REG)
            return [Entry(name, Attr(kind=kind, inum=inum, nlink=0, deleted=deleted, damaged=_NO_FILES))]
        damaged = ""
        try:
            attributes = list(file)
        except OSError as why:
            attributes, damaged = [], str(why).splitlines()[0][:200]
        kind = self.kind_of(file, attributes)
        size, allocated, layout = clamp_size(meta.size), 0, None
        found: list[Entry] = []
        for attribute in attributes:
            if form.is_content(attribute):
                if kind == Kind.REG:
                    size = size_of(attribute)
                    layout, allocated, why_not = self._layout(file, attribute, size)
                    damaged = damaged or why_not
            elif kind == Kind.REG or form.directory_streams:
                stream = form.stream_name(attribute)
                if stream is not None:
                    found.append(self._stream(file, attribute, name + b":" + stream, inum, deleted=deleted))
        attr = attr_of(
            inum,
            kind,
            meta,
            size=size,
            allocated=allocated,
            deleted=deleted,
            damaged=damaged,
            owners=self._format.owners,
        )
        return [Entry(name, form.repair(attr, int(meta.addr)), 0, layout), *found]

    def _stream(self, file: Any, attribute: Any, name: bytes, inum: int, *, deleted: bool) -> Entry:
        size = size_of(attribute)
        layout, allocated, damaged = self._layout(file, attribute, size)
        attr = attr_of(
            inum,
            Kind.REG,
            file.info.meta,
            size=size,
            allocated=allocated,
            deleted=deleted,
            damaged=damaged,
            owners=self._format.owners,
        )
        return Entry(
            name, self._format.repair(attr, int(file.info.meta.addr)), 1 + int(attribute.info.id), layout
        )

    def _layout(self, file: Any, attribute: Any, size: int) -> tuple[Any, int, str]:
        """Return the layout if it is short enough for a listing, the allocated bytes, and damage."""
        if int(attribute.info.flags) & RESIDENT and size > RESIDENT_IN_LISTING:
            return None, 0, ""
        try:
            layout, allocated = self.layout(file, attribute, size)
        except ImgfsError as why:
            return None, 0, why.message
        except OSError as why:
            return None, 0, str(why).splitlines()[0][:200]
        runs = len(getattr(layout, "logical", b"")) // 8
        return (layout,) if runs <= 2 else None, allocated, ""

    def layout(self, file: Any, attribute: Any, size: int) -> tuple[Any, int]:
        """Say where an attribute lies."""
        valid = None
        if not int(attribute.info.flags) & RESIDENT:
            valid = self._format.valid(int(file.info.meta.addr), attribute.info.name)
        return layout_of(
            file, attribute, size, self._block, self._volume, valid=valid, holes=self._format.holes
        )


def live_entries(fs: Any, inum: int, form: Format, describer: Describer) -> Iterator[Entry | str]:
    """Yield what is allocated in a directory; strings say what is missing."""
    for file in names_of(fs, inum):
        if isinstance(file, str):
            yield file
            continue
        found = file.info.name
        if found is None or not int(found.flags) & ALLOCATED:
            continue
        name = bytes(found.name or b"")
        if name in {b".", b".."} or not form.keep(file):
            continue
        yield from describer.entries(file, name, int(found.meta_addr))
