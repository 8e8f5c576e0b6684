"""Many damaged forms of containers and file systems: ``python -m tests.hostile.campaign [NAME ...]``.

Runs the tests of MEDIA and FILES back-ends with more damages than the suite has time for: whoever calls
``check_media`` or ``check_hostile`` takes part, with the images that its test builds. Says what became of
them, image by image.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from imgfs.backends import Role, discover

FOLDER = Path(__file__).parent.parent / "backends"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="back-ends; all containers without")
    parser.add_argument("--seeds", type=int, default=20_000, help="damaged forms of each file")
    parser.add_argument("-n", type=int, default=2, help="processes")
    parser.add_argument("-k", default="", help="tests, as pytest has it")
    given = parser.parse_args()
    media = [name for name, one in discover().items() if one.role is Role.MEDIA and not one.recognised]
    names = given.names or media
    texts = {path: path.read_text() for path in sorted(FOLDER.glob("test_*.py"))}
    tests = [
        path
        for path, text in texts.items()
        if ("check_media(" in text or "check_hostile(" in text) and any(f'"{n}"' in text for n in names)
    ]
    if not tests:
        sys.exit("no test of these checks damaged images")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        report.touch()
        environment = dict(os.environ, IMGFS_SEEDS=str(given.seeds), IMGFS_CAMPAIGN=str(report))
        command = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=0", "-o", "faulthandler_timeout=0"]
        command += ["-n", str(given.n), "--dist", "worksteal", *(["-k", given.k] if given.k else [])]
        done = subprocess.run([*command, *map(str, tests)], env=environment, check=False)
        rows = [json.loads(line) for line in report.read_text().splitlines()]
    for row in sorted((row for row in rows if row["backend"] in names), key=lambda row: row["backend"]):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    kinds = ("seeds", "refused", "other size", "same size")  # the first of file systems
    total = sum(row.get(kind, 0) for row in rows for kind in kinds)
    print(f"{len(rows)} images, {total} damaged forms")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
