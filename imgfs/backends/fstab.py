"""Where a Unix system keeps its volumes: /etc/fstab.

Source: fstab(5), util-linux and the C library's getmntent(3) (octal escapes, comments, fields).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.errors import Malformed
from imgfs.model import MountRow, MountTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_SIZE_MAX: Final = limits.MIB
_NOWHERE: Final = (b"none", b"swap", b"ignore")
_UNSTORED: Final = frozenset(
    b"autofs bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fdescfs fusectl hugetlbfs "
    b"linprocfs linsysfs mqueue none proc procfs pstore ramfs rpc_pipefs securityfs swap sysfs tmpfs "
    b"tracefs".split()
)
_ELSEWHERE: Final = re.compile(rb"(nfs4?|cifs|smb3|smbfs|9p|afs|ceph|glusterfs|fuse\.sshfs|davfs)\Z")
_TAGS: Final = {b"UUID": "uuid", b"LABEL": "label", b"PARTUUID": "partuuid", b"PARTLABEL": "partlabel"}
_QUOTE: Final = b'"'
_BY: Final = re.compile(rb"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)\Z")
_UFS: Final = re.compile(rb"/dev/(ufs|gpt|label)/(.+)\Z")


def open_fstab(reader: Reader, options: Options) -> MountTable:
    """Read the lines of a file.

    Raises:
        Malformed: it is no text of a size that such files have.
    """
    del options
    if reader.size > _SIZE_MAX:
        raise Malformed(f"an fstab of {reader.size} bytes")
    text = reader.read(0, reader.size)
    if b"\0" in text:
        raise Malformed("an fstab that is no text")
    rows: list[MountRow] = []
    notes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if len(words) < 2:
            notes.append(f"fstab, line {number}: no mount point")
            continue
        if len(rows) == limits.MAX_MOUNTS:
            notes.append(f"fstab, line {number}: more than {limits.MAX_MOUNTS} mounts, the rest is left out")
            break
        what, where = _plain(words[0]), _plain(words[1])
        kind = words[2] if len(words) > 2 else b""
        said = words[3].split(b",") if len(words) > 3 else []
        if b"bind" in said or b"rbind" in said or kind == b"overlay":
            notes.append(f"{_shown(where)} is put together from {_shown(what)}, which is not followed")
        elif _ELSEWHERE.match(kind):
            notes.append(f"{_shown(where)} comes from {_shown(what)}, over a network")
        elif kind not in _UNSTORED and where not in _NOWHERE:
            rows.append(MountRow(_named(what), where, _tree(said)))
    return MountTable(rows=tuple(rows), notes=tuple(notes))


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


def _tree(said: list[bytes]) -> str:
    """Return the subvolume that options of Btrfs ask for, by its path."""
    for word in said:
        if word.startswith(b"subvol="):
            return _shown(word[7:]).strip("/")
    return ""


def _shown(name: bytes) -> str:
    return name[: limits.MAX_NAME].decode("utf-8", "backslashreplace")


BACKEND = Backend(
    name="fstab",
    title="fstab",
    role=Role.MOUNTS,
    rank=10,
    open=open_fstab,
    supports="a machine's own root in `system/`: by UUID, label, LVM name, slot or number; Btrfs subvolumes",
    truth=("composed",),
)
