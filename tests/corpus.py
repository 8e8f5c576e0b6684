"""Run corpus_check over everything and compare with what is right already: the list only grows.

``python -m tests.corpus --imgfs CMD SHARED [--update]``

A failure is an image of ``corpus-right.txt`` that is no longer right, an image in scope that is neither right
nor among the exceptions, wrong bytes or a hang anywhere, or a hostile image that is not survived.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

LIST = Path(__file__).parent / "corpus-right.txt"
EXCEPTIONS = Path(__file__).parent / "corpus-exceptions.toml"
REASONS = {
    "truth": "the truth is at fault",
    "scope": "out of scope",
    "key": "the key is unknown",
    "damaged": "damaged",
}
NEVER = {"wrong bytes", "hang", "stale", "no mount", "failed"}
GOOD = {"right", "media"}
SURVIVED = {"survived", "refused"}


def check(imgfs: str, shared: Path, corpus: Path, *extra: str) -> list[dict[str, object]]:
    """Return corpus_check's results."""
    tool = shared / "tools" / "corpus_check.py"
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, tool, "--imgfs", imgfs, "--json", out.name, *extra, corpus]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        print(done.stdout.strip().rpartition("\n")[2] or done.stderr, flush=True)
        found: list[dict[str, object]] = json.loads(Path(out.name).read_text() or "[]")
        return found


def exceptions() -> dict[str, dict[str, str]]:
    """Return the exceptions by image; each has a reason and says why."""
    rows = tomllib.loads(EXCEPTIONS.read_text())["image"]
    for row in rows:
        assert row["reason"] in REASONS, row
        assert row["why"], row
    return {row["name"]: row for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--imgfs", default="imgfs")
    parser.add_argument("--update", action="store_true", help="add what is right now to the list")
    given = parser.parse_args()
    excepted = exceptions()
    plain = check(given.imgfs, given.shared, given.shared / "corpus")
    right = {str(r["image"]) for r in plain if r["state"] in GOOD}
    known = set(LIST.read_text().split())
    failures = [f"no longer right: {image}" for image in sorted(known - right)]
    for row in plain:
        if row["image"] in excepted:
            if row["state"] in NEVER - {"wrong bytes"}:
                failures.append(f"{row['state']}: {row['image']}: {row['problems'][:2]}")  # type: ignore[index]
        elif row["state"] not in GOOD:
            failures.append(f"{row['state']}: {row['image']}: {row['problems'][:2]}")  # type: ignore[index]
    hostile = check(given.imgfs, given.shared, given.shared / "corpus", "--hostile")
    hostile += check(given.imgfs, given.shared, given.shared / "hostile", "--hostile")
    failures += [
        f"{r['state']}: {r['image']}: {r['problems'][:2]}"  # type: ignore[index]
        for r in hostile
        if r["state"] not in SURVIVED
    ]
    for failure in failures:
        print(failure)
    new = sorted(right - known)
    if new and given.update:
        LIST.write_text("".join(f"{image}\n" for image in sorted(known | right)))
    elif new:
        print(f"{len(new)} images are right and not in {LIST.name} yet: run with --update")
    print(
        f"corpus: {len(known & right)} of {len(known)} right, {len(excepted)} exceptions,"
        f" {len(hostile)} hostile, {len(failures)} failures"
    )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
