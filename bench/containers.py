"""The containers that are measured: one media, as VMDK, UDIF and AFF4.

qemu-img writes the first; nothing on Linux writes the others, so the tests' composers do.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.images import MIB, mixed, quiet
from tests.backends import aff4images, dmgimages

_UDZO = 512  # sectors of a chunk, as hdiutil writes them
_CHUNK = 32 << 10


def build(place: Path, mib: int) -> None:
    """Write ``media.*`` of the same ``mib`` MiB of text and random bytes."""
    data = mixed(mib)
    if shutil.which("qemu-img"):
        raw = place / "media.bin"
        raw.write_bytes(data)
        stream = ("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
        quiet(*stream, raw, place / "media.vmdk")
        raw.unlink()
    part = dmgimages.Part(data, [(_UDZO, dmgimages.ZLIB)] * (mib * MIB // 512 // _UDZO))
    (place / "media.dmg").write_bytes(dmgimages.whole(dmgimages.image([part])))
    volume = aff4images.Volume()
    volume.stream(data, method=aff4images.LZ4, chunk=_CHUNK, per=1024)
    volume.map([(0, mib * MIB, 0, 0)], [aff4images.STREAM], mib * MIB)
    volume.image()
    (place / "media.aff4").write_bytes(volume.bytes())
