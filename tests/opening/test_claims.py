"""Names of host files that come out of images: 60 crafted descriptors, and no byte of what they lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from imgfs.block.beneath import open_beneath
from imgfs.errors import EvidenceError
from imgfs.opening.place import Overrule
from imgfs.session import open_session
from imgfs.settings import Settings

CANARY = b"CANARY! " * 8192  # 64 KiB
SIZE = len(CANARY)
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID={parent}
createType="monolithicFlat"
{hint}
# Extent description
RW {sectors} {extent}
"""


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """Return a folder of evidence with the canary outside of it, and every way to reach it inside."""
    folder = tmp_path / "case" / "evidence"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in (tmp_path / "canary", tmp_path / "case" / "canary", tmp_path / "outside" / "canary"):
        place.write_bytes(CANARY)
    (folder / "file-link").symlink_to("../canary")
    (folder / "absolute-link").symlink_to(tmp_path / "canary")
    (folder / "folder-link").symlink_to("..")
    (folder / "sub" / "up").symlink_to("../..")
    (folder / "sub" / "file-link").symlink_to("../../canary")
    (folder / "proc").symlink_to("/proc/self")
    (folder / "empty").touch()
    (folder / "a folder").mkdir()
    os.mkfifo(folder / "fifo")
    return folder


NAMES = [
    "../canary",
    "../../canary",
    "../../outside/canary",
    "./../canary",
    "sub/../../canary",
    "sub/../file-link",
    "file-link",
    "absolute-link",
    "folder-link/canary",
    "folder-link/../canary",
    "folder-link/evidence/file-link",
    "sub/up/canary",
    "sub/file-link",
    "sub//file-link",
    "sub/./file-link",
    "/dev/zero",
    "/dev/mem",
    "/etc/passwd",
    "/proc/self/mem",
    "/proc/self/fd/0",
    "proc/mem",
    "proc/fd/0",
    "fifo",
    "empty",
    "a folder",
    "a folder/",
    ".",
    "..",
    "file:../canary",
    "nbd://127.0.0.1:1/canary",
    "http://127.0.0.1:1/canary",
    "\\\\host\\share\\canary",
    "..\\canary",
    "C:\\canary",
    "sub/" * 9 + "canary",
    "x" * 300,
    "canary\x00",
    "~/canary",
    "$HOME/canary",
    "ab\ncanary",
]


async def contents(image: Path, settings: Settings) -> tuple[bytes, int, list[str]]:
    async with open_session([image], settings) as session:
        await session.resolve()
        seen = bytearray()
        disk = await session.find([image.name.encode(), b"disk.raw"])
        file = await session.open(disk)
        for at in range(0, file.size, 4096):
            try:
                seen += await file.read(at, 4096)
            except EvidenceError:
                seen += b"?" * min(4096, file.size - at)
        return bytes(seen), len(session.evidence[0].files), [layer.state for layer in session.layers]


def descriptor(folder: Path, *, extent: str = "", hint: str = "", kind: str = "FLAT") -> Path:
    image = folder / "image.vmdk"
    named = f'{kind} "{extent}" 0' if extent else "ZERO"
    if hint:  # a child of which nothing is held: everything would be its parent's
        named = 'SPARSE "image-s001.vmdk"'
    text = DESCRIPTOR.format(
        parent="12345678" if hint else "ffffffff",
        hint=f'parentFileNameHint="{hint}"' if hint else "",
        sectors=SIZE // 512,
        extent=named,
    )
    image.write_bytes(text.encode("utf-8", "surrogateescape"))
    return image


@pytest.mark.parametrize("name", NAMES)
def test_a_crafted_extent_reads_no_byte_from_elsewhere(name, evidence) -> None:
    image = descriptor(evidence, extent=name)
    seen, files, _ = trio.run(contents, image, Settings())
    assert b"CANARY" not in seen
    assert files == 1


@pytest.mark.parametrize("name", NAMES[:23])
def test_a_crafted_parent_reads_no_byte_from_elsewhere(name, evidence) -> None:
    image = descriptor(evidence, hint=name)
    seen, _, _ = trio.run(contents, image, Settings())
    assert b"CANARY" not in seen


def test_a_file_beneath_the_image_is_brought(evidence) -> None:
    (evidence / "sub" / "deeper").mkdir()
    data = os.urandom(SIZE)
    (evidence / "sub" / "deeper" / "flat.bin").write_bytes(data)
    seen, files, states = trio.run(contents, descriptor(evidence, extent="sub/deeper/flat.bin"), Settings())
    assert (seen, files) == (data, 2)
    assert states[0] == "open"


def test_the_analyst_may_point_elsewhere(evidence, tmp_path) -> None:
    image = descriptor(evidence, extent="canary")
    seen, _, states = trio.run(contents, image, Settings())
    assert b"CANARY" not in seen
    assert states[0] == "incomplete"
    allowed = Settings(overrule=Overrule(look_in=(str(tmp_path / "outside"),)))
    seen, files, _ = trio.run(contents, image, allowed)
    assert (seen, files) == (CANARY, 2)


def test_only_regular_files_are_opened_and_nothing_is_left_open(evidence) -> None:
    for name in NAMES:
        assert open_beneath(evidence, name) is None, name
    (evidence / "sub" / "file").write_bytes(b"x")
    file = open_beneath(evidence, "sub/file")
    assert file is not None
    assert (file.name, file.read(0, 1)) == ("file", b"x")
    file.close()
