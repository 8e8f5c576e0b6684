"""FUSE requests: translate, map errors, count. Nothing is decided here that other front-ends need."""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pyfuse3
import trio

from imgfs import limits, log
from imgfs.daemon.attributes import Owner, absent, entry
from imgfs.daemon.courtesy import LARGE, Courtesy
from imgfs.daemon.pages import Pages
from imgfs.errors import ImgfsError, NotFound
from imgfs.model import Attr, Ino, Kind
from imgfs.worker.turns import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from imgfs.session import Session
    from imgfs.tree.handles import OpenFile
    from imgfs.tree.nodes import Node

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_STRICT = os.environ.get("IMGFS_STRICT") == "1"
_QUIET = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENODATA)


def barrier(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Let only FUSEError leave a handler: anything else would end the daemon and every mount (INV-12)."""
    name = handler.__name__

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except ImgfsError as why:
            code = why.errno or errno.EIO
            if code not in _QUIET:
                logger.warning(
                    log.READ_FAILED,
                    extra={"request": name, "why": str(why), "spec": getattr(why, "spec", "")},
                )
            raise pyfuse3.FUSEError(code) from None
        except Exception:
            logger.exception(log.HANDLER_FAILED, extra={"request": name})
            if _STRICT:
                raise
            raise pyfuse3.FUSEError(errno.EIO) from None

    guarded.guarded = True  # type: ignore[attr-defined]  # a test asks every handler
    return guarded


class Operations(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, session: Session, owner: Owner) -> None:
        super().__init__()
        self._session = session
        self._tree = session.tree
        self._owner = owner
        self._files: dict[int, tuple[OpenFile, int]] = {}  # with the process that opened it
        self._folders: dict[int, tuple[Node, int]] = {}  # with the process that reads
        self._pages = Pages()
        self._courtesy = Courtesy()
        self._next = 1
        self._fast = 0
        self._slow = 0
        self._bytes = 0
        self._started = time.monotonic()

    # --- names ---------------------------------------------------------------------------------------
    @barrier
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Answer a name; absence is answered so that the kernel remembers it."""
        self._call(ctx.pid)
        folder = self._tree.node(Ino(parent_inode))
        try:
            node = await folder.find(name)
        except NotFound:
            return absent(forever=folder.forever)
        shown = self._entry(node, await node.attr())
        self._tree.hold(node.ino)
        return shown

    @barrier
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take back lookups."""
        for ino, lookups in inode_list:
            self._tree.forget(Ino(ino), lookups)

    @barrier
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Answer attributes."""
        self._call(ctx.pid)
        node = self._tree.node(Ino(inode))
        return self._entry(node, await node.attr())

    @barrier
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Answer a link's target, confined to its subvolume."""
        self._call(ctx.pid)
        return await self._tree.node(Ino(inode)).link()

    def _entry(self, node: Node, attr: Attr) -> pyfuse3.EntryAttributes:
        return entry(node.ino, attr, forever=node.forever, owner=self._owner)

    # --- directories -----------------------------------------------------------------------------------
    @barrier
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory; its listing is read page by page."""
        handle = self._handle()
        self._courtesy.asked(ctx.pid)
        self._folders[handle] = self._tree.node(Ino(inode)), ctx.pid
        return handle

    @barrier
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply rows with attributes until the kernel's buffer is full."""
        folder, pid = self._folders[fh]
        self._call(pid)
        tree, owner, reply = self._tree, self._owner, pyfuse3.readdir_reply
        forever = folder.forever
        index = start_id
        while True:
            child = folder.row(index)
            if child is None:
                if not await folder.more(index):
                    if index == start_id:
                        self._incomplete(folder)
                    return
                continue
            index += 1
            late = not forever and child.attr.kind is Kind.DIR
            shown = entry(
                child.ino, child.attr, forever=forever or (not late and bool(child.ino >> 48)), owner=owner
            )
            if not reply(token, child.name, shown, index):
                tree.forget_unheld(child.ino)
                return
            tree.hold(child.ino)

    def _incomplete(self, folder: Node) -> None:
        """End a listing that is not whole with an error: a short one would read as a smaller directory."""
        damaged = getattr(folder, "damaged", "")
        if damaged:
            logger.warning(log.LISTING_DAMAGED, extra={"inode": folder.ino, "why": damaged})
            raise pyfuse3.FUSEError(errno.EIO)

    @barrier
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        del self._folders[fh]

    # --- content ---------------------------------------------------------------------------------------
    @barrier
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Resolve a file's layout; reading it asks no parser."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        self._call(ctx.pid)
        node = self._tree.node(Ino(inode))
        self._pages.opening(inode)
        try:
            with self._courtesy.waiting(ctx.pid):
                file = await self._session.open(node)
                if node.forever:
                    await self._pages.give(inode, file)
        except BaseException:
            self._pages.closed(inode)
            raise
        handle = self._handle()
        self._files[handle] = file, ctx.pid
        return pyfuse3.FileInfo(fh=handle, direct_io=not node.forever, keep_cache=node.forever)

    @barrier
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Reply bytes; the common case neither waits nor changes threads."""
        file, pid = self._files[fh]
        courtesy = self._courtesy
        courtesy.asked(pid, size)
        if size >= LARGE and courtesy.greedy(pid):
            async with courtesy.way():
                data = await self._held_back(file, off, size)
        else:
            try:
                data = file.read_nowait(off, size)
                self._fast += 1
            except trio.WouldBlock:
                self._slow += 1
                with courtesy.waiting(pid):
                    data = await file.read(off, size)
        self._bytes += len(data)
        return data  # type: ignore[return-value]  # the binding replies from any buffer without a copy

    async def _held_back(self, file: OpenFile, off: int, size: int) -> bytes | bytearray | memoryview:
        """Read for who had much: nothing is decoded ahead of it."""
        try:
            data = file.read_nowait(off, size, ahead=False)
            self._fast += 1
        except trio.WouldBlock:
            self._slow += 1
            data = await file.read(off, size)
        return data

    @barrier
    async def release(self, fh: int) -> None:
        """Close a file."""
        self._pages.closed(self._files.pop(fh)[0].node.ino)

    @barrier
    async def flush(self, fh: int) -> None:
        """Do nothing, once: the kernel stops asking after ENOSYS."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @barrier
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """Leave it to the mode bits the kernel knows, once."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @barrier
    async def poll(
        self, inode: int, fh: int, poll_handle: pyfuse3.PollHandle | None, ctx: pyfuse3.RequestContext
    ) -> int:
        """Leave it to the kernel, once: files of a disk image are always ready."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    # --- beside the content ------------------------------------------------------------------------------
    @barrier
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """Answer attribute names."""
        self._call(ctx.pid)
        return list(await self._tree.node(Ino(inode)).xattrs())

    @barrier
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Answer an attribute."""
        self._call(ctx.pid)
        value = (await self._tree.node(Ino(inode)).xattrs()).get(name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value[: limits.MAX_XATTRS]

    @barrier
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer the size of the media, nothing of it free."""
        block = 4096
        size = sum(
            layer.size for layer in self._session.layers if layer.kind == "container" and layer.size > 0
        )
        shown = pyfuse3.StatvfsData()
        shown.f_bsize = shown.f_frsize = block
        shown.f_blocks = min(size // block, limits.MAX_SIZE)
        shown.f_bfree = shown.f_bavail = shown.f_files = shown.f_ffree = shown.f_favail = 0
        shown.f_namemax = limits.MAX_NAME
        return shown

    # --- own ----------------------------------------------------------------------------------------------
    def _call(self, pid: int) -> None:
        """Take note of whose request this is."""
        CALLER.set(pid)
        self._courtesy.asked(pid)

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def open_inodes(self) -> set[Ino]:
        """Return the numbers of open files, for invalidation when their media changed."""
        return {file.node.ino for file, _ in self._files.values()}

    def statistics(self) -> dict[str, float]:
        """Count requests. Units: seconds, bytes."""
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            "reads_answered_at_once": self._fast,
            "reads_that_waited": self._slow,
            "bytes_read": self._bytes,
            "reads_that_gave_way": self._courtesy.waited,
            "files_given_at_open": self._pages.stored,
            "open_files": len(self._files),
            "open_directories": len(self._folders),
        }


def _refuse(name: str) -> None:
    async def handler(self: Operations, *args: object, **kwargs: object) -> None:  # noqa: ARG001  # any signature
        raise pyfuse3.FUSEError(errno.EROFS)

    handler.__name__ = name
    handler.__doc__ = "Refuse: evidence is never written."
    setattr(Operations, name, barrier(handler))


for _name in (
    "create",
    "mknod",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "setattr",
    "write",
    "setxattr",
    "removexattr",
    "fsync",
    "fsyncdir",
):
    _refuse(_name)
