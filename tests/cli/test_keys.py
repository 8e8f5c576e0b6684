"""Where keys are, and where they never are; and what an analyst sees who has them or not."""

from __future__ import annotations

import json
import os
import random
import re
from contextlib import suppress
from pathlib import Path

import pytest

from tests.backends.test_luks import PASSWORD, encrypted, formatted
from tests.mounts import daemon, imgfs, mounted

MIB = 1 << 20


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> tuple[Path, bytes, bytes]:
    """Return an image of LUKS, its volume key, and its plaintext."""
    folder = tmp_path_factory.mktemp("keys")
    path, key, at = formatted(folder, "2")
    plain = random.Random(9).randbytes(4 * MIB)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(encrypted("2", key, plain))
    return path, key, plain


def key_file(folder: Path, *rows: tuple[str, str]) -> Path:
    path = folder / "keys.toml"
    path.write_text("".join(f'[[key]]\ntype = "{kind}"\nvalue = "{value}"\n' for kind, value in rows))
    path.chmod(0o600)
    return path


def children(pid: int) -> set[int]:
    """Return all processes below one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            text = (entry / "stat").read_text()
            parents[int(entry.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    below, todo = set(), [pid]
    while todo:
        one = todo.pop()
        more = [child for child, parent in parents.items() if parent == one]
        below |= set(more)
        todo += more
    return below


def memory(pid: int) -> bytes:
    """Return what a process could write to, as far as it can be read."""
    held = []
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match and int(match[2], 16) - int(match[1], 16) < 512 * MIB:
                with suppress(OSError):
                    file.seek(int(match[1], 16))
                    held.append(file.read(int(match[2], 16) - int(match[1], 16)))
    return b"".join(held)


def test_a_key_is_where_it_is_used_and_nowhere_else(volume, tmp_path: Path) -> None:
    path, key, plain = volume
    secret = PASSWORD.decode()
    keys = key_file(tmp_path, ("password", secret))
    log = tmp_path / "events"
    with mounted(path, at=tmp_path / "m", options=("--keys", str(keys), "-o", f"log={log}")) as root:
        (raw,) = (root / path.name).glob("00-luks.*/volume.raw")
        assert raw.read_bytes()[: len(plain)] == plain
        pid = daemon(root)
        told = b"".join(one.read_bytes() for one in (root / ".imgfs").iterdir()) + log.read_bytes()
        assert key not in told
        assert key.hex().encode() not in told
        assert PASSWORD not in told
        below = children(pid)
        assert below, "no template, no worker"
        for one in (pid, *below):
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    assert PASSWORD not in Path(f"/proc/{one}/{name}").read_bytes()
        if os.geteuid():
            for one in (pid, *below):
                with pytest.raises(OSError):
                    Path(f"/proc/{one}/mem").open("rb").close()
            return
        for one in below:
            held = memory(one)
            assert held, "nothing was looked at"
            assert key not in held, f"the volume key is in process {one}"
            assert PASSWORD not in held, f"the password is in process {one}"
        assert key in memory(pid), "this would find it"


def test_info_says_what_would_open_it_without_any_key(volume) -> None:
    path, _, _ = volume
    rows = json.loads(imgfs("info", "--json", path).stdout)["layers"]
    (locked,) = [row for row in rows if row["state"] == "locked"]
    assert [row[:2] for row in locked["protectors"]] == [["0", "password|keyfile"], ["1", "password|keyfile"]]
    assert "pbkdf2" in locked["protectors"][0][3]
    text = imgfs("info", path).stdout
    assert "locked" in text
    assert "key slot 0" in text


def test_a_mount_is_unlocked_while_it_runs(volume, tmp_path: Path) -> None:
    path, _, plain = volume
    (tmp_path / "bad").mkdir()
    bad, good = (
        key_file(tmp_path / "bad", ("password", "no")),
        key_file(tmp_path, ("password", PASSWORD.decode())),
    )
    with mounted(path, at=tmp_path / "m") as root:
        assert [p.name for p in sorted((root / path.name).iterdir())] == ["00-luks", "disk.raw"]
        for volume_, keys, code in (
            ("*", bad, 7),
            ("other*", good, 2),
            ("*/00-luks", good, 0),
            ("*", good, 2),
        ):
            done = imgfs("unlock", root, volume_, "--keys", keys, check=False)
            assert done.returncode == code, done.stderr
            assert PASSWORD.decode() not in done.stdout + done.stderr
        with (root / ".imgfs/layers.json").open() as file:
            assert "locked" not in {row["state"] for row in json.load(file)["layers"]}
        if os.geteuid():
            with pytest.raises(OSError):
                Path(f"/proc/{daemon(root)}/mem").open("rb").close()
        found = [p for p in (root / path.name).iterdir() if p.name.startswith("00-luks.")]
        assert len(found) == 1
        assert (found[0] / "volume.raw").read_bytes()[: len(plain)] == plain


def test_keys_come_through_a_descriptor(volume, tmp_path: Path) -> None:
    path, _, plain = volume
    keys = key_file(tmp_path, ("password", "wrong"), ("password", PASSWORD.decode()))
    read, write = os.pipe()
    os.write(write, keys.read_bytes())
    os.close(write)
    import subprocess

    from tests.mounts import COMMAND, ROOT

    where = f"{path}:00-luks.plaintext/volume.raw"
    done = subprocess.run(
        [*COMMAND, "cat", "--key-fd", str(read), where],
        capture_output=True,
        pass_fds=[read],
        cwd=ROOT,
        check=False,
    )
    os.close(read)
    assert done.returncode == 0, done.stderr
    assert done.stdout[: len(plain)] == plain


def test_a_keyfile_that_is_not_there_is_no_damage_of_the_evidence(volume, tmp_path: Path) -> None:
    path, _, _ = volume
    keys = key_file(tmp_path, ("keyfile", "nowhere"))
    rows = json.loads(imgfs("info", "--json", "--keys", keys, path).stdout)["layers"]
    (locked,) = [row for row in rows if row["backend"] == "luks"]
    assert locked["state"] == "locked"
    assert "nowhere" in locked["needs"]
