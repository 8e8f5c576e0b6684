"""imgfs: disk images as a read-only directory tree, for analysts without privileges."""

from __future__ import annotations

__version__ = "0.1.0"
