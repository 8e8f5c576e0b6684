"""Every exit code of the table, provoked; and that the table is the one of the exceptions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgfs import errors
from imgfs.cli import main
from tests.mounts import COMMAND, ROOT, imgfs


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.dd"
    path.write_bytes(bytes(1 << 20))
    return path


def code(*arguments: str | Path) -> tuple[int, str]:
    done = imgfs(*arguments, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_0_done(image: Path) -> None:
    assert code("ls", image) == (0, "")


@pytest.mark.slow
def test_1_an_operation_failed(image: Path) -> None:
    assert code("cat", f"{image}:missing")[0] == 1


@pytest.mark.slow
def test_2_the_command_can_be_mended(image: Path) -> None:
    for wrong in (("frobnicate",), ("info",), ("info", "--frob", image), ("umount",), ("ls", "missing.dd")):
        number, said = code(*wrong)
        assert number == 2, wrong
        assert said.startswith(("imgfs: ", "Usage: "))
    assert "xxl" in code("info", "--offset", "xxl", image)[1]


def test_3_fuse_or_the_mount_point(tmp_path: Path) -> None:
    number, said = code("umount", tmp_path)
    assert number == 3
    assert "no imgfs is mounted there" in said


@pytest.mark.slow
def test_4_no_sandbox(image: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    inject = ["strace", "-f", "-o", os.devnull, "-e", "trace=seccomp", "-e", "inject=seccomp:error=ENOSYS"]
    command = [*inject, *COMMAND, "info", image]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("this system does not allow tracing")
    assert done.returncode == 4
    assert "cannot be isolated" in done.stderr


@pytest.mark.slow
def test_5_recognised_but_not_supported(tmp_path: Path) -> None:
    image = tmp_path / "disk.qed"
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qed", image, "1M"], check=True)
    number, said = code("ls", f"{image}:root")
    assert (number, "qed" in said.lower()) == (5, True), said
    shown = imgfs("info", image)
    assert "unsupported: " in shown.stdout


@pytest.mark.slow
def test_6_the_evidence_is_damaged(laptop: Path, tmp_path: Path) -> None:
    for part in laptop.glob("laptop.E0?"):
        shutil.copyfile(part, tmp_path / part.name)
    (tmp_path / "laptop.E03").unlink()
    number, said = code("verify", tmp_path / "laptop.E01")
    assert number == 6
    assert "not what was acquired" in said


def test_7_locked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main._fail(errors.NeedKey("disk.dd: a password is needed")) == 7  # no such format is read yet
    assert capsys.readouterr().err == "imgfs: disk.dd: a password is needed\n"


def test_70_a_bug_is_one_line_and_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMGFS_TRACEBACK", raising=False)
    assert main._fail(ZeroDivisionError("what")) == 70
    assert capsys.readouterr().err.startswith("imgfs: a bug: ZeroDivisionError: what (IMGFS_TRACEBACK=1")
    monkeypatch.setenv("IMGFS_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main._fail(ZeroDivisionError("what"))


def _interruptible() -> None:
    """Undo what a shell does to its background jobs, whose children inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_130_interrupted(tmp_path: Path) -> None:
    image = tmp_path / "disk.dd"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    command = [*COMMAND, "cat", f"{image}:disk.raw"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=_interruptible,  # noqa: PLW1509  # a child that execs at once
    ) as running:
        assert running.stdout is not None
        assert running.stdout.read(1)  # it writes, and will wait for a reader
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert running.stderr is not None
        assert running.stderr.read().strip() == b""


def test_the_table_in_the_help_has_every_code() -> None:
    said = imgfs("--help").stdout
    codes = {
        why.exit_code for why in vars(errors).values() if isinstance(why, type) and hasattr(why, "exit_code")
    }
    for number in codes | {70, 130}:
        assert f"  {number} " in said, number
    assert "..." not in said.partition("Commands:")[2], "what a verb does fits its line"


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb",
    ["mount", "umount", "mounts", "info", "ls", "tree", "stat", "cat", "verify", "doctor", "completion"],
)
def test_every_verb_explains_itself(verb: str) -> None:
    said = imgfs(verb, "--help").stdout
    assert said.startswith(f"Usage: imgfs {verb} ")
    assert "-h, --help" in said


def test_the_version_is_the_packages() -> None:
    from imgfs import __version__

    assert imgfs("--version").stdout == f"imgfs, version {__version__}\n"
    assert sys.version_info >= (3, 11)
