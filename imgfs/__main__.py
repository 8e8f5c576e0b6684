"""``python -m imgfs``."""

from __future__ import annotations

from imgfs.cli.main import main

main()
