"""The containers that are measured: one media, as VMDK, UDIF and AFF4, and a volume in BitLocker.

qemu-img writes the first; nothing on Linux writes the others, so the tests' composers do.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from bench.images import MIB, mixed, quiet
from tests.backends import aff4images, bdeimages, dmgimages

_UDZO = 512  # sectors of a chunk, as hdiutil writes them
_CHUNK = 32 << 10


def build(place: Path, mib: int, times: int) -> None:
    """Write ``media.*`` of the same ``mib`` MiB of text and random bytes, ``times`` times in the VMDK.

    A quarter of a second, which is what 256 MiB take, is opening and the first windows of read-ahead; the
    other composers are too slow for more.
    """
    data = mixed(mib)
    if shutil.which("qemu-img"):
        raw = place / "media.bin"
        with raw.open("wb") as out:
            for _ in range(times):
                out.write(data)
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


def bitlocker(path: Path, mib: int) -> None:
    """Write a volume of ``mib`` MiB (AES-XTS, 128 bits, sectors of 512 bytes), its password beside it.

    The ciphertext is text and random bytes, which decrypt to others: to encrypt a GiB takes Python minutes.
    """
    volume = bdeimages.Volume(size=mib * MIB, method="xts-128", kinds=(0x2000, 0x800))
    data = mixed(8)
    with path.open("wb") as out:
        for at in range(0, volume.size, len(data)):
            out.write(data[: volume.size - at])
        first = bytearray(bdeimages.ntfs_like(MIB, "bench")[: bdeimages.HEADER])
        struct.pack_into("<Q", first, 40, volume.size // 512 - 1)  # bdemount believes it
        out.seek(volume.moved)
        out.write(volume.encipher(volume.moved, bytes(first)))
        for at in volume.at:
            out.seek(at)
            out.write(volume.metadata())
        out.seek(0)
        out.write(volume.boot(bytes(first)))
    keys = path.with_suffix(".keys")
    keys.touch(mode=0o600)
    keys.write_text(f'[[key]]\ntype = "password"\nvalue = "{bdeimages.PASSWORD}"\n')
