"""Where a Unix system keeps its volumes: /etc/fstab.

Sources: fstab(5), util-linux and the C library's getmntent(3) (octal escapes, comments, fields); mount(8)
(bind, overlay); crypttab(5), systemd; btrfs(5), mount options; mount_nullfs(8), FreeBSD.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.errors import ImgfsError, Malformed
from imgfs.model import MountRow, MountTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_SIZE_MAX: Final = limits.MIB
_NOTES: Final = 1000
_LOWERS: Final = 500  # of an overlay: as many as the kernel takes
_TOP: Final = 5  # the number of a Btrfs's top tree
_MAPPER: Final = b"/dev/mapper/"
_NOWHERE: Final = (b"none", b"swap", b"ignore")
_MEMORY: Final = (b"tmpfs", b"ramfs", b"mfs")
_UNSTORED: Final = frozenset(
    b"autofs bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fdescfs fusectl hugetlbfs "
    b"linprocfs linsysfs mqueue none proc procfs pstore rpc_pipefs securityfs sysfs tracefs".split()
)
_ELSEWHERE: Final = re.compile(rb"(nfs4?|cifs|smb3|smbfs|9p|afs|ceph|glusterfs|fuse\.sshfs|davfs)\Z")
_TAGS: Final = {b"UUID": "uuid", b"LABEL": "label", b"PARTUUID": "partuuid", b"PARTLABEL": "partlabel"}
_QUOTE: Final = b'"'
_BY: Final = re.compile(rb"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)\Z")
_UFS: Final = re.compile(rb"/dev/(ufs|gpt|label)/(.+)\Z")


def open_fstab(reader: Reader, options: Options) -> MountTable:
    """Read the lines of a file, and of the crypttab beside it if there is one.

    Raises:
        Malformed: it is no text of a size that such files have.
    """
    del options
    text = _text(reader)
    rows: list[MountRow] = []
    notes: list[str] = []
    mapped = _mapped(reader.others[0], notes) if reader.others else {}
    folders = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if len(words) < 2:
            notes.append(f"fstab, line {number}: no mount point")
            continue
        row = _row([_plain(word) for word in words[:4]], mapped)
        if isinstance(row, str):
            notes.append(f"fstab, line {number}: {row}")
        elif row is not None:
            folders += len(row.folders)
            if len(rows) == limits.MAX_MOUNTS or folders > limits.MAX_MOUNTS:
                notes.append(
                    f"fstab, line {number}: more than {limits.MAX_MOUNTS} mounts, the rest is left out"
                )
                break
            rows.append(row)
    return MountTable(rows=tuple(rows), notes=tuple(notes[:_NOTES]))


def _text(reader: Reader) -> bytes:
    """Return a file of text.

    Raises:
        Malformed: it is none, or too large.
    """
    if reader.size > _SIZE_MAX:
        raise Malformed(f"a table of {reader.size} bytes")
    text = reader.read(0, reader.size)
    if b"\0" in text:
        raise Malformed("a table that is no text")
    return text


def _mapped(reader: Reader, notes: list[str]) -> dict[bytes, str]:
    """Return what the names in a crypttab stand for, in the words of ``MountRow``."""
    try:
        text = _text(reader)
    except ImgfsError as why:
        notes.append(f"crypttab: {why}")
        return {}
    found: dict[bytes, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith(b"#") and len(found) < limits.MAX_MOUNTS:
            what = _named(words[1])
            kind, _, value = what.partition(":")
            found[words[0]] = f"luks:{value}" if kind == "uuid" else f"crypt:{what}"
    return found


def _row(words: list[bytes], mapped: dict[bytes, str]) -> MountRow | str | None:
    """Return what a line mounts; a text: why that is nothing of these images; None: nothing worth a word."""
    what, where, kind, said = (*words, b"", b"")[:4]
    options = said.split(b",")
    if kind == b"swap":
        return f"{_shown(what)} is swap"
    if where in _NOWHERE:
        return None
    deep = b"rbind" in options
    if deep or b"bind" in options or kind == b"nullfs":
        return MountRow(f"{'rbind' if deep else 'bind'}:{_shown(what)}", where, folders=(what,))
    if kind == b"overlay":
        folders = _overlaid(options)
        return MountRow(f"overlay:{_shown(what)}", where, folders=folders) if folders[1:] else None
    if _ELSEWHERE.match(kind):
        return f"{_shown(where)} comes from {_shown(what)}, over a network"
    if kind in _MEMORY:
        return f"{_shown(where)} is kept in memory ({_shown(kind)}): what is shown there lies below it"
    if kind in _UNSTORED:
        return None
    name = what.removeprefix(_MAPPER)
    mount = mapped[name] if what.startswith(_MAPPER) and name in mapped else _named(what)
    return MountRow(mount, where, *_tree(options))


def _overlaid(options: list[bytes]) -> tuple[bytes, ...]:
    """Return the upper folder of an overlay, empty: it has none, and the lower ones."""
    upper, lowers = b"", []
    for word in options:
        name, _, value = word.partition(b"=")
        if name == b"upperdir":
            upper = value
        elif name == b"lowerdir":
            lowers = [path for path in value.split(b":") if path][:_LOWERS]
    return (upper, *lowers)


def _plain(word: bytes) -> bytes:
    r"""Undo the escapes of getmntent(3): \040 for a space."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), word)


def _named(what: bytes) -> str:
    """Return the name of a volume in the words of ``MountRow``."""
    tag, equals, value = what.partition(b"=")
    if equals and tag in _TAGS:
        return f"{_TAGS[tag]}:{_shown(value.strip(_QUOTE))}"
    if by := _BY.match(what):
        return f"{by[1].decode()}:{_shown(_unescaped(by[2]))}"
    if ufs := _UFS.match(what):  # FreeBSD's labels of file systems and of slots
        return f"{'partlabel' if ufs[1] == b'gpt' else 'label'}:{_shown(ufs[2])}"
    return f"dev:{_shown(what)}"


def _unescaped(name: bytes) -> bytes:
    r"""Undo the escapes of udev's links: \x20 for a space."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name)


def _tree(options: list[bytes]) -> tuple[str, int]:
    """Return the subvolume that options of Btrfs ask for, by its path or its number."""
    for word in options:
        name, _, value = word.partition(b"=")
        if name == b"subvol":
            path = _shown(value).strip("/")
            return path, 0 if path else _TOP
        if name == b"subvolid" and re.fullmatch(rb"(0x[0-9a-fA-F]{1,15}|\d{1,18})", value):
            return "", int(value, 16 if value.startswith(b"0x") else 10) or _TOP
    return "", 0


def _shown(name: bytes) -> str:
    return name[: limits.MAX_NAME].decode("utf-8", "backslashreplace")


BACKEND = Backend(
    name="fstab",
    title="fstab",
    role=Role.MOUNTS,
    rank=10,
    open=open_fstab,
    supports="a machine's own root in `system/`: by UUID, label, LVM, RAID or crypttab name, slot or number; "
    "Btrfs subvolumes, folders bound elsewhere",
    truth=("composed",),
)
