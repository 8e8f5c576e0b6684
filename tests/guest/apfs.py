"""What a guest needs to write APFS: Debian's out-of-tree kernel module, built for its kernel, and its tools.

    python -m tests.guest.apfs           print the path of the kit, built once into the cache

The module and ``apfsprogs`` are GPL programs that are called, never linked or read. Debian 12 has them
without a tool for snapshots: they come from the release after it. Needed, besides what the guest needs:
gcc, make and objcopy of the host.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.guest import packages

_SUITE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_TOOLS = ("mkapfs", "apfs-snap", "apfsck")
_CARRIED = 1 << 20  # a disk is a whole number of these


def kit() -> Path:
    """Return an archive of ``apfs.ko`` and the tools, that a recipe takes as a disk.

    Raises:
        RuntimeError: a package or a compiler is missing; what was said is in the message.
    """
    root = packages.unpacked()
    version = next(iter((root / "lib/modules").iterdir())).name
    made = packages.cache() / f"apfs-{version}.tar"
    if not made.exists():
        folder = packages.cache() / "apfs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tools = _unpacked(folder / "tools", ("apfsprogs", "apfs-dkms"), _later(folder))
        flavour = version.rpartition("-")[2]
        plain = version.removesuffix(f"-{flavour}")
        kbuild = f"linux-kbuild-{'.'.join(version.split('.')[:2])}"
        heads = (f"linux-headers-{version}", f"linux-headers-{plain}-common", kbuild)
        module = _module(_unpacked(folder / "headers", heads), next((tools / "usr/src").iterdir()), version)
        made.write_bytes(_packed([module, *(tools / "usr/sbin" / name for name in _TOOLS)]))
        shutil.rmtree(folder)
    return made


def _later(folder: Path) -> list[str]:
    """Return apt's options for the later release, with lists of its own."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    source = folder / "later.list"
    source.write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {_SUITE} main\n")
    told = {
        "Dir::Etc::sourcelist": source, "Dir::Etc::sourceparts": "-", "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status", "Dir::Cache": folder, "Debug::NoLocking": 1,
    }  # fmt: skip
    options = [word for name, value in told.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *options, "update")
    return options


def _mirror() -> str:
    """Return where this machine gets its packages from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.rstrip("/").endswith("/debian"):
            return line
    raise RuntimeError("apt knows no mirror of Debian")


def _unpacked(folder: Path, names: tuple[str, ...], options: list[str] | None = None) -> Path:
    """Fetch packages and unpack them into a folder."""
    debs = folder.with_name(f"{folder.name}-debs")
    debs.mkdir()
    _run("apt-get", *options or (), "download", *names, cwd=debs)
    for deb in sorted(debs.iterdir()):
        _run("dpkg-deb", "-x", str(deb), str(folder))
    return folder


def _module(headers: Path, source: Path, version: str) -> Path:
    """Build the module against headers that lie elsewhere than they think."""
    heads = headers / "usr/src" / f"linux-headers-{version}"
    for makefile in heads.parent.glob("linux-headers-*/Makefile"):
        makefile.write_text(makefile.read_text().replace("/usr/src/", f"{heads.parent}/"))
    _run("sh", "genver.sh", cwd=source)
    _run("make", "-C", str(heads), f"M={source}", "modules")
    _run("objcopy", "--strip-debug", str(source / "apfs.ko"))
    return source / "apfs.ko"


def _packed(paths: list[Path]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in paths:
            archive.add(path, path.name)
    return made.getvalue() + bytes(-len(made.getvalue()) % _CARRIED)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[-2000:]}")


if __name__ == "__main__":
    print(kit())
