"""AFF4 volumes as the standard describes them, composed byte by byte; and a naive second reader of them."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cramjam
import lz4.block

SPACE = "http://aff4.org/Schema#"
EARLY = "http://afflib.org/2009/aff4#"
SNAPPY = "http://code.google.com/p/snappy/"
REKALL_SNAPPY = "https://github.com/google/snappy"
LZ4 = "https://code.google.com/p/lz4/"
DEFLATE = "https://tools.ietf.org/html/rfc1951"
ZLIB = "https://www.ietf.org/rfc/rfc1950.txt"
NULL = SPACE + "NullCompressor"
VOLUME = "aff4://00000000-0000-4000-8000-000000000001"
IMAGE = "aff4://00000000-0000-4000-8000-000000000002"
MAP = "aff4://00000000-0000-4000-8000-000000000003"
STREAM = "aff4://00000000-0000-4000-8000-000000000004"
POINT = struct.Struct("<QQQI")


def _deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


PACK: Mapping[str, Callable[[bytes], bytes]] = {
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    REKALL_SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: lambda data: lz4.block.compress(data, store_size=False),
    DEFLATE: _deflate,
    ZLIB: zlib.compress,
    NULL: lambda data: data,
    "": lambda data: data,
}
UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    SNAPPY: lambda data: bytes(cramjam.snappy.decompress_raw(data)),
    REKALL_SNAPPY: lambda data: bytes(cramjam.snappy.decompress_raw(data)),
    LZ4: lambda data: lz4.block.decompress(data, uncompressed_size=1 << 24),
    DEFLATE: lambda data: zlib.decompress(data, -15),
    ZLIB: zlib.decompress,
    NULL: lambda data: data,
    "": lambda data: data,
}


class _Pipe(io.RawIOBase):
    """What cannot be written twice: ``zipfile`` puts sizes behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        self.data += bytes(data)
        return len(data)


@dataclass
class Volume:
    """A volume under construction: segments, statements, and how the archive is written."""

    arn: str = VOLUME
    space: str = SPACE
    segments: dict[str, bytes] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    deflated: set[str] = field(default_factory=set)
    version: str = "major=1\nminor=0\ntool=composed\n"
    comment: bool = True
    described: bool = True
    piped: bool = False  # sizes behind the data
    wide: bool = False  # ZIP64 fields everywhere

    def put(self, urn: str, data: bytes, *, deflate: bool = False) -> None:
        name = urn.replace("aff4://", "aff4%3A%2F%2F", 1)
        if urn.startswith(self.arn + "/"):
            name = urn[len(self.arn) + 1 :]
        self.segments[name] = data
        if deflate:
            self.deflated.add(name)

    def say(self, subject: str, types: str, **properties: str) -> None:
        said = "".join(f" ;\n    aff4:{name} {value}" for name, value in properties.items())
        self.statements.append(f"<{subject}> a {types}{said} .\n")

    def stream(
        self,
        data: bytes,
        *,
        method: str = SNAPPY,
        urn: str = STREAM,
        chunk: int = 4096,
        per: int = 8,
        pad: bool = True,
        deflate: bool = False,
        early: str = "",
        always: bool = False,
    ) -> None:
        """Add an image stream. ``early``: "ends" or "starts", an index of before the standard."""
        pack = PACK[method]
        chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
        if pad and chunks:
            chunks[-1] = chunks[-1].ljust(chunk, b"\0")
        for bevy in range(0, len(chunks), per):
            stored = bytearray()
            rows = []
            for plain in chunks[bevy : bevy + per]:
                coded = pack(plain)
                if len(coded) >= chunk - 16 and not always:
                    coded = plain
                rows.append((len(stored), len(coded)))
                stored += coded
            name = f"{urn}/{bevy // per:08d}"
            self.put(name, bytes(stored), deflate=deflate)
            if early:
                numbers = [at + length if early == "ends" else at for at, length in rows]
                self.put(f"{name}/index", struct.pack(f"<{len(numbers)}I", *numbers))
            else:
                index = b"".join(struct.pack("<QI", *row) for row in rows)
                self.put(f"{name}.index", index, deflate=deflate)
        names = (
            ("chunk_size", "chunks_in_segment", "CompressionMethod")
            if early
            else ("chunkSize", "chunksInSegment", "compressionMethod")
        )
        properties = {"size": f'"{len(data)}"^^xsd:long', names[0]: f'"{chunk}"^^xsd:int', names[1]: str(per)}
        if method:
            properties[names[2]] = f"<{method}>"
        self.say(urn, "aff4:stream" if early else "aff4:ImageStream", stored=f"<{self.arn}>", **properties)

    def map(
        self,
        points: Sequence[tuple[int, int, int, int]],
        targets: Sequence[str],
        size: int,
        *,
        urn: str = MAP,
        gap: str = "",
        kind: str = "aff4:Map",
        **properties: str,
    ) -> None:
        """Add a map; points are (mapped offset, length, target offset, target)."""
        self.put(f"{urn}/map", b"".join(POINT.pack(*point) for point in points))
        self.put(f"{urn}/idx", "".join(f"{target}\n" for target in targets).encode())
        if gap:
            properties["mapGapDefaultStream"] = f"<{gap}>"
        self.say(urn, kind, size=str(size), stored=f"<{self.arn}>", **properties)

    def image(self, stream: str = MAP, **properties: str) -> None:
        """Say which stream is the disk."""
        self.say(
            IMAGE,
            "aff4:DiskImage , aff4:ContiguousImage , aff4:Image",
            dataStream=f"<{stream}>",
            **properties,
        )

    @property
    def turtle(self) -> bytes:
        head = (
            f"@prefix : <{self.arn}> .\n@prefix aff4: <{self.space}> .\n"
            "@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n\n"
        )
        return (head + "\n".join(self.statements)).encode()

    def bytes(self) -> bytes:
        """Write the archive."""
        pipe = _Pipe()
        buffer = io.BytesIO()
        rows = {"container.description": self.arn.encode()} if self.described else {}
        if self.version:
            rows["version.txt"] = self.version.encode()
        rows |= self.segments | {"information.turtle": self.turtle}
        with zipfile.ZipFile(pipe if self.piped else buffer, "w") as archive:  # type: ignore[call-overload]
            for name, data in rows.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED if name in self.deflated else zipfile.ZIP_STORED
                with archive.open(info, "w", force_zip64=self.wide) as segment:
                    segment.write(data)
            if self.comment:
                archive.comment = self.arn.encode()
        return bytes(pipe.data) if self.piped else buffer.getvalue()


