"""Sparse bundles of Mac OS: a folder whose ``bands`` are files of one size, named by their number in hex.

The analyst names the folder; the members that come here are its ``Info.plist`` (or the backup of it), its
``token`` where that holds something, and its bands. A band without a file was never written to, and is
zeros; so is what a band's file is too short for. A member of no bytes is a band that is there and could not
be opened: it is lost.

An encrypted bundle has the header of an encrypted image in its ``token``; the blocks of its ciphertext are
counted through all bands. No such bundle of Apple's was at hand to see it in.

Source: libmodi, "Mac OS disk image types", sparse bundle; keramics, "Mac OS sparse bundle".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, _encrcdsa
from imgfs.errors import Malformed, NotMine
from imgfs.model import HOLE, LOST, Enciphered, Linear, Media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Options, Reader
    from imgfs.backends._encrcdsa import Header
    from imgfs.model import Codec, Layout

_TYPE: Final = b"com.apple.diskimage.sparsebundle"
_LISTS: Final = ("Info.plist", "Info.bckup")
_ENCRYPTION: Final = "token"
_LIST_MAX: Final = 1 * limits.MIB
_SECTOR: Final = 512
_LOST_SHOWN: Final = 1000

_Band = tuple[int, int, int]  # number, bytes (0: unreadable), ticket


def open_sparsebundle(reader: Reader, options: Options) -> Media:
    """Lay the bands one after the other.

    Raises:
        NotMine: the property list is none of a sparse bundle.
        NeedKey: the bands are encrypted, and no key opens them.
        NotSupported: their cipher is not known here.
        Malformed: the list states impossible sizes, or no band is at hand.
    """
    notes: list[str] = []
    facts = _facts(reader, notes)
    size, band = facts.get("size"), facts.get("band-size")
    if not isinstance(size, int) or not isinstance(band, int):
        raise Malformed("the property list has no numbers for size and band-size")
    if not 0 <= size <= limits.MAX_SIZE or not 0 < band <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes in bands of {band}")
    bands = _bands(reader.others, notes)
    if not bands:
        raise Malformed("no band is at hand")
    header = _encryption(reader)
    block = header.block if header else 1
    if band % block:
        raise Malformed(f"bands of {band} bytes, encrypted in blocks of {block}")
    runs, which, lost = _runs(bands, size, band, notes, block)
    layouts: list[Layout] = [Linear.of(size, runs, which)]
    if header is not None:
        notes += header.notes
        how = _cipher(reader, options, header, runs, which, notes)
        layouts = _deciphered(size, runs, which, how, block, 1 + len(reader.others))
    version = facts.get("bundle-backingstore-version", "")
    said = [str(version)] if isinstance(version, int | str) else []
    return Media(
        layouts=tuple(layouts),
        sector=_SECTOR,
        version=", ".join([*said, *([f"encrypted: {header.title}"] if header else [])]),
        metadata={"band size": str(band), "bands": f"{len(bands)} of {-(-size // band)}"},
        lost=tuple(lost),
        notes=tuple(notes),
    )


def _facts(reader: Reader, notes: list[str]) -> dict[str, object]:
    """Return what the property list says, or else its backup.

    Raises:
        NotMine: neither is of a sparse bundle.
        Malformed: those that are do not parse.
    """
    import plistlib
    from xml.parsers.expat import ExpatError

    seen = False
    for other in (reader, *reader.others):
        if other.name not in _LISTS:
            continue
        raw = other.read(0, min(other.size, _LIST_MAX))
        if _TYPE not in raw:
            continue
        seen = True
        try:
            # Without a declaration the text is UTF-8: no other codec is looked for.
            text = re.sub(rb"\A\s*<\?xml[^>]{0,200}\?>", b"", raw)
            found = plistlib.loads(text, fmt=plistlib.FMT_XML)
        except (ExpatError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as why:
            notes.append(f"{other.name} is damaged: {why}")
            continue
        if isinstance(found, dict):
            return found
    if seen:
        raise Malformed("; ".join(notes) or "the property list holds no dictionary")
    raise NotMine("sparse bundle")


def _encryption(reader: Reader) -> Header | None:
    """Return how the bands are encrypted; None: they are not."""
    for other in reader.others:
        if other.name == _ENCRYPTION and other.size >= 8 and other.read(0, 8) == _encrcdsa.MAGIC:
            header = _encrcdsa.read_header(other)
            header.check()
            return header
    return None


def _cipher(
    reader: Reader,
    options: Options,
    header: Header,
    runs: Sequence[tuple[int, int, int]],
    which: Sequence[int],
    notes: list[str],
) -> Codec:
    """Return the cipher of the bands; see ``_encrcdsa_keys.unlock``."""
    from imgfs.backends import _encrcdsa_keys

    def read(start: int, length: int) -> bytes:
        for (at, held, target), ticket in zip(runs, which, strict=True):
            if target >= 0 and at <= start < at + held:
                return reader.others[ticket - 1].read(start - at, min(length, at + held - start))
        return b""

    return _encrcdsa_keys.unlock(header, options, read, notes)


def _deciphered(
    size: int,
    runs: Sequence[tuple[int, int, int]],
    which: Sequence[int],
    how: Codec,
    block: int,
    tickets: int,
) -> list[Layout]:
    """Return the ciphertext of all bands, its plaintext, and that where there are bands."""
    whole = -(-size // block) * block
    # What is lost is so in the plaintext: in the ciphertext it would cost what is decrypted together with it.
    stored = [
        (at, -(-held // block) * block, target) if target >= 0 else (at, held, HOLE)
        for at, held, target in runs
    ]
    plain = [(at, held, at if target >= 0 else target) for at, held, target in runs]
    over = [tickets + 1 if target >= 0 else 0 for _, _, target in runs]
    return [
        Linear.of(whole, stored, list(which)),
        Enciphered(size=whole, sector=block, codec=how, which=tickets),
        Linear.of(size, plain, over),
    ]


def _bands(members: Sequence[Reader], notes: list[str]) -> list[_Band]:
    """Return the bands at hand, in order."""
    found: dict[int, _Band] = {}
    for ticket, member in enumerate(members, 1):
        if not re.fullmatch("[0-9a-f]{1,16}", member.name, re.IGNORECASE):
            continue
        number = int(member.name, 16)
        if number in found:
            notes.append(f"band {member.name} is there twice: the first file is taken")
        else:
            found[number] = (number, member.size, ticket)
    return [found[number] for number in sorted(found)]


def _runs(
    bands: Sequence[_Band], size: int, band: int, notes: list[str], block: int
) -> tuple[list[tuple[int, int, int]], list[int], list[tuple[int, int, str]]]:
    """Return where the bytes of the media lie, and what of them is lost.

    Of a band that ends within a ``block`` that is encrypted as a whole, that block is lost.
    """
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    lost: list[tuple[int, int, str]] = []
    beyond = 0
    at = 0
    for number, held, ticket in bands:
        start = number * band
        if start >= size:
            beyond += 1
            continue
        stop = min(start + band, size)
        if start > at:
            runs.append((at, start - at, HOLE))
            which.append(0)
        if 0 < held <= band:
            length = min(held // block * block, stop - start)
            if length:
                runs.append((start, length, 0))
                which.append(ticket)
            if length < stop - start and held % block:
                cut = min(block, stop - start - length)
                runs.append((start + length, cut, LOST))
                which.append(0)
                lost.append((start + length, start + length + cut, f"band {number:x} ends in a block"))
                length += cut
            if start + length < stop:
                runs.append((start + length, stop - start - length, HOLE))
                which.append(0)
        else:
            why = f"band {number:x} holds {held} bytes" if held else f"band {number:x} cannot be opened"
            runs.append((start, stop - start, LOST))
            which.append(0)
            if len(lost) < _LOST_SHOWN:
                lost.append((start, stop, why))
        at = stop
    if at < size:
        runs.append((at, size - at, HOLE))
        which.append(0)
    if beyond:
        notes.append(f"{beyond} bands lie behind the end of the media")
    return runs, which, lost


BACKEND = Backend(
    name="sparsebundle",
    title="Apple sparse bundle",
    role=Role.MEDIA,
    rank=20,
    by_name=r"Info\.(plist|bckup)",
    open=open_sparsebundle,
    keys=_encrcdsa.KINDS,
    imports=("plistlib", "xml.parsers.expat", "imgfs.backends._kdf", "imgfs.backends._encrcdsa_keys"),
    supports="a folder of bands, named as IMAGE; missing bands are zeros; encrypted ones (token)",
    truth=("composed",),
)
