"""``python -P -m imgfs.daemon FD``: configuration on standard input, one line to FD when live or failed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import traceback

import trio

from imgfs import runtime
from imgfs.daemon import crash, mount
from imgfs.daemon.config import Config
from imgfs.errors import ImgfsError

_ATOMIC = 4000  # bytes of a line that a pipe takes whole
_COLLECT = (50_000, 20, 50)
# M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX of <malloc.h>
_MALLOC = {-1: 1 << 30, -2: 16 << 20, -3: 32 << 20, -8: 1}


def main() -> int:
    """Serve one mount; returns the exit code."""
    # Listings are hundreds of thousands of small objects without cycles: looking for some among them
    # at the default rate is a tenth of the time of a walk.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    _keep_memory()
    config = Config.load(sys.stdin.buffer.read())
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    _let_go()

    told = False

    def live() -> None:
        nonlocal told
        if os.environ.get("IMGFS_FOREGROUND") != "1":
            crash.listen(runtime.path_of(os.getpid()))
        _say(report, {"live": os.getpid()})
        told = True

    def progress(rows: list[tuple[str, int, int]]) -> None:
        with contextlib.suppress(OSError):  # a starter that does not read misses it
            os.write(report, json.dumps({"progress": rows}).encode()[:_ATOMIC] + b"\n")

    os.set_blocking(report, False)
    try:
        trio.run(mount.run, config, live, progress)
    except BaseException as why:  # noqa: BLE001  # reported, whatever it is
        error = _first(why)
        message = error.message if isinstance(error, ImgfsError) else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, ImgfsError) else 70
        if told:  # the starter has gone on, and its descriptor may be somebody else's by now
            traceback.print_exc()
            return code
        trace = "" if isinstance(error, ImgfsError) else traceback.format_exc()
        _say(report, {"error": message, "exit": code, "traceback": trace})
        return code
    return 0


def _first(why: BaseException) -> BaseException:
    """Return the first error of a group that imgfs raised on purpose, else the first of all."""
    if not isinstance(why, BaseExceptionGroup):
        return why
    parts = [_first(part) for part in why.exceptions]
    return next((part for part in parts if isinstance(part, ImgfsError)), parts[0])


def _keep_memory() -> None:
    """Let the C library keep what it was given: replies of a mebibyte come and go with every request.

    Mapped and trimmed for each of them, a third of the time of reading an E01 went into page faults.
    What is kept is bounded by the caches and the requests in flight.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, value in _MALLOC.items():
            library.mallopt(option, value)


def _let_go() -> None:
    """Give up what would keep the caller's terminal or directory busy."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if os.environ.get("IMGFS_FOREGROUND") != "1":
        os.setsid()
        os.dup2(null, 1)
        os.dup2(null, 2)
    os.close(null)


def _say(report: int, row: dict[str, object]) -> None:
    """Tell whoever started us, once; a starter that is gone does not matter."""
    with contextlib.suppress(OSError):
        os.set_blocking(report, True)
        os.write(report, json.dumps(row).encode() + b"\n")
        os.close(report)


if __name__ == "__main__":
    sys.exit(main())
