"""The guest's files: Debian packages, fetched by apt and unpacked into a cache, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

WANTED = (
    "busybox-static", "kmod", "mdadm", "lvm2", "dmsetup", "thin-provisioning-tools", "cryptsetup-bin",
    "e2fsprogs", "xfsprogs", "btrfs-progs", "udftools", "dosfstools", "exfatprogs", "python3",
)  # fmt: skip
# what the packages want for their installation, or for tools that no recipe calls
_UNUSED = re.compile(
    r"perl|libperl|dpkg|debconf|usrmerge|adduser|libicu|libdb5|lsb-base|init-system|media-types|tar_|python3_"
    r"|python3\.11_|libsqlite|libpam|sysvinit|libgdbm|passwd"
)


def cache() -> Path:
    """Return the folder of what is fetched and built."""
    named = os.environ.get("IMGFS_GUEST_CACHE")
    folder = (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "imgfs-guest"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unpacked() -> Path:
    """Return a folder with the files of the tools and of a kernel, unpacked once."""
    stamp = " ".join(WANTED)
    root = cache() / "root"
    done = cache() / "unpacked"
    if done.exists() and done.read_text() == stamp:
        return root
    shutil.rmtree(root, ignore_errors=True)
    debs = cache() / "debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir()
    _apt("apt-get", "download", *_closure(), _kernel(), cwd=debs)
    root.mkdir()
    for deb in sorted(debs.iterdir()):
        _apt("dpkg-deb", "-x", str(deb), str(root))
    shutil.rmtree(debs)
    for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"):
        shutil.rmtree(root / unused, ignore_errors=True)
    done.write_text(stamp)
    return root


def _closure() -> list[str]:
    """Return the packages and all they depend on, as if nothing were installed: name=version."""
    nothing = cache() / "status"
    nothing.touch()
    empty = cache() / "archives"  # what lies in apt's own would not be named
    (empty / "partial").mkdir(parents=True, exist_ok=True)
    said = _apt(
        "apt-get", "-o", f"Dir::State::status={nothing}", "-o", f"Dir::Cache::archives={empty}",
        "-o", "Debug::NoLocking=1", "install", "-y", "--no-install-recommends", "--print-uris", *WANTED,
    )  # fmt: skip
    files = [line.split()[1] for line in said.splitlines() if line.startswith("'")]
    named = [file.split("_") for file in files if not _UNUSED.match(file)]
    return [f"{name}={version.replace('%3a', ':')}" for name, version, _ in named]


def _kernel() -> str:
    said = _apt("apt-cache", "depends", "linux-image-amd64")
    return next(line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:"))


def _apt(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr.strip()[-2000:]}")
    return done.stdout
