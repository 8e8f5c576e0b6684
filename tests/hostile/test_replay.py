"""Images that hung or crashed a parser once, and mutations of images with odd names, through the contract.

What is read here may neither hang nor crash. TSK may: the worker dies of it and the daemon goes on; here its
deaths are counted, so that a rise is seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTILE = Path(os.environ.get("IMGFS_SHARED", ROOT.parent / "shared")) / "hostile"
OWN = {"seeds/ufs1.img": "ufs", "seeds/ext2.img": "ext", "seeds/ext4.img": "ext"}
MUTATED = {  # back-end: image, mutations
    "ntfs": ("names_ntfs.img.xz", 96),
    "fat": ("names_fat32.img.gz", 6),
    "exfat": ("names_exfat.img.xz", 6),
    "hfs": ("names_hfs.img.xz", 96),
    "iso9660": ("names_iso.img.xz", 96),
    "ufs": ("names_ufs1.img.xz", 96),
}
DEATHS = {"hfs": 8, "fat": 2, "exfat": 2}  # of TSK, at most; none where we read ourselves

pytestmark = pytest.mark.skipif(not HOSTILE.exists(), reason="the hostile images are not here")


def outcomes(jobs: list[dict[str, object]], folder: Path) -> Counter[str]:
    """Run jobs in subprocesses; a death counts under its signal."""
    listed = folder / "jobs.jsonl"
    listed.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    found: Counter[str] = Counter()
    first = 0
    while first < len(jobs):
        command = [sys.executable, "-m", "tests.hostile.replay", str(listed), str(first)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        rows = [line.split() for line in done.stdout.splitlines()]
        found.update(row[1] for row in rows if len(row) > 1)
        if done.returncode:
            found[f"signal {-done.returncode}"] += 1
            first = int(rows[-1][0]) + 1 if rows else first + 1
        else:
            first = len(jobs)
    return found


@pytest.mark.slow
def test_images_that_hung_tsk_are_walked(tmp_path: Path) -> None:
    jobs: list[dict[str, object]] = []
    for name in ("index.jsonl", "asan_index.jsonl"):
        for line in (HOSTILE / name).read_text().splitlines():
            row = json.loads(line)
            if row["seedfile"] in OWN:
                image = str(HOSTILE / (row["seedfile"] + ".gz"))
                backend = OWN[row["seedfile"]]
                jobs.append({"backend": backend, "image": image, "patches": row["patches"], "seed": -1})
    found = outcomes(jobs, tmp_path)
    print(dict(found))  # shown by -s
    assert sum(found.values()) == len(jobs) > 80
    assert not [name for name in found if name.startswith("signal")], found


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted(MUTATED))
def test_mutations_stay_inside_the_contract(tmp_path: Path, backend: str) -> None:
    name, count = MUTATED[backend]
    jobs: list[dict[str, object]] = [
        {"backend": backend, "image": str(HOSTILE / name), "patches": [], "seed": seed}
        for seed in range(count)
    ]
    found = outcomes(jobs, tmp_path)
    print(dict(found))  # shown by -s
    assert sum(found.values()) == count
    assert sum(n for outcome, n in found.items() if outcome.startswith("signal")) <= DEATHS.get(backend, 0), (
        found
    )
