"""The sandbox refuses what a captured parser would try, and it is the sandbox that refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from imgfs.worker import sandbox
from tests.worker import attempts

pytestmark = pytest.mark.skipif(
    not attempts.SUPPORTED or bool(sandbox.status().missing),
    reason="numbers of x86_64, a kernel with seccomp",
)
USERS = [os.getuid(), *([65534] if os.getuid() == 0 else [])]
# Refused outside too on hardened or containerised hosts, with the same number: nothing is proved there.
NATURAL = {
    "open fuse",
    "proc mem",
    "tiocsti",
    "bpf",
    "mount",
    "by handle",
    "shmget",
    "keyctl",
    "unshare",
    "dumpable",
}
NATURAL |= {"kill parent", "tgkill parent", "io_uring", "userfaultfd", "x32", "fchmod", "memory", "reopen"}


def run(name: str, *, inside: bool, uid: int) -> str:
    """Attempt in a fresh interpreter: the test process has threads and pytest's descriptors."""
    code = f"from tests.worker.attempts import attempt; print(attempt({name!r}, inside={inside}, uid={uid}))"
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("uid", USERS)
@pytest.mark.parametrize("name", attempts.ATTEMPTS)
def test_an_attempt_is_refused_inside_and_not_outside(name: str, uid: int) -> None:
    inside = run(name, inside=True, uid=uid)
    if name in attempts.FAULTS:
        assert inside == f"signal {attempts.FAULTS[name].value}", "a fault is reported as what it is"
        return
    assert inside != "done", f"{name} got through"
    outside = run(name, inside=False, uid=uid)
    if outside == inside:
        assert name in NATURAL, f"{name}: {outside} with and without the sandbox"


def _python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_a_worker_proves_its_sandbox_and_lies_are_not_believed() -> None:
    code = (
        "import os; from imgfs.worker import sandbox; parent = os.getppid(); sandbox.enter({0, 1, 2});"
        " print(sorted(sandbox.prove(parent)))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = _python(code, environment)
    assert "execute" in done.stdout, done.stderr
    naked = code.replace("sandbox.enter({0, 1, 2});", "")
    done = _python(naked, environment)
    assert "got through" in done.stderr


def test_status_says_what_the_kernel_offers() -> None:
    status = sandbox.status()
    assert status.seccomp
    assert status.machine
    assert status.landlock >= 0
    assert status.missing == ""
