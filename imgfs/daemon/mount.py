"""Session, FUSE and signals put together: the life of one daemon."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyfuse3
import trio

from imgfs import limits, log, runtime
from imgfs.daemon import control, events, mountpoint, status, unlocking
from imgfs.daemon.attributes import Owner
from imgfs.daemon.operations import Operations
from imgfs.errors import MediaChanged, MountError, UsageError
from imgfs.opening.resolve import soon
from imgfs.session import open_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgfs.daemon.config import Config
    from imgfs.session import Session

Row = tuple[str, int, int]  # what is being made, bytes done, all of them

logger = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for the kernel to take our answer to INIT
_EVERY = 0.2  # seconds between two words about progress
_MOMENT = 5.0  # seconds in which it is known whether an index must be made; opening a container takes less
_GLANCE = 0.02
_SHOWN = 8  # images whose progress is told
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def run(
    config: Config, live: Callable[[], None], progress: Callable[[list[Row]], None] = lambda _rows: None
) -> None:
    """Mount and serve until unmounted, told to end, or failed.

    While indexes are being made that images need to be read, ``progress`` is told; ``live`` is called behind
    it.

    A failure leaves the mount in place, where it answers ENOTCONN: an empty directory would read as
    "no files were found" to a tool that is still walking it.

    Raises:
        UsageError, MountError, SandboxError: before ``live`` was called.
    """
    log_events = events.install(config.log)
    if config.settings.overrule.keys:
        unlocking.hide()
    where = Path(config.mountpoint)
    async with open_session(config.paths(), config.settings) as session:
        created = mountpoint.prepare(where, config.paths())
        try:
            operations = Operations(session, _owner(config))
            status.add(session, log_events, operations.statistics)
            _init(operations, config)
        except BaseException:
            if created:
                mountpoint.remove(where)
            raise
        record = runtime.Record(
            pid=os.getpid(),
            mountpoint=config.mountpoint,
            images=config.images,
            user=_user(),
            since=time.time(),
            created=created,
        )
        path = runtime.write(record)
        clean = False
        try:
            await _serve(session, operations, config, path, live, progress)
            clean = True
        finally:
            pyfuse3.close(unmount=clean)
            if clean:
                runtime.remove(path)
                if created:
                    mountpoint.remove(where)


async def _serve(
    session: Session,
    operations: Operations,
    config: Config,
    record: Path,
    live: Callable[[], None],
    progress: Callable[[list[Row]], None],
) -> None:
    resolved = trio.Event()
    session.tree.root.fill_with(partial(soon, resolved))
    async with trio.open_nursery() as nursery:

        async def resolve() -> None:
            try:
                await session.resolve()
            except Exception:  # the mount shows what was reached; ending it would show nothing
                logger.exception(log.RESOLVE_FAILED)
            finally:
                resolved.set()

        async def unmount(_: control.Request) -> dict[str, object]:
            pyfuse3.terminate()
            return {"pid": os.getpid()}

        async def locked(_: control.Request) -> dict[str, object]:
            await resolved.wait()
            return {"locked": unlocking.locked(session)}

        async def unlock(request: control.Request) -> dict[str, object]:
            await resolved.wait()
            reply = await unlocking.unlock(session, request)
            await _replaced(session)
            return reply

        async def report(_: control.Request) -> dict[str, object]:
            return {"pid": os.getpid(), "images": list(config.images), "mountpoint": config.mountpoint}

        verbs = {"unmount": unmount, "status": report, "locked": locked, "unlock": unlock}
        await nursery.start(partial(control.serve, record.with_suffix(".sock"), verbs, os.getuid()))
        await nursery.start(_signals)  # before ``live``: a signal would end us without unmounting
        nursery.start_soon(_watch, session, operations)
        nursery.start_soon(_announce, config.mountpoint, live, partial(_indexed, session, resolved, progress))
        nursery.start_soon(resolve)
        await pyfuse3.main()
        logger.info(log.UNMOUNTED, extra={"mountpoint": config.mountpoint})
        nursery.cancel_scope.cancel()


async def _indexed(session: Session, resolved: trio.Event, progress: Callable[[list[Row]], None]) -> None:
    """Wait while indexes are being made, and say how far they are; not for long whether one will be."""
    until = trio.current_time() + _MOMENT
    while not resolved.is_set():
        rows = [making for layer in session.layers if (making := layer.making) is not None]
        containers = [layer for layer in session.layers if layer.kind == "container"]
        if rows:
            progress(rows[:_SHOWN])
            until = trio.current_time() + _MOMENT
        elif trio.current_time() > until or (
            containers and all(one.state != "pending" for one in containers)
        ):
            return
        with trio.move_on_after(_EVERY if rows else _GLANCE):
            await resolved.wait()


async def _announce(where: str, live: Callable[[], None], indexed: Callable[[], Awaitable[None]]) -> None:
    """Say that the mount is live, once the kernel has taken our answer to INIT: it asks nothing before.

    Then it may be told to ask for 1 MiB at a time instead of 128 KiB: only root may, and nothing depends on
    it. Later it would be too late for the first reader: a file keeps what it was opened with.
    """
    with trio.move_on_after(_PATIENCE), suppress(OSError):
        await trio.to_thread.run_sync(os.statvfs, where, abandon_on_cancel=True)
    runtime.set_read_ahead(where, limits.READ_AHEAD_KIB)
    logger.info(log.MOUNTED, extra={"mountpoint": where})
    await indexed()
    live()


async def _signals(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(*_ENDS, signal.SIGUSR1) as received:
        task_status.started()
        async for number in received:
            if number == signal.SIGUSR1:
                _stacks()
            else:
                pyfuse3.terminate()


def _stacks() -> None:
    """Write the stacks of all tasks and threads to the event log."""
    found = {}
    for task in _tasks():
        frames = [f"{f.f_code.co_filename}:{line} {f.f_code.co_name}" for f, line in task.iter_await_frames()]
        found[task.name] = frames
    threads = {str(ident): traceback.format_stack(frame) for ident, frame in sys._current_frames().items()}
    logger.info(log.STACKS, extra={"tasks": found, "threads": threads})


def _tasks() -> list[trio.lowlevel.Task]:
    todo = [trio.lowlevel.current_root_task()]
    found = []
    while todo:
        task = todo.pop()
        if task is not None:
            found.append(task)
            for nursery in task.child_nurseries:
                todo += nursery.child_tasks
    return found


async def _watch(session: Session, operations: Operations) -> None:
    """Notice what became something else; a changed host file within a second, while it is used (INV-14)."""
    changed = False
    while not changed:
        await trio.sleep(limits.CHECK_HOST_EVERY)
        await _replaced(session)
        for evidence in session.evidence:
            for file in evidence.files:
                try:
                    file.check()
                except MediaChanged as why:
                    changed = True
                    logger.warning(log.MEDIA_CHANGED, extra={"spec": file.name, "why": str(why)})
    for ino in operations.open_inodes():
        try:
            pyfuse3.invalidate_inode(ino)
        except OSError:
            continue  # the kernel holds nothing of it


async def _replaced(session: Session) -> None:
    """Let the kernel ask again what names are that became something else."""
    for folder, name in session.replaced():
        await trio.to_thread.run_sync(_forgotten, folder, name)


def _forgotten(folder: int, name: bytes) -> None:
    """Make the kernel forget a name. Runs in a thread: the kernel may be waiting for an answer."""
    with suppress(OSError):  # it knows no such name
        pyfuse3.invalidate_entry(folder, name)


def _init(operations: Operations, config: Config) -> None:
    """Mount. Options are set one by one: the binding's defaults would enforce the evidence's modes.

    Raises:
        MountError: FUSE refuses, with what can be done.
    """
    fsname = config.fsname or Path(config.images[0]).name
    options = {"ro", "nosuid", "nodev", "noexec", "subtype=imgfs", f"fsname={_option(fsname)}"}
    if config.allow_other:
        options |= {"allow_other", "default_permissions"}
    try:
        pyfuse3.init(operations, config.mountpoint, options)
    except RuntimeError as why:
        raise MountError(_advice(config)) from why


def _advice(config: Config) -> str:
    if not Path("/dev/fuse").exists():
        return "/dev/fuse does not exist: modprobe fuse; a container must be given the device"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse: not readable and writable by you (as root: chmod 666 /dev/fuse, or imgfs doctor)"
    if config.allow_other and os.getuid():
        return (
            "allow_other needs the line user_allow_other in /etc/fuse.conf; without it only you see the mount"
        )
    return f"{config.mountpoint}: FUSE refused to mount; imgfs doctor says what is missing"


def _option(text: str) -> str:
    """Return a name as a mount option value: commas and backslashes would start another option."""
    return "".join("_" if c in ",\\" or not c.isprintable() else c for c in text)[:128] or "imgfs"


def _owner(config: Config) -> Owner:
    if config.uid < -1 or config.gid < -1:
        raise UsageError("uid= and gid= are numbers from 0")
    return Owner(os.getuid() if config.uid < 0 else config.uid, os.getgid() if config.gid < 0 else config.gid)


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
