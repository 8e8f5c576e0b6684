"""AFF4-L, logical images: files with their paths, times and hashes in a ZIP volume of AFF4.

The archive is the media; its files are a tree on it, so that ``disk.raw`` stays the archive itself.

Source: AFF4 Standard v1.0a; AFF4-L as pyaff4 (Apache-2.0) writes and reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._aff4_facts import hashes
from imgfs.backends._aff4_plan import Plan
from imgfs.backends._aff4_targets import Targets
from imgfs.backends._aff4_tree import ROOT, attr_of, paths, sized
from imgfs.backends._aff4_turtle import Literal
from imgfs.backends._aff4_volume import MAPS, STREAMS, Volume
from imgfs.backends._aff4_zip import DEFLATED, MAGIC
from imgfs.backends._inflated import Inflated
from imgfs.errors import EvidenceError, Malformed, NotFound, NotMine
from imgfs.model import Attr, Entry, FilesInfo, Foreign, Layout, Linear, Page, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._aff4_tree import Node
    from imgfs.backends._aff4_zip import Segment

_WHOLE: Final = 16 * limits.MIB  # a deflated file up to this size is one unit
_NAME_MAX: Final = 255
_VALUE_MAX: Final = 2000
_VALUES_MAX: Final = 200


def open_aff4l(reader: Reader, options: Options) -> LogicalFiles:  # noqa: ARG001  # the contract of `open`
    """Read the files of a volume.

    Raises:
        NotMine: no volume of AFF4, or one without files.
        Malformed: a volume without statements.
    """
    volume = Volume(reader, 0)
    nodes, notes = paths(volume)
    if len(nodes) == ROOT + 1:
        raise NotMine("aff4: no files")
    return LogicalFiles(volume, nodes, (*volume.notes, *notes))


class LogicalFiles:
    """The tree of files: ``backends.Files``."""

    def __init__(self, volume: Volume, nodes: list[Node], notes: tuple[str, ...]) -> None:
        self._volume = volume
        self._nodes = nodes
        self._open: tuple[int, Inflated] | None = None
        files = sum(not node.folder for node in nodes)
        tool = volume.version.get("tool", "")
        self.info = FilesInfo(
            type="AFF4-L",
            trees=(TreeInfo("root", ROOT),),
            size=volume.reader.size,
            label=tool[:200],
            uuid=volume.arn[:200],
            version=".".join(volume.version.get(key, "?") for key in ("major", "minor"))[:40]
            if volume.version
            else "",
            notes=(f"{files} files", *notes)[:200],
        )

    def _node(self, inum: int) -> Node:
        if not ROOT <= inum < len(self._nodes):
            raise NotFound(f"no file {inum}")
        return self._nodes[inum]

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:  # noqa: ARG002  # one tree
        """Return a page of a folder; see ``backends.Files``."""
        node = self._node(inum)
        if not node.folder:
            raise NotFound(f"{inum} is no folder")
        cursor = max(cursor, 0)
        taken = node.children[cursor : cursor + limit]
        after = cursor + len(taken)
        entries = [Entry(self._nodes[child].name, self.stat(0, child, 0)) for child in taken]
        return Page(entries, after if after < len(node.children) else -1)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:  # noqa: ARG002  # one tree
        """Return the attributes of a file; see ``backends.Files``."""
        node = self._node(inum)
        if stream:
            raise NotFound(f"file {inum} has no stream {stream}")
        if node.folder:
            return attr_of(self._volume, inum, node, 0, "")
        size, damaged = sized(self._volume, node.subject)
        if size is None:
            plan = Plan(1)
            whole = Targets([self._volume], plan, []).target(node.subject)
            size, damaged = (whole.size, "") if not whole.why else (0, whole.why)
        return attr_of(self._volume, inum, node, min(size, limits.MAX_SIZE), damaged[:_VALUE_MAX])

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie; see ``backends.Files``.

        Raises:
            NotSupported: its table of chunks is too large for a message.
            Malformed: they are not in the volume.
        """
        node = self._node(inum)
        size = self.stat(tree, inum, stream).size
        if node.folder:
            raise NotFound(f"{inum} is a folder")
        segment = self._long(node)
        if segment is not None:
            return (Foreign(size=segment.size, why="deflated as one stream"),)
        if not size:
            return (Linear.of(0, ()),)
        plan = Plan(1)
        targets = Targets([self._volume], plan, [])
        whole = targets.target(node.subject)
        if whole.why or not whole.size:
            raise Malformed(f"file {inum}: {whole.why or 'nothing is stored of it'}"[:_VALUE_MAX])
        targets.last(whole, 1, size)
        return plan.layouts(None)

    def _long(self, node: Node) -> Segment | None:
        """Return the segment of a file that is deflated and too long to be one unit."""
        volume, subject = self._volume, node.subject
        if volume.types(subject) & (STREAMS | MAPS):
            return None
        segment = volume.find(subject, volume.one(subject, "stored"))
        if segment is None or segment.method != DEFLATED or segment.size <= _WHOLE:
            return None
        return segment

    def link(self, tree: int, inum: int) -> bytes:  # noqa: ARG002  # no links are recorded
        """Raise NotFound: there are no symbolic links."""
        raise NotFound(f"{inum} is no symbolic link")

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:  # noqa: ARG002  # one tree
        """Return hashes and other properties as recorded; see ``backends.Files``."""
        node = self._node(inum)
        if not node.subject:
            return {}
        found = {"user.imgfs.arn": node.subject}
        for kind, value in hashes(self._volume, node.subject):
            found.setdefault(f"user.imgfs.hash.{kind.lower()}", value)
        for name, terms in self._volume.objects[node.subject].items():
            for term in terms:
                if isinstance(term, Literal) and term.value and name not in ("hash", "size"):
                    found.setdefault(f"user.imgfs.aff4.{name}", term.value)
        encoded = {
            name.encode("utf-8", "replace").replace(b"\0", b"")[:_NAME_MAX]: value.encode("utf-8", "replace")[
                :_VALUE_MAX
            ]
            for name, value in list(found.items())[:_VALUES_MAX]
        }
        return {name: value for name, value in encoded.items() if name}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:  # noqa: ARG002
        """Return bytes of a long deflated file; see ``backends.Files``."""
        segment = self._long(self._node(inum))
        if segment is None or not 0 <= offset <= offset + length <= segment.size:
            raise NotFound(f"file {inum} is not read here")
        if self._open is None or self._open[0] != inum:
            start = self._volume.archive.start(segment)
            self._open = inum, Inflated(self._volume.reader, start, segment.stored, segment.size)
        try:
            return self._open[1].read(offset, length)
        except EvidenceError:
            self._open = None
            raise


BACKEND = Backend(
    name="aff4l",
    title="AFF4-L",
    role=Role.FILES,
    rank=90,
    signatures=(Signature(0, MAGIC),),
    open=open_aff4l,
    imports=("lz4", "cramjam"),
    supports="files as ZIP segments, image streams and maps of hashed chunks; paths, times, hashes",
    truth=("composed", "corpus"),
)
