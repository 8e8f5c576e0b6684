"""python -m tests.guest.arrays RECIPE RECORDING: run a recipe that makes arrays, and keep what it made."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.guest import recording, run

if TYPE_CHECKING:
    from collections.abc import Mapping

_OLD = 8 << 20  # bytes of data that a recipe writes before that of an array's name
_LOOPS = 100


def record(folder: Path, path: Path) -> int:
    """Keep the members NAME.N in a folder, and what the guest read of every array; return the length."""
    truth: dict[str, dict[str, Any]] = {}
    members = {}
    known = [("old", _OLD), *((f"oldloop{number}", _OLD) for number in range(_LOOPS))]
    known += [(f"files{n}-{name}", _OLD) for n in (1, 5) for name in ("one", "two", "three")]
    for said in sorted(folder.glob("*.truth")):
        name = said.name.removesuffix(".truth")
        digest, size = said.read_text().split()
        found = [one for one in folder.glob(f"{name}.*") if one.suffix[1:].isdigit()]
        for one in sorted(found, key=lambda one: int(one.suffix[1:])):
            members[one.name] = one
        truth[name] = {"sha256": digest, "size": int(size), "members": len(found)}
        truth[name]["detail"] = _kept(folder / f"{name}.detail")
        known.append((name, int(size)))
    return recording.save(path, members, truth, known)


def _kept(path: Path) -> dict[str, str]:
    """Return what mdadm says of an array."""
    lines = [line.partition(" : ") for line in path.read_text().splitlines()]
    told = {name.strip(): value.strip() for name, _, value in lines if value}
    wanted = ("Version", "Raid Level", "Layout", "Name", "UUID", "Events", "Chunk Size", "Raid Devices")
    return {name: told[name] for name in wanted if name in told}


def load(path: Path, folder: Path) -> Mapping[str, tuple[list[Path], dict[str, Any]]]:
    """Return the members of every array of a recording, composed in ``folder``, and what is true of it."""
    disks, truth = recording.load(path, folder)
    return {
        name: ([disks[f"{name}.{number}"] for number in range(told["members"])], told)
        for name, told in truth.items()
    }


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.arrays")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("recording", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = run(asked.recipe.read_text(), Path(name), beside=asked.recipe.absolute().parent, seconds=600)
        if result.status:
            raise SystemExit(result.console[-2000:])
        print(record(Path(name), asked.recording), "bytes")


if __name__ == "__main__":
    main()
