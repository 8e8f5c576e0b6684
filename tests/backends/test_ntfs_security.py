"""Security descriptors, object identifiers, short names and times, as ntfs-3g and Samba know them."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from imgfs.backends.ntfs.objects import entries, identifiers
from imgfs.backends.ntfs.record import filetime
from imgfs.backends.ntfs.sddl import sddl
from imgfs.backends.ntfs.security import checksum, index, owner_and_group
from imgfs.errors import Malformed
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.tskimages import mounted, need, run

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files

DOMAIN = "S-1-5-21-1-2-3"
TEXTS = (
    "O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;;0x1200a9;;;BU)(D;ID;FR;;;WD)(A;OIIO;FX;;;CO)",
    f"O:{DOMAIN}-500G:{DOMAIN}-513D:AI(A;OICIID;FW;;;AU)",
    "O:BAD:(OA;CI;0x10;bf967aba-0de6-11d0-a285-00aa003049e2;4c164200-20c0-11d0-a768-00aa006e0529;AU)",
    "O:LSG:NSD:S:(AU;SAFA;FA;;;WD)",
)


def by_samba(action: str, values: list[str]) -> list[str]:
    """Pack texts into descriptors (hex) or say what descriptors mean, through Samba's library.

    Samba 4.17 takes FA for less than all rights of a file, so it is given their number.
    """
    values = [value.replace(";FA;", ";0x1f01ff;") for value in values]
    script = (
        "import sys\n"
        "from samba.dcerpc import security\n"
        "from samba.ndr import ndr_pack, ndr_unpack\n"
        f"domain = security.dom_sid('{DOMAIN}')\n"
        "for line in sys.stdin.read().split():\n"
        "    if sys.argv[1] == 'pack':\n"
        "        print(ndr_pack(security.descriptor.from_sddl(line, domain)).hex())\n"
        "    else:\n"
        "        print(ndr_unpack(security.descriptor, bytes.fromhex(line)).as_sddl())\n"
    )
    command = ["/usr/bin/python3", "-c", script, action]
    done = subprocess.run(command, input="\n".join(values), capture_output=True, text=True, check=False)
    if "No module named 'samba'" in done.stderr:
        pytest.skip("python3-samba is not installed")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_descriptors_samba_packed_read_as_what_they_were_packed_from() -> None:
    packed = by_samba("pack", list(TEXTS))
    for wanted, raw in zip(TEXTS, packed, strict=True):
        assert sddl(bytes.fromhex(raw)) == wanted


def test_damaged_descriptors_are_refused_or_bounded() -> None:
    rng, refused = random.Random(4), 0
    whole = [bytes.fromhex(raw) for raw in by_samba("pack", list(TEXTS))]
    for _ in range(200):
        bad = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 2, 8))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del bad[rng.randrange(len(bad)) :]
        owner_and_group(bytes(bad))
        try:
            assert len(sddl(bytes(bad))) < 4096
        except Malformed:
            refused += 1
    assert 20 < refused < 180


def stored(*descriptors: bytes) -> bytearray:
    """Return the stream of shared descriptors, numbered from 256, with its copy."""
    block = bytearray()
    for number, descriptor in enumerate(descriptors, 256):
        length = 20 + len(descriptor)
        block += struct.pack("<IIQI", checksum(descriptor), number, len(block), length) + descriptor
        block += bytes(-len(block) % 16)
    return block.ljust(256 << 10, b"\0") + block


def test_a_damaged_descriptor_is_read_from_the_copy_of_its_block() -> None:
    first, second = b"\1" * 40, b"\2" * 60
    stream = stored(first, second)
    assert index(bytes(stream)) == ({256: first, 257: second}, set())
    for at in (4, 8, 16, 30):  # number, place, length, descriptor
        bad = bytearray(stream)
        bad[at] ^= 0x10
        found, _ = index(bytes(bad))
        assert (found[256], found[257]) == (first, second)
    bad = bytearray(stream)
    bad[30] ^= 0x10
    bad[(256 << 10) + 30] ^= 0x10
    assert index(bytes(bad)) == ({257: second}, {256})


def test_nodes_of_identifiers_are_bounded() -> None:
    entry = struct.pack("<HHIHHHH", 32, 56, 0, 88, 16, 0, 0) + b"\5" * 16 + b"\6" * 56
    node = struct.pack("<III", 16, 16 + len(entry), 0) + bytes(4) + entry
    assert list(entries(node, 0)) == [(b"\5" * 16, b"\6" * 56)]
    rng = random.Random(9)
    for _ in range(200):
        bad = bytearray(node)
        bad[rng.randrange(32)] ^= 1 << rng.randrange(8)
        assert len(list(entries(bytes(bad[: rng.randrange(len(bad))]), 0))) <= 8
    assert identifiers(b"short", b"") == {}
    assert set(identifiers(b"\1" * 64, b"")) == {
        "object_id",
        "birth_volume_id",
        "birth_object_id",
        "domain_id",
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, dict[str, bytes]]]:
    """Return a volume with owners, access lists and identifiers, and what ntfs-3g says of its files."""
    need("mkfs.ntfs", "ntfs-3g", "getfattr")
    folder = tmp_path_factory.mktemp("security")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    options = "streams_interface=windows,permissions"
    rng = random.Random(3)
    with mounted(["ntfs-3g", "-o", options, image], folder / "one") as where:
        (where / "d").mkdir()
        for number in range(60):
            path = where / f"d/a long file name {number}.txt"
            path.write_bytes(b"%d" % number)
            path.chmod(rng.randrange(0o1000))
            os.chown(path, rng.randrange(5000), rng.randrange(5000))
            os.setxattr(path, "system.ntfs_dos_name", b"LONG%d~1.TXT" % number)
            os.setxattr(path, "system.ntfs_object_id", rng.randbytes(64 if number % 2 else 16))
            os.utime(path, ns=(rng.randrange(1 << 60) // 100 * 100, rng.randrange(1 << 60) // 100 * 100))
    said: dict[bytes, dict[str, bytes]] = {}
    names = ("acl", "object_id", "dos_name", "times_be", "attrib_be")
    with mounted(["ntfs-3g", "-o", "ro," + options, image], folder / "two") as where:
        paths = sorted((where / "d").iterdir())
        for name in names:  # Python's own call asks with 128 bytes first, and ntfs-3g fails
            text = run("getfattr", "--absolute-names", "-e", "hex", "-n", f"system.ntfs_{name}", *paths)
            values = re.findall(r"=0x(\S+)", text)
            for path, value in zip(paths, values, strict=True):
                said.setdefault(b"d/" + os.fsencode(path.name), {})[name] = bytes.fromhex(value)
    return image, said


@pytest.mark.slow
@pytest.mark.root
def test_what_is_said_of_files_is_what_ntfs3g_says(
    image: tuple[Path, dict[bytes, dict[str, bytes]]],
) -> None:
    reader = FileReader(image[0])
    files = open_files("ntfs", reader)
    tree = walk(files)
    ours: list[str] = []
    raw: list[str] = []
    assert len(image[1]) == 60
    for path, theirs in image[1].items():
        attr = tree[path].attr
        found = {
            name.removeprefix(b"user.imgfs.ntfs.").decode(): value
            for name, value in files.xattrs(0, attr.inum).items()
        }
        assert found["security_descriptor"] == theirs["acl"], path
        assert found["dos_name"] == theirs["dos_name"]
        identified = (
            found.get(name) for name in ("object_id", "birth_volume_id", "birth_object_id", "domain_id")
        )
        guids = b"".join(UUID(guid.decode()).bytes_le for guid in identified if guid)
        assert guids == theirs["object_id"].rstrip(b"\0")
        times = struct.unpack(">4Q", theirs["times_be"])
        assert tuple(map(filetime, times)) == (attr.b_ns, attr.m_ns, attr.a_ns, attr.c_ns)
        words = found["attributes"].decode().split(",")
        assert ("readonly" in words) == bool(theirs["attrib_be"][3] & 1)
        assert "security_damaged" not in found
        ours.append(found["sddl"].decode())
        raw.append(theirs["acl"].hex())
    reader.close()
    again = by_samba("pack", ours)
    assert by_samba("say", again) == by_samba("say", raw)


@pytest.mark.slow
@pytest.mark.root
def test_damage_to_shared_descriptors_and_identifiers_costs_what_depends_on_it(
    image: tuple[Path, dict[bytes, dict[str, bytes]]],
) -> None:
    """Whatever is shown of a file is what it was, unless its own record was hit."""
    data = image[0].read_bytes()

    def xattrs(files: Files, number: int) -> dict[bytes, bytes]:
        return files.xattrs(0, number)

    reader = MemoryReader(data)
    files = open_files("ntfs", reader)
    tree = walk(files)
    shared = content(files, reader, 0, tree[b"$Secure:$SDS"])
    places = [data.find(shared[:64])]
    names = sorted(image[1])
    identifier = re.escape(image[1][names[1]]["object_id"][:16])
    blocks = (match.start() // 4096 * 4096 for match in re.finditer(identifier, data, re.DOTALL))
    places.append(next(at for at in blocks if data[at : at + 4] == b"INDX"))
    whole = {name: xattrs(files, tree[name].attr.inum) for name in names}
    rng, differing = random.Random(6), 0
    for count in range(200):
        bad = bytearray(data)
        at = places[count % 2]
        for _ in range(rng.choice((1, 2, 8, 64))):
            bad[at + rng.randrange(4096)] ^= 1 << rng.randrange(8)
        again = open_files("ntfs", MemoryReader(bytes(bad)))
        for name in rng.sample(names, 3):
            found = xattrs(again, tree[name].attr.inum)
            descriptor = found.get(b"user.imgfs.ntfs.security_descriptor")
            assert descriptor in {None, whole[name][b"user.imgfs.ntfs.security_descriptor"]}
            guid = b"user.imgfs.ntfs.object_id"
            assert found[guid] == whole[name][guid]
            differing += found != whole[name]
    assert 20 < differing < 580
