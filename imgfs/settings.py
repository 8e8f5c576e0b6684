"""How a session is set up. Apart from the session: a command that only hands this on need not load one."""

from __future__ import annotations

from dataclasses import dataclass

from imgfs import limits
from imgfs.opening.place import Overrule


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a session is set up. Units: ``cache_bytes`` bytes of decoded units."""

    overrule: Overrule = Overrule()
    cache_bytes: int = limits.CACHE_BYTES
    raw_links: bool = False
    enter_nested: bool = True
    list_nested: bool = False
    list_system: bool = False
    lost_zero: bool = False
    unsafe_no_sandbox: bool = False
