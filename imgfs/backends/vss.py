"""Volume shadow copies of Windows: what an NTFS volume was, beside what it is.

The catalog names the copies; opened again for one of them, what its stores kept is laid over the volume.
Sources: see ``_vss`` and ``_vss_layout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._vss import HEADER_AT, MAGIC, SECTOR, copy_id, created_ns, stores
from imgfs.backends._vss_layout import layout
from imgfs.errors import Malformed
from imgfs.model import Media, SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.backends._vss import Store


def open_vss(reader: Reader, options: Options) -> Media | VolumeTable:
    """List the shadow copies of a volume, or with ``options.state`` open the one of that slot.

    Raises:
        NotMine: the volume has none.
        Malformed: the catalog cannot be read, or what the copy consists of.
    """
    said: list[str] = []
    found = stores(reader, said)
    if options.state:
        return _opened(reader, found, options.state, said)
    first = max(len(found) - limits.MAX_STATES, 0)
    if first:
        said.append(f"{len(found)} shadow copies: the last {limits.MAX_STATES} are shown")
    volumes = tuple(
        Volume(
            slot=number,
            kind=SlotKind.ALLOCATED,
            start=0,
            stop=_size(reader, store),
            type_name="shadow copy",
            unique_id=copy_id(reader, store),
            created_ns=created_ns(store),
        )
        for number, store in enumerate(found[first:], first + 1)
    )
    return VolumeTable(scheme="vss", sector=SECTOR, volumes=volumes, notes=tuple(said))


def _opened(reader: Reader, found: list[Store], state: str, said: list[str]) -> Media:
    number = int(state) if state.isascii() and state.isdigit() and len(state) < 8 else 0
    if not 0 < number <= len(found):
        raise Malformed(f"no shadow copy {state[:20]!r} of {len(found)}")
    chain = found[number - 1 :]
    size = _size(reader, chain[0])
    if size != chain[0].size:
        said.append(f"the catalog says {chain[0].size} bytes, the volume has {reader.size}")
    made = layout(reader, chain, size, said)
    return Media(
        layouts=(made,),
        sector=SECTOR,
        metadata={"store": chain[0].id, "shadow copy": copy_id(reader, chain[0])},
        notes=tuple(said),
    )


def _size(reader: Reader, store: Store) -> int:
    """Return the size of the volume as it was; the catalog is known to say too much."""
    return store.size if 0 < store.size <= reader.size else reader.size


BACKEND = Backend(
    name="vss",
    title="Volume shadow copies",
    role=Role.SNAPSHOTS,
    rank=0,
    exclusive=False,
    signatures=(Signature(HEADER_AT, MAGIC),),
    open=open_vss,
    supports="Windows Vista to 11: each copy a tree and its bytes, overlays, forwarders, bitmaps",
    truth=("peer", "composed", "corpus"),
)
