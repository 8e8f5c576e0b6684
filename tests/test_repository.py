"""Laws about the project itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pyfuse3
import pytest

from imgfs.backends import discover
from imgfs.daemon.operations import Operations
from tests.matrix import rewritten

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "imgfs").rglob("*.py"))
_HARD = 400
_SOFT = 300


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_files_have_one_responsibility_each() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > _HARD}
    assert not long


def test_most_files_stay_below_the_soft_limit() -> None:
    over = [p for p in SOURCES if len(p.read_text().splitlines()) > _SOFT]
    assert len(over) <= len(SOURCES) // 8, over


def test_every_handler_stands_behind_the_barrier() -> None:
    handlers = [
        name
        for name, _ in inspect.getmembers(pyfuse3.Operations, inspect.iscoroutinefunction)
        if not name.startswith("_")
    ]
    assert "read" in handlers
    assert "readdir" in handlers
    unguarded = [name for name in handlers if not getattr(getattr(Operations, name), "guarded", False)]
    assert not unguarded


def test_backends_import_no_parser_library() -> None:
    code = "import imgfs.backends as b, sys; b.discover(); print(*sorted(sys.modules))"
    loaded = said(sys.executable, "-c", code)
    libraries = {name for backend in discover().values() for name in backend.imports}
    assert libraries
    assert not libraries & set(loaded.split())


def test_the_daemon_loads_no_parser_and_no_command_line() -> None:
    code = "import imgfs.daemon.__main__, sys; print(*sorted(sys.modules))"
    loaded = set(said(sys.executable, "-c", code).split())
    libraries = {name for backend in discover().values() for name in backend.imports}
    assert not (libraries | {"click", "rich", "tests"}) & loaded


def test_the_support_matrix_is_what_the_backends_declare() -> None:
    text = (ROOT / "README.md").read_text()
    assert rewritten(text) == text, "run ./dev matrix"


def test_nothing_of_a_machine_stands_in_the_project() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    for name in said("git", "ls-files").split():
        data = (ROOT / name).read_bytes()
        assert len(data) <= 256 * 1024, f"{name}: data stays out of the repository"
        assert b"/home/" not in data or name.startswith("tests/"), name
