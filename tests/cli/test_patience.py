"""What takes long is said on a terminal, after a second, and nowhere else."""

from __future__ import annotations

import os
import pty
import sys
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from imgfs.cli.sessions import patience


async def wait(seconds: float) -> None:
    async with patience("opening disk.dd"):
        await trio.sleep(seconds)


@pytest.mark.parametrize("seconds,told", [(0.5, 0), (5.0, 1)])
def test_a_terminal_is_told_after_a_second(
    seconds: float, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        trio.run(wait, seconds, clock=MockClock(autojump_threshold=0))
    said = bytearray()
    with suppress(OSError):  # EIO: all that was written has been read
        while data := os.read(ours, 65536):
            said += data
    os.close(ours)
    assert (b"opening disk.dd" in said) == told


def test_what_is_no_terminal_is_told_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    trio.run(wait, 5.0, clock=MockClock(autojump_threshold=0))
    assert capfd.readouterr() == ("", "")


def test_an_error_comes_through_as_it_was() -> None:
    async def fail() -> None:
        async with patience("opening"):
            raise LookupError("what")

    with pytest.raises(LookupError, match="what"):
        trio.run(fail)
