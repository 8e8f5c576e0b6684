"""Logical evidence composed after the specification: a tree of files, in L01 and Lx01 segments."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field

from tests.backends import ewf2images

SECTOR = 512
UNIT = 8 * SECTOR
SINGLE_FILES = 0x20
TAGS = {
    5: "p n id opr src sub cid jq cr ac wr mo dl aq ha ls du lo po mid cfi be pm lpt",
    7: "mid ls be id cr ac wr mo dl sig ha sha ent snh p n du lo po pm oes opr src sub cid jq alt ep aq cfi "
    "sg ea lpt",
}


@dataclass
class Node:
    """A file or folder, and what the tree says of it."""

    name: str
    data: bytes | None = None
    below: list[Node] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    flags: int = 0
    hashed: bool = True


def tree(root: Node, version: int = 7) -> tuple[str, bytes]:
    """Return the text of the tree, and the data of all files, one behind the other."""
    data = bytearray()
    tags = TAGS[version].split()
    lines: list[str] = []
    number = 0

    def write(node: Node) -> None:
        nonlocal number
        number += 1
        told = {"id": str(number), "n": node.name, "opr": str(node.flags or ""), "lo": "-1", "po": "-1"}
        if node.data is None:
            told |= {"p": "1", "be": "0"}
        else:
            stored = node.data or b"\0"
            told |= {"ls": str(len(node.data)), "be": f"1 {len(data):x} {len(stored):x}"}
            data.extend(stored)
            if node.hashed:
                told["ha"] = hashlib.md5(node.data).hexdigest()  # noqa: S324
                told["sha"] = hashlib.sha1(node.data).hexdigest()  # noqa: S324
        told |= node.told
        lines.append(f"{26 if version == 7 else 0}\t{len(node.below)}")
        lines.append("\t".join(told.get(tag, "") for tag in tags))
        for child in node.below:
            write(child)

    write(root)
    perm = ["perm", "1\t1", "p\tn\ts\tpr\tnta\tnti", "0\t1", "1\t\t\t10\t\t", "0\t3", "1\tgroup\t\t10\t\t"]
    perm += ["0\t0", "0\troot\t 1000:\t\t3\t", "0\t0", "0\twheel\t 99:\t1\t1\t"]
    perm += ["0\t0", "0\tEvery\3one\tS-1-1-0\t2\t1179817\t", ""]
    srce = ["srce", "1\t1", "p\tn\tid\tev\ttb\tah\tgu", "0\t1", "1\t\t\t\t\t\t", "0\t0"]
    srce += ["\tdisk one\t1\tE-17\t1000\t\t" + "ab" * 16, ""]
    sub = ["sub", "0\t1", "p\tn\tid", "0\t0", "1\t\t", ""]
    entry = ["entry", "1\t1", "\t".join(tags), *lines, ""]
    head = ["5", "rec", "tb\tcl\tn", f"{len(data)}\t\t", ""]
    return "\n".join([*head, *perm, *srce, *sub, *entry]) + "\n", bytes(data)


def _chunk(data: bytes, *, coded: bool) -> bytes:
    return zlib.compress(data) if coded else data + struct.pack("<I", zlib.adler32(data))


def l01(text: str, data: bytes, *, per_segment: int = 1000, md5: bytes = b"") -> list[bytes]:
    """Return the segments of an L01; every third chunk is stored plain."""
    chunks = [data[at : at + UNIT].ljust(UNIT, b"\0") for at in range(0, len(data), UNIT)]
    segments = list(range(0, len(chunks), per_segment)) or [0]
    files = []
    for number, start in enumerate(segments, 1):
        out = bytearray(b"LVF\x09\x0d\x0a\xff\x00\x01" + struct.pack("<HH", number, 0))

        def section(kind: str, body: bytes, out: bytearray = out) -> None:
            here = len(out)
            last = kind in ("done", "next")
            following = here if last else here + 76 + len(body)
            raw = struct.pack("<16sQQ40x", kind.encode(), following, 76 + len(body))
            out.extend(raw + struct.pack("<I", zlib.adler32(raw)) + body)

        volume = struct.pack("<B3xIIIQ12xB", 0x0E, 0, UNIT // SECTOR, SECTOR, 7, 1).ljust(64, b"\0") + bytes(
            range(1, 17)
        )
        volume = volume.ljust(1048, b"\0")
        if number == 1:
            words = (
                "1\r\nmain\r\nc\tn\ta\te\tt\tav\tov\tm\tu\tp\r\ncase 7\t1\tx\texaminer\t\t\t\t\t\t0\r\n\r\n"
            )
            section("header", zlib.compress(words.encode()))
            section("volume", volume + struct.pack("<I", zlib.adler32(volume)))
        else:
            section("data", volume + struct.pack("<I", zlib.adler32(volume)))
        at, entries, body = len(out) + 76, [], bytearray()
        for index, chunk in enumerate(chunks[start : start + per_segment]):
            coded = index % 3 != 2
            entries.append(at + len(body) | (0x8000_0000 if coded else 0))
            body += _chunk(chunk, coded=coded)
        section("sectors", bytes(body))
        raw = struct.pack("<I16x", len(entries))
        rows = struct.pack(f"<{len(entries)}I", *entries)
        table = raw + struct.pack("<I", zlib.adler32(raw)) + rows + struct.pack("<I", zlib.adler32(rows))
        section("table", table)
        section("table2", table)
        if number == len(segments):
            ltree = text.encode("utf-16-le", "surrogatepass")
            raw = struct.pack("<16sQ", md5 or hashlib.md5(ltree).digest(), len(ltree))  # noqa: S324
            section("ltree", raw + struct.pack("<I", zlib.adler32(raw + bytes(24))) + bytes(20) + ltree)
            section("data", volume + struct.pack("<I", zlib.adler32(volume)))
            section("done", b"")
        else:
            section("next", b"")
        files.append(bytes(out))
    return files


def lx01(text: str, data: bytes, *, per_segment: int = 1000) -> list[bytes]:
    """Return the segments of an Lx01."""
    chunks = [data[at : at + UNIT].ljust(UNIT, b"\0") for at in range(0, len(data), UNIT)]
    parts = [("coded" if n % 3 else "plain", chunk) for n, chunk in enumerate(chunks)]
    segments = list(range(0, len(chunks), per_segment)) or [0]
    files = []
    for number, start in enumerate(segments, 1):
        writer = ewf2images.Writer(number, logical=True)
        ewf2images.info(writer, len(chunks) * UNIT, UNIT, drive="l")
        if parts:
            writer.chunks(start, parts[start : start + per_segment])
        if number == len(segments):
            writer.section(SINGLE_FILES, b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass"), flags=1)
            writer.section(ewf2images.DONE, b"")
        else:
            writer.section(ewf2images.NEXT, b"")
        files.append(bytes(writer.out))
    return files
