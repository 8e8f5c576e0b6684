"""LZVN: literals and matches, each opcode up to three literals and one match.

Source: Apple's LZFSE reference implementation (BSD), lzvn_decode_base: the table of opcodes.
Done here because libraries take a distance of 0 and return what memory held before.
"""

from __future__ import annotations

from imgfs.errors import BadUnit


def decompress(data: bytes, limit: int) -> bytes:
    """Return what a stream decodes to; one without the mark of its end holds ``limit`` bytes exactly.

    Raises:
        BadUnit: an undefined opcode, a match before the start, too few or too many bytes.
    """
    out = bytearray()
    extend(data, limit, out)
    return bytes(out)


def extend(data: bytes, limit: int, out: bytearray) -> None:
    """Append what a stream decodes to, until ``out`` holds ``limit`` bytes; matches may reach back in it.

    Raises:
        BadUnit: as ``decompress``; ``out`` then holds part of it.
    """
    try:
        _decode(data, limit, out)
    except IndexError:
        if len(out) != limit:
            raise BadUnit(f"LZVN: {len(data)} bytes end after {len(out)} of {limit}") from None


def _decode(data: bytes, limit: int, out: bytearray) -> None:
    at = distance = 0
    while True:
        code = data[at]
        at += 1
        if code >= 0xE0:  # 111k nnnn: literals or a match alone, 0: the length less 16 follows
            count = code & 15
            if not count:
                count = 16 + data[at]
                at += 1
            literals, match = (count, 0) if code < 0xF0 else (0, count)
        elif code & 0xE0 == 0xA0:  # 101L LMMM  dddd ddMM  DDDD DDDD
            low, high = data[at], data[at + 1]
            at += 2
            literals, match = code >> 3 & 3, 3 + ((code & 7) << 2 | low & 3)
            distance = low >> 2 | high << 6
        elif 0x70 <= code < 0x80 or code >= 0xD0:
            raise BadUnit(f"LZVN: opcode {code:#x}")
        else:  # LLMM Mddd
            literals, match = code >> 6, 3 + (code >> 3 & 7)
            if code & 7 == 7:
                distance = data[at] | data[at + 1] << 8
                at += 2
            elif code & 7 != 6:
                distance = (code & 7) << 8 | data[at]
                at += 1
            elif code < 0x40:  # without literals the distance before is no match
                if code == 0x06:
                    return
                if code not in {0x0E, 0x16}:
                    raise BadUnit(f"LZVN: opcode {code:#x}")
                continue
        if literals:
            out += data[at : at + literals]
            at += literals
        if match:
            start = len(out) - distance
            if not distance or start < 0:
                raise BadUnit(f"LZVN: a match {distance} bytes back of {len(out)}")
            if distance >= match:
                out += out[start : start + match]
            else:
                out += (out[start:] * (match // distance + 1))[:match]
        if at > len(data) or len(out) > limit:
            raise BadUnit(f"LZVN: byte {at} of {len(data)} gives {len(out)} bytes of {limit}")
