"""Bytes: pure planning, then one place that does I/O."""
