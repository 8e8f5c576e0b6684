"""Apple Data Compression: runs of literals, and matches at most 64 KiB back.

Source: public descriptions of UDIF's chunk type 0x80000004; the first byte of a code says its form.
"""

from __future__ import annotations

from imgfs.errors import BadUnit


def decompress(data: bytes, limit: int) -> bytes:
    """Return the ``limit`` bytes a chunk decodes to; what follows them is ignored.

    Raises:
        BadUnit: a match before the start, too few or too many bytes.
    """
    out = bytearray()
    at = 0
    try:
        while len(out) < limit:
            code = data[at]
            if code >= 0x80:  # 1nnn nnnn: n + 1 literals
                stop = at + code - 0x7E
                out += data[at + 1 : stop]
                if stop > len(data):
                    break
                at = stop
                continue
            if code >= 0x40:  # 01nn nnnn  dddd dddd  dddd dddd: n + 4 bytes from d + 1 back
                length, distance = (code & 63) + 4, (data[at + 1] << 8 | data[at + 2]) + 1
                at += 3
            else:  # 00nn nndd  dddd dddd: n + 3 bytes from d + 1 back
                length, distance = (code >> 2) + 3, ((code & 3) << 8 | data[at + 1]) + 1
                at += 2
            start = len(out) - distance
            if start < 0:
                raise BadUnit(f"ADC: a match {distance} bytes back of {len(out)}")
            if distance >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // distance + 1))[:length]
    except IndexError:
        pass
    if len(out) != limit:
        raise BadUnit(f"ADC: {len(data)} bytes decode to {len(out)} of {limit}")
    return bytes(out)
