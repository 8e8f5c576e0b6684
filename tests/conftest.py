"""What all tests share: where the corpus is, whether this user can mount, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import sample

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


def shared() -> Path | None:
    """Return the folder of the corpus, when it is there."""
    named = os.environ.get("IMGFS_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    return folder if (folder / "corpus" / "INDEX.json").exists() else None


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the folder of the corpus, or skip."""
    folder = shared()
    if folder is None:
        pytest.skip("the corpus is not beside the project")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let indexes be kept where the user has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the product that leaves descriptors open; back-ends alone hold what tests gave them."""
    before = _descriptors()
    yield
    left = {fd: where for fd, where in _descriptors().items() if fd not in before}
    if left:
        gc.collect()
        left = {fd: where for fd, where in _descriptors().items() if fd not in before}
    if "backends" in request.path.parts:
        return
    assert not left, f"descriptors left open: {left}"


def _descriptors() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            where = str(path.readlink())
        except OSError:
            continue  # the descriptor of the listing itself
        if where.startswith("/") and not where.startswith(("/dev/", "/proc/")):
            found[path.name] = where
    return found


@pytest.fixture(scope="session")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sample disk: laptop.dd and laptop.E01, .E02 ..."""
    folder = tmp_path_factory.mktemp("laptop")
    sample.disk(folder / "laptop.dd")
    sample.acquire(folder / "laptop.dd", folder / "laptop")
    return folder
