"""Options several verbs share, and the words of -o."""

from __future__ import annotations

import codecs
import os
import re
import zoneinfo
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from imgfs.errors import UsageError
from imgfs.opening.bundles import bundle
from imgfs.opening.keys import load, parse
from imgfs.opening.place import Overrule

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.opening.keys import Key

F = TypeVar("F", bound="Callable[..., Any]")

_UNITS: Final = {"": 1, "b": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_KEYS_MOST: Final = 1 << 20
_SECTORS: Final = (512, 1024, 2048, 4096)
# what fstab and mount(8) say to everybody; it changes nothing here
_IGNORED: Final = frozenset(
    (
        *("ro", "defaults", "auto", "noauto", "user", "users", "nouser", "nofail", "_netdev", "async"),
        *("nosuid", "nodev", "noexec", "dev", "suid", "exec"),
    )
)


def size(text: str, option: str) -> int:
    """Return a number of bytes: 1048576, 1M, 2048s (sectors of 512), 0x100000.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(0x[0-9a-f]+|[0-9]+)([bskmgt]?)", text.strip().lower())
    if match is None:
        raise UsageError(f"{option} {text}: no size; write bytes, or a number with s (sectors), K, M, G, T")
    return int(match.group(1), 0) * _UNITS[match.group(2)]


def split_path(argument: str) -> tuple[Path, tuple[bytes, ...]]:
    """Split ``IMAGE:PATH`` at the longest existing file; without one, at the first colon.

    Returns:
        The image and the names below its directory in the mount.
    """
    at = len(argument)
    while at > 0:
        if Path(argument[:at]).is_file() or (at and bundle(Path(argument[:at])) is not None):
            inner = argument[at + 1 :]
            return Path(argument[:at]).absolute(), tuple(
                n.encode("utf-8", "surrogateescape") for n in inner.split("/") if n
            )
        at = argument.rfind(":", 0, at)
    raise UsageError(f"{argument.partition(':')[0]}: no such file")


def image_path(argument: str) -> Path:
    """Return an image's absolute path.

    Raises:
        UsageError: no such file, or a directory that is no sparse bundle.
    """
    path = Path(argument)
    if path.is_dir() and bundle(path) is None:
        raise UsageError(f"{argument} is a directory; name the image file in it")
    if not path.exists():
        raise UsageError(f"{argument}: {'a link to nothing' if path.is_symlink() else 'no such file'}")
    return path.absolute()


def overruling(command: F) -> F:
    """Add the options that overrule detection."""
    for option in reversed(
        [
            click.option(
                "--keys", type=click.Path(path_type=Path), help="TOML file with keys of encrypted layers."
            ),
            click.option(
                "--key-fd", type=int, metavar="N", help="Read such a file from this open descriptor."
            ),
            click.option(
                "--offset", metavar="SIZE", help="Where the volume starts on the media (bytes, or 2048s, 1M)."
            ),
            click.option("--sector-size", "sector", metavar="SIZE", help="Bytes per sector of the media."),
            click.option(
                "--type", "kind", metavar="FORMAT", help="Take this format and no other (ewf, gpt, ext, ...)."
            ),
            click.option(
                "--raw", is_flag=True, help="Take the image file as the bytes of the disk: no container."
            ),
            click.option(
                "--look-in",
                "look_in",
                multiple=True,
                type=click.Path(path_type=Path),
                metavar="FOLDER",
                help="Where else files may be that an image names: extents, parents. May be repeated.",
            ),
            click.option("--tz", default="", metavar="ZONE", help="Time zone of FAT times (default UTC)."),
            click.option(
                "--codepage", default="", metavar="CP", help="Code page of FAT names (default cp437)."
            ),
            click.option(
                "--unsafe-no-sandbox",
                "unsafe",
                is_flag=True,
                help="Parse even where the kernel cannot isolate.",
            ),
        ]
    ):
        command = option(command)
    return command


def given_keys(path: Path | None, fd: int | None) -> tuple[Key, ...]:
    """Return the keys of a key file, and of one that is read from a descriptor.

    Raises:
        UsageError: one cannot be read, or is no key file.
    """
    keys = load(path) if path else ()
    if fd is None:
        return keys
    try:
        with os.fdopen(os.dup(fd), "rb") as file:
            text = file.read(_KEYS_MOST)
    except OSError as why:
        raise UsageError(f"--key-fd {fd}: {why.strerror}") from why
    return keys + parse(text, f"--key-fd {fd}", Path.cwd())


def overrule(
    *,
    keys: Path | None,
    key_fd: int | None = None,
    offset: str | None,
    sector: str | None,
    kind: str | None,
    raw: bool,
    tz: str,
    codepage: str,
    look_in: tuple[Path, ...] = (),
) -> Overrule:
    """Check what the analyst overrules.

    Raises:
        UsageError: with the value and what it may be.
    """
    sector_bytes = size(sector, "sector-size") if sector else 0
    if sector_bytes and sector_bytes not in _SECTORS:
        raise UsageError(f"--sector-size {sector}: sectors have {', '.join(map(str, _SECTORS))} bytes")
    if tz:
        try:
            zoneinfo.ZoneInfo(tz)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as why:
            raise UsageError(f"tz {tz}: no such time zone; write it like Europe/Berlin") from why
    if codepage:
        try:
            codecs.lookup(codepage)
        except LookupError as why:
            raise UsageError(f"codepage {codepage}: unknown; write it like cp850") from why
    for folder in look_in:
        if not folder.is_dir():
            raise UsageError(f"--look-in {folder}: no such folder")
    return Overrule(
        offset=size(offset, "offset") if offset else 0,
        sector=sector_bytes,
        type=kind or "",
        raw=raw,
        tz=tz or "UTC",
        codepage=codepage or "cp437",
        keys=given_keys(keys, key_fd),
        look_in=tuple(str(folder.absolute()) for folder in look_in),
    )


@dataclass(slots=True)
class MountWords:
    """What -o said."""

    allow_other: bool = False
    fsname: str = ""
    uid: int = -1
    gid: int = -1
    nested: str = "enter"
    system: str = "enter"
    symlinks: str = "confine"
    lost: str = "error"
    log: str = ""
    overrule: dict[str, Any] = field(default_factory=dict)


_CHOICES: Final = {
    "nested": ("enter", "list", "off"),
    "system": ("enter", "list"),
    "symlinks": ("confine", "raw"),
    "lost": ("error", "zero"),
}
_OVERRULING: Final = {
    "offset": "offset",
    "sector-size": "sector",
    "type": "kind",
    "tz": "tz",
    "codepage": "codepage",
}


def mount_words(texts: tuple[str, ...]) -> MountWords:
    """Read the words of -o, as often as it was given.

    Raises:
        UsageError: an unknown word, or a value that does not fit.
    """
    words = MountWords()
    for word in (w.strip() for text in texts for w in text.split(",")):
        name, has_value, value = word.partition("=")
        if not word or name in _IGNORED or name.startswith("x-"):
            continue
        if name == "rw":
            raise UsageError("-o rw: evidence is never written")
        if name == "allow_other":
            words.allow_other = True
        elif name == "raw":
            words.overrule["raw"] = True
        elif name in ("fsname", "log") and value:
            setattr(words, name, value)
        elif name in ("uid", "gid"):
            if not value.isdigit() or int(value) > 0xFFFF_FFFE:
                raise UsageError(f"-o {word}: a number from 0 to 4294967294")
            setattr(words, name, int(value))
        elif name in _CHOICES:
            if value not in _CHOICES[name]:
                raise UsageError(f"-o {word}: {name}= is one of {', '.join(_CHOICES[name])}")
            setattr(words, name, value)
        elif name == "keys" and value:
            words.overrule["keys"] = Path(value)
        elif name in _OVERRULING and has_value:
            words.overrule[_OVERRULING[name]] = value
        else:
            raise UsageError(f"-o {word}: unknown; imgfs mount --help lists the words")
    return words
