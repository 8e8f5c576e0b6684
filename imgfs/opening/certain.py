"""Where keys are worth trying: deriving them takes seconds each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import discover
from imgfs.opening.keys import HEADER

if TYPE_CHECKING:
    from imgfs.backends import Backend
    from imgfs.opening.place import Place

_BESIDE: Final = frozenset(("mbr", "gpt"))  # tables of disks whose system is encrypted


def certain(found: list[Backend], place: Place) -> list[Backend]:
    """Leave out what only a key tells from noise where there is no noise: minutes of deriving keys.

    Something is recognised (an encrypted system disk has a partition table all the same; a header in a file
    of its own opens whatever it is put before), or the place is the plaintext of an encrypted layer.
    """
    known = {b.name for b in found if b.exclusive and not (b.by_key or b.by_trial)}
    apart = {b.name for b in found if b.by_key and HEADER in b.keys}
    inside = any(discover()[step.backend].keys for step in place.spec.steps if step.backend in discover())
    if inside or known - _BESIDE:
        return [b for b in found if not b.by_key]
    return [b for b in found if not (known and b.name in apart)]
