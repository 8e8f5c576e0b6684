"""Sources as tables of the kernel's device-mapper: what imgfs composes, for whoever has root and a kernel.

A line is ``START LENGTH TARGET ARGUMENTS`` in sectors of 512 bytes; before it stands the name of the device
it belongs to, as ``dmsetup table`` prints. A device that lies on others comes after them. What the kernel has
no target for (decoded chunks, content in metadata) is named only: imgfs mounts its bytes as a file.
Source: the kernel's Documentation/admin-guide/device-mapper: linear, zero, dm-crypt, striped.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from imgfs.block.enciphered import CipherMap
from imgfs.block.extents import ExtentMap
from imgfs.block.hostfile import HostFile
from imgfs.block.striped import StripedMap
from imgfs.model import HOLE

if TYPE_CHECKING:
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Codec

_SECTOR: Final = 512
_LINES: Final = 1 << 20  # of one device; more runs than that are said, not printed
_DIGESTS: Final = ("sha256", "sha512", "sha1", "md5")
_PLAIN: Final = (b"plain", b"plain64", b"plain64be", b"null", b"eboiv")


class Tables:
    """Prints sources, each lower one once."""

    def __init__(self, *, keys: bool = False) -> None:
        """``keys``: print those of encrypted layers; otherwise a dash stands for each."""
        self._keys = keys
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self.lines: list[str] = []

    def add(self, source: ByteSource, name: str) -> str:
        """Print a source unless that has been done; return the name of its device."""
        known = self._names.get(id(source))
        if known is not None:
            return known
        if isinstance(source, HostFile):
            self._names[id(source)] = source.name
            self.lines.append(f"# {source.name} is {source.path}")
            return source.name
        rows = self._rows(source, name)
        device, number = name, 2
        while device in self._taken:
            device, number = f"{name}~{number}", number + 1
        self._taken.add(device)
        self._names[id(source)] = device
        self.lines += [f"{device}: {row}" for row in rows]
        return device

    def volume(self, source: ByteSource, name: str) -> None:
        """Print a volume, also one that is a whole file or a whole other volume."""
        known = self._names.get(id(source)) or (
            self.add(source, name) if isinstance(source, HostFile) else ""
        )
        if known:
            self.lines.append(f"{name}: 0 {source.size // _SECTOR} linear {known} 0")
        else:
            self.add(source, name)

    def _rows(self, source: ByteSource, name: str) -> list[str]:
        if isinstance(source, ExtentMap):
            return self._linear(source, name)
        if isinstance(source, CipherMap):
            return self._crypt(source, name)
        if isinstance(source, StripedMap):
            return self._striped(source, name)
        self.lines.append(f"# {name}: {source.size} bytes that imgfs decodes; it mounts them as a file")
        return []

    def _striped(self, source: StripedMap, name: str) -> list[str]:
        plain = source.dealt()
        if plain is None or source.size % (len(plain[1]) * plain[0]) or plain[0] % _SECTOR:
            self.lines.append(f"# {name}: what is computed from parity is no target: error stands for it")
            return self._linear(source, name)
        chunk, members = plain
        words = ["0", str(source.size // _SECTOR), "striped", str(len(members)), str(chunk // _SECTOR)]
        for lower, at in members:
            words += [self.add(lower, f"{name}.member"), str(at // _SECTOR)]
        return [" ".join(words)]

    def _linear(self, source: ExtentMap | StripedMap, name: str) -> list[str]:
        rows: list[str] = []
        for start, length, lower, target in source.runs():
            if len(rows) >= _LINES:
                self.lines.append(f"# {name}: more runs from byte {start} on")
                break
            if start % _SECTOR or (target > 0 and target % _SECTOR):
                self.lines.append(f"# {name}: a run at byte {start} does not lie on sectors")
                continue
            at, count = start // _SECTOR, length // _SECTOR
            if length % _SECTOR:
                self.lines.append(
                    f"# {name}: {length % _SECTOR} bytes at {start + count * _SECTOR} are no sector"
                )
            if not count:
                continue
            if lower is not None:
                device = self.add(lower, f"{name}.lower")
                rows.append(f"{at} {count} linear {device} {target // _SECTOR}")
            else:
                rows.append(f"{at} {count} {'zero' if target == HOLE else 'error'}")
        return rows

    def _crypt(self, source: CipherMap, name: str) -> list[str]:
        claim = source.claim
        device = self.add(source.lower, f"{name}.ciphertext")
        spelled, key = _spelled(claim.codec)
        if not spelled:
            self.lines.append(f"# {name}: {claim.codec.name} as it is used here is no cipher of the kernel's")
            return [f"0 {claim.size // _SECTOR} error"]
        large = (
            claim.sector != _SECTOR and claim.step == 1
        )  # numbers count sectors, the kernel's words 512 bytes
        first = claim.first * (claim.sector // _SECTOR if large else 1)
        words = ["0", str(claim.size // _SECTOR), "crypt", spelled, key.hex() if self._keys else "-"]
        words += [str(first), device, str(claim.base // _SECTOR)]
        if claim.sector != _SECTOR:
            options = [f"sector_size:{claim.sector}", *(["iv_large_sectors"] if large else [])]
            words += [str(len(options)), *options]
        return [" ".join(words)]


def _spelled(codec: Codec) -> tuple[str, bytes]:
    """Return a cipher as dm-crypt writes it, and its key; empty: it has none like it."""
    key, iv = codec.parameters.get("key", b""), codec.parameters.get("iv", b"")
    if not isinstance(key, bytes) or not isinstance(iv, bytes):
        return "", b""
    if codec.name.endswith("-ecb"):
        return codec.name, key
    if iv == b"essiv":
        under = codec.parameters.get("ivkey")
        for digest in _DIGESTS:
            if hashlib.new(digest, key).digest() == under:
                return f"{codec.name}-essiv:{digest}", key
    if iv not in _PLAIN or codec.name.endswith("-elephant"):
        return "", b""
    return f"{codec.name}-{iv.decode()}", key
