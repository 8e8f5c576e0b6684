"""What differs between the file systems TSK reads, as one value with plain defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._tsk import VIRTUAL_DIR, mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.model import Attr, Kind

DEFAULT: Final = 1  # TSK_FS_ATTR_TYPE_DEFAULT


def keep_all(file: Any) -> bool:
    """Keep every name but ``$OrphanFiles``, which TSK would build by reading the whole volume."""
    return int(file.info.name.type) != VIRTUAL_DIR


def no_kind(_file: Any, _attributes: list[Any]) -> Kind | None:
    """Leave the kind to TSK."""
    return None


def no_valid(_inum: int, _name: bytes | None) -> int | None:
    """Say that all bytes of an attribute are initialised."""
    return None


def tsk_link(file: Any) -> bytes:
    """Return the link target TSK found."""
    with mapped("link"):
        return bytes(file.info.meta.link or b"")


def no_xattrs(_file: Any) -> dict[bytes, bytes]:
    """Say that there are none."""
    return {}


def same(attr: Attr, _meta: int) -> Attr:
    """Leave attributes as TSK gives them."""
    return attr


def plain_number(number: int) -> bytes:
    """Name an orphan by its number."""
    return b"%d" % number


def every_number(number: int) -> int:
    """Say that every metadata address is one of an orphan."""
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How to read one file system through TSK.

    ``content`` are the attribute types of a file's own bytes, ``named`` those that are streams when they
    carry a name, ``suffix`` the stream names of types that carry none. ``kind`` may overrule what TSK
    calls a file; ``valid`` gives the initialised size of an attribute by its name. ``directory_streams``
    says that directories may have streams, ``owners`` that TSK's uid and gid are the file system's own.
    ``repair`` adjusts the attributes of a metadata address. ``next_orphan`` returns the next address that is
    one of an orphan, in use or not.
    """

    content: frozenset[int] = frozenset({DEFAULT})
    named: frozenset[int] = frozenset()
    suffix: dict[int, bytes] = field(default_factory=dict)
    keep: Callable[[Any], bool] = keep_all
    kind: Callable[[Any, list[Any]], Kind | None] = no_kind
    valid: Callable[[int, bytes | None], int | None] = no_valid
    link: Callable[[Any], bytes] = tsk_link
    xattrs: Callable[[Any], dict[bytes, bytes]] = no_xattrs
    repair: Callable[[Attr, int], Attr] = same
    next_orphan: Callable[[int], int] = every_number
    orphan_name: Callable[[int], bytes] = plain_number
    directory_streams: bool = False
    owners: bool = True
    holes: bool = False

    def stream_name(self, attribute: Any) -> bytes | None:
        """Return the name of a stream besides the content, None: the attribute is no such stream."""
        kind = int(attribute.info.type)
        if kind in self.suffix:
            return self.suffix[kind]
        named = kind in self.named and attribute.info.name
        return bytes(attribute.info.name) if named else None

    def is_content(self, attribute: Any) -> bool:
        """Say whether an attribute is the file's own bytes."""
        return int(attribute.info.type) in self.content and not (
            int(attribute.info.type) in self.named and attribute.info.name
        )
