"""The read-only .imgfs directory: what was found, what happened, what it cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from imgfs import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.daemon.events import EventLog
    from imgfs.session import Session


def layers_json(session: Session) -> dict[str, object]:
    """Return the content of layers.json: every layer with its state."""
    return {
        "imgfs": __version__,
        "sandbox": session.supervisor.statistics().sandbox,
        "layers": [asdict(layer) for layer in session.layers],
        "file_systems": _file_systems(session),
    }


def _file_systems(session: Session) -> list[dict[str, object]]:
    """Return, for each opened file system, what its worker is doing and which listings are not whole."""
    return [
        {"spec": str(fs.spec), "worker": str(fs.client.state), "damaged": fs.damaged}
        for fs in session.tree.file_systems
    ]


def add(session: Session, events: EventLog, operations: Callable[[], dict[str, float]]) -> None:
    """Put .imgfs into the tree."""
    tree = session.tree
    folder = tree.directory()
    tree.root.add(b".imgfs", folder)

    def layers() -> bytes:
        return _text(layers_json(session))

    def statistics() -> bytes:
        return _text(
            {
                **session.statistics(),
                "operations": operations(),
                "events": events.counts,
                "events_suppressed": events.suppressed,
            }
        )

    folder.add(b"layers.json", tree.blob(layers))
    folder.add(b"statistics.json", tree.blob(statistics))
    folder.add(b"events.jsonl", tree.blob(events.render))


def _text(value: object) -> bytes:
    return json.dumps(value, indent=1, default=str).encode() + b"\n"
