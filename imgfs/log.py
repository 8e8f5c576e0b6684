"""Event names. The daemon's handler writes them as JSON lines; the library adds no handler of its own."""

from __future__ import annotations

from typing import Final

WORKER_DIED: Final = "worker.died"
WORKER_TIMEOUT: Final = "worker.timeout"
WORKER_LIED: Final = "worker.lied"
WORKER_POISONED: Final = "worker.poisoned"
WORKER_QUARANTINED: Final = "worker.quarantined"
LAYER_OPENED: Final = "layer.opened"
LAYER_DAMAGED: Final = "layer.damaged"
LAYER_LOCKED: Final = "layer.locked"
LAYER_UNLOCKED: Final = "layer.unlocked"
LAYER_UNSUPPORTED: Final = "layer.unsupported"
READ_FAILED: Final = "read.failed"
MEDIA_CHANGED: Final = "media.changed"
HANDLER_FAILED: Final = "handler.failed"
LISTING_DAMAGED: Final = "listing.damaged"
MOUNTED: Final = "mount.live"
UNMOUNTED: Final = "mount.ended"
RESOLVE_FAILED: Final = "resolve.failed"
DAEMON_CRASHED: Final = "daemon.crashed"
INDEX_BEGUN: Final = "index.begun"
INDEX_MADE: Final = "index.made"
INDEX_DAMAGED: Final = "index.damaged"
STACKS: Final = "stacks"
