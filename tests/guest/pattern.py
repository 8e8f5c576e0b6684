"""Data that is a function of a name and an offset, and digests of what is read. Runs in the guest, too.

A block of 4 KiB is eight sectors of 16 bytes that tell the block and 496 that tell the sector in it.
Misplaced blocks and misplaced sectors both show, and disks of it, parity included, compress well.
"""

import hashlib
import os
import sys

BLOCK = 4096
_SECTOR = 512
_STEP = 1 << 20


def _tails() -> "list[bytes]":
    out = []
    for sector in range(BLOCK // _SECTOR):
        parts = [hashlib.sha256(b"sector %d %d" % (sector, part)).digest() for part in range(16)]
        out.append(b"".join(parts)[: _SECTOR - 16])
    return out


_TAILS = _tails()


def block(name: str, index: int) -> bytes:
    """Return block ``index`` of the data called ``name``, 4 KiB."""
    stamp = hashlib.sha256(b"%s %d" % (name.encode(), index)).digest()[:16]
    return b"".join([stamp + tail for tail in _TAILS])


def data(name: str, start: int, length: int) -> bytes:
    """Return bytes [start, start + length) of the data called ``name``."""
    first, last = start // BLOCK, -(-(start + length) // BLOCK)
    whole = b"".join([block(name, index) for index in range(first, last)])
    return whole[start - first * BLOCK :][:length]


def fill(name: str, path: str, start: int = 0, length: int = -1) -> None:
    """Write the data called ``name`` to [start, start + length) of a device or file; -1: to its end."""
    with open(path, "r+b", buffering=0) as file:
        if length < 0:
            length = file.seek(0, 2) - start
        at = start
        while at < start + length:
            file.seek(at)
            at += file.write(data(name, at, min(_STEP, start + length - at)))
        os.fsync(file.fileno())


def digest(path: str) -> "tuple[str, int]":
    """Return the SHA-256 and the size of a device or file."""
    summed = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as file:
        while part := file.read(_STEP):
            summed.update(part)
            size += len(part)
    return summed.hexdigest(), size


def main(verb: str, *words: str) -> None:
    """Serve the command line."""
    if verb == "fill":
        fill(words[0], words[1], *map(int, words[2:]))
    elif verb == "digest":
        for path in words:
            print(*digest(path), path)
    else:
        sys.exit(f"pattern: {verb}?")


if __name__ == "__main__":
    main(*sys.argv[1:])
