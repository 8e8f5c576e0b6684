"""The support matrix of the README, made from what back-ends declare about themselves.

``python -m tests.matrix README.md`` rewrites it between its two markers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from imgfs.backends import Backend, Role, discover

BEGIN, END = "<!-- matrix -->\n", "<!-- end of matrix -->\n"
_ROLES = {
    Role.MEDIA: "container",
    Role.SNAPSHOTS: "snapshots",
    Role.VOLUMES: "volumes",
    Role.FILES: "file system",
    Role.MOUNTS: "system",
}
_TRUTH = {
    "kernel": "kernel",
    "peer": "other tools",
    "tsk": "TSK",
    "composed": "composed by the tests",
    "corpus": "corpus",
}


def matrix() -> str:
    """Return the matrix as Markdown."""
    ordered = sorted(discover().values(), key=lambda b: (b.role, b.rank, b.name))
    rows = [_row(backend) for backend in ordered if not backend.recognised]
    named = [backend.title for backend in ordered if backend.recognised]
    table = "| kind | format | what works | checked against |\n|---|---|---|---|\n" + "".join(rows)
    if named:
        table += f"\nRecognised and named, not read yet: {', '.join(named)}.\n"
    return table


def _row(backend: Backend) -> str:
    truth = ", ".join(_TRUTH[t] for t in backend.truth)
    return f"| {_ROLES[backend.role]} | {backend.title} (`{backend.name}`) | {backend.supports} | {truth} |\n"


def rewritten(text: str) -> str:
    """Return a README with the matrix as it is now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + matrix() + END + tail


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(rewritten(readme.read_text()))
