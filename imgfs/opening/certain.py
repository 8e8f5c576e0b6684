"""Where keys are worth trying: deriving them takes seconds each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Role, discover
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
    known = [b for b in found if b.exclusive and not (b.by_key or b.by_trial)]
    passed = [discover()[step.backend] for step in place.spec.steps if step.backend in discover()]
    inside = any(backend.keys and backend.role is not Role.MEDIA for backend in passed)
    if inside or any(b.keys for b in known):
        return [b for b in found if not b.by_key]
    others = {b.name for b in known} - _BESIDE

    def tried(backend: Backend) -> bool:
        if backend.signatures:  # a boot sector, which looks like much else
            return True
        return not (known if HEADER in backend.keys else others)

    return [b for b in found if not b.by_key or tried(b)]
