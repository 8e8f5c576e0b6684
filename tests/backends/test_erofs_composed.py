"""EROFS features that no tool at hand writes, composed, with the kernel as the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.testing.files import check_files, check_hostile
from tests.backends.compared import same
from tests.backends.erofscompose import DEFLATE, LZ4, LZMA, ZSTD, File, compose, cut
from tests.backends.kernel import shown
from tests.backends.romimages import KERNEL
from tests.backends.seen import digest
from tests.backends.tskimages import noise

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(9000))
ALGORITHMS = {"lz4": LZ4, "lzma": LZMA, "deflate": DEFLATE, "zstd": ZSTD}


def image(first: int, second: int) -> tuple[bytes, dict[bytes, bytes | None]]:
    shared = File(cut(TEXT[:60_000], 7000))
    files = {
        "text": File(cut(TEXT, 9001)),
        "both": File([*cut(TEXT[:30_000], 6000), *cut(TEXT[:49_146], 8191, 2), *cut(TEXT[:9000], 4500)]),
        "turned": File(
            [*cut(TEXT[:5000], 5000), *cut(noise(12_288, 1), 4096, 0), *cut(TEXT[:7000], 7000)], turned=True
        ),
        "plain": File([*cut(noise(8192, 2), 4096, 0), *cut(TEXT[:20_000], 10_000)]),
        "large plain": File(
            [*cut(TEXT[:8192], 8192), *cut(noise(200_704, 3), 4096, 0), *cut(TEXT[:8192], 8192)]
        ),
        "partial": File([(TEXT[:9000], 1, 5000), (TEXT[:9000], 1, 8999), *cut(TEXT[:100], 100)]),
        "fragment": File([], tail=(6990, TEXT[6990:30_000]), whole=True),
        "tail": File(cut(TEXT[:20_000], 5000), tail=(100, TEXT[100:3000])),
        "other tail": File(cut(TEXT[:20_000], 5000), tail=(3000, TEXT[3000:3001])),
    }
    truth: dict[bytes, bytes | None] = {name.encode(): file.data for name, file in files.items()}
    return compose(files, first, second, shared), truth


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_was_composed_is_read(tmp_path: Path, name: str) -> None:
    data, truth = image(ALGORITHMS[name], LZ4)
    (tmp_path / "image").write_bytes(data)
    assert set(check_files("erofs", tmp_path / "image", truth)) == set(truth)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_the_kernel_shows_is_shown(tmp_path: Path, name: str) -> None:
    data, truth = image(ALGORITHMS[name], DEFLATE)
    (tmp_path / "image").write_bytes(data)
    wanted = shown("erofs", tmp_path / "image", tmp_path / "mnt")
    bodies = {path: None if data is None else digest(data) for path, data in truth.items()}
    assert {path: seen.body for path, seen in wanted.items() if path} == bodies
    same("erofs", tmp_path / "image", wanted, KERNEL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_damage_stays_inside_the_contract(tmp_path: Path, name: str) -> None:
    data, _ = image(ALGORITHMS[name], LZ4)
    (tmp_path / "image").write_bytes(data)
    assert "walked" in check_hostile("erofs", tmp_path / "image", tmp_path, seeds=120)


@pytest.mark.parametrize("limit", ["_ROWS", "_LAYOUTS", "_TABLE"])
def test_tables_too_large_for_a_message_stay_with_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    data, truth = image(LZ4, ZSTD)
    (tmp_path / "image").write_bytes(data)
    monkeypatch.setattr(f"imgfs.backends.erofs.layout.{limit}", 0 if limit != "_TABLE" else 30)
    check_files("erofs", tmp_path / "image", truth)
