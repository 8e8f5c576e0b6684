"""What is installed is whole: the wheel alone gives the command, its parsers and its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.mounts import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what belongs to it: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(ROOT / "imgfs", source / "imgfs", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("setuptools cannot be fetched here")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_installs_the_command(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if name.startswith("imgfs/")}
    here = {str(p.relative_to(ROOT)) for p in (ROOT / "imgfs").rglob("*.py")}
    built = {name for name in held if name.endswith(".so")}
    sources = {
        str(p.relative_to(ROOT)) for form in ("*.c", "*.h", "*.pyi") for p in (ROOT / "imgfs").rglob(form)
    }
    assert held - built - sources == here | {"imgfs/py.typed"}
    assert len(built) <= len([name for name in sources if name.endswith(".c")]), "where there is a compiler"
    home = tmp_path / "venv"
    # with the libraries of this environment: what is tested is the package, not the network
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next((home / "lib").glob("python3*/site-packages"))
    libraries = next(p for p in map(Path, sys.path) if (p / "trio").is_dir())
    (site / "libraries.pth").write_text(f"{libraries}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    image = tmp_path / "case" / "disk.dd"
    image.parent.mkdir()
    image.write_bytes(bytes(8192))
    point = tmp_path.resolve() / "mnt"
    program = home / "bin/imgfs"
    subprocess.run([program, "mount", image, point], check=True, capture_output=True, cwd=tmp_path)
    try:
        assert (point / "disk.dd/disk.raw").read_bytes() == bytes(8192)
    finally:
        subprocess.run([program, "umount", point], check=True, cwd=tmp_path)
    where = [home / "bin/python", "-c", "import imgfs; print(imgfs.__file__)"]
    said = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert Path(said.strip()).is_relative_to(home)
