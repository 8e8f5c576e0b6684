"""``python -m imgfs``."""

from __future__ import annotations

import importlib
import sys

if not sys.flags.safe_path:
    # the current folder is the first place modules come from, and may be the evidence's
    del sys.path[0]
importlib.import_module("imgfs.cli.main").main()
