"""Version 4 with everything a kernel writes, and files on a real-time device: recorded in a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.errors import LostBytes
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.xfsimages import OURS
from tests.backends.xfsrecorded import RECORDED, digest
from tests.guest import recording

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["a", "b"])
def test_what_a_kernel_with_version_4_saw_is_shown(tmp_path: Path, disk: str) -> None:
    disks, truth = recording.load(RECORDED / f"xfs-{disk}.xz", tmp_path)
    reader = FileReader(disks[disk])
    files = open_files("xfs", reader)
    assert (files.info.version, files.info.notes) == ("4", ())
    tree = walk(files)
    assert {path.hex() for path in tree} == {row[0] for row in truth}
    for name, *numbers, what, attributes in truth:
        path = bytes.fromhex(name)
        attr = tree[path].attr
        ours = [attr.inum, attr.kind << 12 | attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size]
        ours += [attr.allocated, attr.m_ns, attr.a_ns, attr.c_ns]
        assert ours == [int(number) for number in numbers], path
        assert (attr.damaged, attr.b_ns) == ("", None)
        data = b""
        if attr.kind == Kind.REG:
            data = content(files, reader, 0, tree[path])
        elif attr.kind == Kind.LNK:
            data = files.link(0, attr.inum)
        assert digest(data) == what, path
        found = {key: value for key, value in files.xattrs(0, attr.inum).items() if not key.startswith(OURS)}
        pairs = b"".join(b"%s=%s;" % (key, found[key]) for key in sorted(found))
        assert (digest(pairs) if found else "") == attributes, path
    reader.close()


def test_files_on_a_realtime_device_of_a_kernel_are_said(tmp_path: Path) -> None:
    disks, _ = recording.load(RECORDED / "xfs-c.xz", tmp_path)
    reader = FileReader(disks["c"])
    files = open_files("xfs", reader)
    assert files.info.notes == (
        "files on a real-time device of 4096 blocks cannot be read without that device",
    )
    entry = walk(files)[b"realtime"]
    assert (entry.attr.size, entry.layout) == (23, None)
    assert "real-time" in entry.attr.damaged
    with pytest.raises(LostBytes, match="real-time"):
        files.layout(0, entry.attr.inum, 0)
    reader.close()
