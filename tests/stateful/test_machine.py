"""One machine over a real mount: whatever is asked in whatever order, while workers are killed."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.peers import LOW, events
from tests.stateful.conftest import Disk, drop_caches, workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

pytestmark = pytest.mark.slow


def machine(disk: Disk) -> type[RuleBasedStateMachine]:
    """Return a machine over one mounted disk; its rules cannot be given the disk in another way."""
    paths = sorted(disk.files)
    folders = sorted(disk.folders)

    class Mount(RuleBasedStateMachine):
        """Law: every answer is right, or an error of which an event tells."""

        def __init__(self) -> None:
            super().__init__()
            self.open: list[tuple[str, int]] = []

        def told(self, asked: Callable[[], T]) -> T | None:
            """Ask; an error must be EIO with a new event."""
            before = len(events(disk.point))
            try:
                return asked()
            except OSError as why:
                assert why.errno == errno.EIO, why
                assert len(events(disk.point)) > before, why
                return None

        @rule(path=st.sampled_from(paths))
        def stat(self, path: str) -> None:
            status = self.told(lambda: os.stat(disk.root / path))
            assert status is None or status.st_size == len(disk.files[path])

        @rule(folder=st.sampled_from(folders))
        def list(self, folder: str) -> None:
            names = self.told(lambda: os.listdir(disk.root / folder))
            assert names is None or set(names) == disk.folders[folder]

        @rule(folder=st.sampled_from(folders), name=st.text("abc123", min_size=1, max_size=5))
        def lookup_of_nothing(self, folder: str, name: str) -> None:
            assert not self.told((disk.root / folder / name).exists)

        @rule(path=st.sampled_from([path for path in paths if "/probe" in path]))
        def attributes(self, path: str) -> None:
            said = self.told(lambda: os.getxattr(disk.root / path, "user.imgfs.inum"))
            assert said is None or int(said) == os.stat(disk.root / path).st_ino & LOW

        @rule(path=st.sampled_from(paths))
        def open_file(self, path: str) -> None:
            fd = self.told(lambda: os.open(disk.root / path, os.O_RDONLY))
            if fd is not None:
                self.open.append((path, fd))

        @precondition(lambda self: self.open)
        @rule(
            which=st.integers(0, 1 << 20),
            at=st.integers(0, 500_000),
            length=st.sampled_from([1, 4096, 150_000]),
        )
        def read(self, which: int, at: int, length: int) -> None:
            path, fd = self.open[which % len(self.open)]
            # an open file needs no parser: its reads are right whatever died
            assert os.pread(fd, length, at) == disk.files[path][at : at + length]

        @precondition(lambda self: self.open)
        @rule(which=st.integers(0, 1 << 20))
        def close(self, which: int) -> None:
            _, fd = self.open.pop(which % len(self.open))
            os.close(fd)

        @rule()
        def forget(self) -> None:
            drop_caches(disk.root, paths)

        @rule(
            which=st.integers(0, 1 << 20),
            number=st.sampled_from([signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]),
        )
        def kill(self, which: int, number: int) -> None:
            found = workers(disk.point)
            if found:
                with suppress(ProcessLookupError):
                    os.kill(found[which % len(found)], number)

        def teardown(self) -> None:
            for _, fd in self.open:
                os.close(fd)

    return Mount


def test_every_answer_is_right_or_an_error_with_an_event(disk: Disk) -> None:
    run_state_machine_as_test(
        machine(disk),
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    for name, data in disk.files.items():
        assert (disk.root / name).read_bytes() == data