def naive(*volumes: bytes, stream: str = MAP) -> bytes:
    """Return the bytes of a map or stream the simplest way: every byte by itself, unknown ones as ``?``."""
    segments: dict[str, bytes] = {}
    said: dict[str, str] = {}
    for volume in volumes:
        with zipfile.ZipFile(io.BytesIO(volume)) as archive:
            for name in archive.namelist():
                segments[name.replace("aff4%3A%2F%2F", "aff4://")] = archive.read(name)
            for block in archive.read("information.turtle").decode().split(" .\n"):
                if (found := re.match(r"\s*<([^>]*)> a ", block)) is not None:
                    said[found[1]] = block
    return _bytes(stream, segments, said)


def _bytes(urn: str, segments: dict[str, bytes], said: dict[str, str]) -> bytes:
    block = said[urn]
    size = int(re.search(r'size "?([0-9]+)', block)[1])  # type: ignore[index]
    if "tream " in block.partition(";")[0]:
        return _stream(urn, segments, block)[:size]
    gap = re.search(r"mapGapDefaultStream <[^>]*#([A-Za-z0-9]*)>", block)
    data = bytearray((b"?" if gap and "Un" in gap[1] else b"\0") * size)
    names = segments[f"{urn}/idx"].decode().split()
    for at, length, offset, number in POINT.iter_unpack(segments[f"{urn}/map"]):
        name = names[number].rpartition("#")[2]
        if names[number] in said:
            data[at : at + length] = _bytes(names[number], segments, said)[offset : offset + length]
        elif name.startswith("Un"):
            data[at : at + length] = b"?" * length
        else:
            data[at : at + length] = bytes([0 if name == "Zero" else int(name[-2:], 16)]) * length
    return bytes(data[:size])


def _stream(urn: str, segments: dict[str, bytes], block: str) -> bytes:
    chunk = int(re.search(r'chunk_?[sS]ize "?([0-9]+)', block)[1])  # type: ignore[index]
    method = re.search(r"ompressionMethod <([^>]*)>", block)
    unpack = UNPACK[method[1] if method else ""]
    parts = []
    number = 0
    while (name := f"{urn}/{number:08d}") in segments:
        bevy = segments[name]
        if f"{name}.index" in segments:
            rows = list(struct.iter_unpack("<QI", segments[f"{name}.index"]))
        else:
            numbers = [n for (n,) in struct.iter_unpack("<I", segments[f"{name}/index"])]
            starts = [0, *numbers[:-1]] if numbers[0] else numbers
            ends = numbers if numbers[0] else [*numbers[1:], len(bevy)]
            rows = [(a, b - a) for a, b in zip(starts, ends, strict=True)]
        for at, length in rows:
            coded = bevy[at : at + length]
            parts.append(coded if length == chunk else unpack(coded))
        number += 1
    return b"".join(parts)
