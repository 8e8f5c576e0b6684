"""CoreStorage: volumes composed from libfvde's document, which libfvde opens, and gives the same bytes of."""

from __future__ import annotations

import io
import json
import os
import random
import struct
from pathlib import Path

import pyfvde
import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from imgfs.backends import Options, _cs_keys, discover
from imgfs.backends._cs_xml import parse
from imgfs.backends._plain import known
from imgfs.block.build import build_all
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, Malformed, NeedKey, NeedMembers, NotMine, NotSupported
from imgfs.model import Secret, VolumeTable
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import pieces
from imgfs.worker import checks, wire
from tests.backends.csimages import (
    BLOCK,
    LABEL,
    PASSWORD,
    RECOVERY,
    RECOVERY_USER,
    UNIT,
    USER,
    Group,
    block,
)
from tests.backends.hfsimages import Planted, build
from tests.mounts import imgfs, mounted
from tests.recipes import sfdisk

pytestmark = [pytest.mark.slow]
TEXT = b"in the vault\n" * 3000


def inside() -> bytes:
    made = build([Planted(name="secret.txt", data=TEXT)])
    return made + bytes(-len(made) % BLOCK)


PLAIN = inside()
COUNT = len(PLAIN) // BLOCK
APART = [(0, 3, 0, 300), (3, COUNT - 8, 0, 256), (COUNT - 5, 5, 0, 290)]
FUSION = [(0, 5, 1, 300), (5, COUNT - 5, 0, 256)]
SHAPES = {
    "encrypted": {},
    "plain": {"encrypted": False},
    "based": {"base": 7},
    "in pieces": {"segments": APART},
    "compressed": {"compressed": True, "chained": True},
    "system": {"system": True},
    "two members": {"members": 2, "segments": FUSION},
}


def secrets(*keys: tuple[str, bytes]) -> tuple[Secret, ...]:
    return tuple(Secret(kind, value) for kind, value in keys)


def opened(images: list[bytes], *keys: tuple[str, bytes], final: bool = False) -> VolumeTable:
    readers = [MemoryReader(image) for image in images]
    readers[0].others = readers[1:]
    table = discover()["corestorage"].open(readers[0], Options(keys=secrets(*keys), final=final))
    assert isinstance(table, VolumeTable)
    reply = wire.OpenReply(opened=table)
    wire.encode(reply)
    checks.check_opened(reply, [len(image) for image in images])
    return table


def content(table: VolumeTable, images: list[bytes], *, lost: bytes = b"") -> bytes:
    """Return the bytes of the first volume; ``lost`` stands for each that is lost."""
    source = build_all(table.layouts, [Memory(image) for image in images], "x")[table.volumes[0].layout]
    found = []
    for at in range(0, source.size, 512):
        for piece in source.plan(at, min(at + 512, source.size)):
            try:
                found += pieces([piece])
            except EvidenceError:
                assert lost
                found.append(lost * piece.length)
    return b"".join(found)


def images(group: Group) -> list[bytes]:
    return [group.image(member) for member in range(group.members)]


def by_libfvde(group: Group, folder: Path, *, recovery: bool = False) -> tuple[str, str, bytes]:
    """Return group, name and content of the volume as libfvde reads it."""
    volume = pyfvde.volume()
    if group.system:
        (folder / "wipekey").write_bytes(group.wipekey())
        volume.read_encrypted_root_plist(str(folder / "wipekey"))
    held = images(group)
    volume.open_file_object(io.BytesIO(held[0]))
    volume.open_physical_volume_files_as_file_objects([io.BytesIO(one) for one in held])
    found = volume.get_volume_group()
    logical = found.get_logical_volume(0)
    if recovery:
        logical.set_recovery_password(RECOVERY.decode())
    elif group.encrypted:
        logical.set_password(PASSWORD.decode())
    assert logical.unlock()
    return found.get_name(), logical.get_name(), logical.read_buffer_at_offset(logical.get_size(), 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_libfvde_reads_the_same(shape, tmp_path) -> None:
    group = Group(PLAIN, **SHAPES[shape])
    held = images(group)
    keys = [("password", PASSWORD)] if group.encrypted else []
    keys += [("keyfile", group.wipekey())] if group.system else []
    table = opened(held, *keys, final=True)
    name, logical, data = by_libfvde(group, tmp_path)
    assert data == PLAIN
    assert (table.label, [one.label for one in table.volumes]) == (name, [logical])
    assert content(table, held) == data
    assert table.uuid == str(group.group)
    assert table.volumes[0].unique_id.lower() == str(group.logical)
    assert not table.notes


def test_libfvde_takes_the_recovery_password_too(tmp_path) -> None:
    assert by_libfvde(Group(PLAIN), tmp_path, recovery=True)[2] == PLAIN


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "plain"])
def test_each_key_gives_what_was_encrypted(shape) -> None:
    group = Group(PLAIN, **SHAPES[shape])
    held = images(group)
    beside = [
        ("password", b"wrong"),
        ("volume-key", bytes(16)),
        ("keyfile", b"<none>"),
        ("keyfile", bytes(64)),
    ]
    beside += [("keyfile", group.wipekey())] if group.system else []
    tweak = _cs_keys.codec(group.vmk, group.family.bytes).parameters["key"]
    assert isinstance(tweak, bytes)
    for key in (
        ("password", PASSWORD),
        ("recovery", RECOVERY),
        ("volume-key", group.vmk),
        ("volume-key", tweak),
    ):
        assert content(opened(held, *beside, key, final=True), held) == PLAIN


def test_without_a_key_that_fits_it_says_what_would() -> None:
    held = images(Group(PLAIN, rounds=4100))
    for keys in ((), (("password", b"nope"), ("volume-key", bytes(16)))):
        with pytest.raises(NeedKey, match="Macintosh HD") as need:
            opened(held, *keys)
        cost = "pbkdf2-sha256, 4100 iterations"
        assert need.value.protectors == (
            ("0", "password", USER, cost),
            ("1", "recovery", RECOVERY_USER, cost),
        )
        assert "nope" not in str(need.value)
    with pytest.raises(NeedKey, match="EncryptedRoot"):
        opened(images(Group(PLAIN, system=True)), ("password", PASSWORD))
    with pytest.raises(NotSupported, match="being converted: Converting"):
        opened(images(Group(PLAIN, status="Converting")), ("password", PASSWORD))


def test_a_key_of_another_hand_is_unwrapped() -> None:
    """Known answer: hashcat's example of FileVault 2, whose password is its name."""
    user = _cs_keys.User(
        uuid="",
        salt=bytes.fromhex("84286044060108438487434858307513"),
        rounds=20_000,
        wrapped=bytes.fromhex("f1620ab93192112f0a23eea89b5d4df065661f974b704191"),
    )
    wrapped = aes_key_wrap(b"\xff" * 16, b"0123456789abcdef")
    context = _cs_keys.Context(encrypted=True, users=(user,), wrapped=(wrapped,), status="", others=0)
    said: list[str] = []
    assert _cs_keys.Trials(secrets(("password", b"hashcat")), said).master(context) == b"0123456789abcdef"
    assert _cs_keys.Trials(secrets(("password", b"Hashcat")), said).master(context) == b""


def test_the_file_of_the_recovery_volume_may_be_decrypted_already() -> None:
    group = Group(PLAIN, system=True)
    plain = ("<plist><dict>" + group.context() + "</dict></plist>").encode()
    assert content(opened(images(group), ("keyfile", plain), ("password", PASSWORD)), images(group)) == PLAIN


# --- sets -------------------------------------------------------------------------------------------------
def test_a_group_waits_for_its_members() -> None:
    group = Group(PLAIN, members=2, segments=FUSION)
    first, second = images(group)
    for one in (first, second):
        with pytest.raises(NeedMembers) as need:
            opened([one], ("password", PASSWORD))
        assert (need.value.set_id, need.value.have, need.value.of) == (str(group.group), 1, 2)
    stranger = Group(PLAIN, seed=9).image()
    for order in ([first, second], [second, first], [second, stranger, first], [first, bytes(8192), second]):
        assert content(opened(order, ("password", PASSWORD), final=True), order) == PLAIN
    table = opened([first], ("password", PASSWORD), final=True)
    assert content(table, [first], lost=b"?") == b"?" * 5 * BLOCK + PLAIN[5 * BLOCK :]
    assert any("2 of 2 is missing" in note for note in table.notes)
    table = opened([second], ("password", PASSWORD), final=True)  # the metadata lies on the other one
    assert not table.volumes
    assert any(
        "copy 1 of the metadata lies on a physical volume that is missing" in note for note in table.notes
    )


# --- damage -----------------------------------------------------------------------------------------------
def test_copies_stand_in_for_what_is_damaged() -> None:
    group = Group(PLAIN)
    key = ("password", PASSWORD)
    good = bytearray(group.image())
    for number in range(4):
        image = bytearray(good)
        for at in group.labels:
            if at != group.labels[number]:
                image[at * BLOCK + 100] ^= 1
        table = opened([bytes(image)], key)
        assert content(table, [bytes(image)]) == PLAIN
        assert sum("label" in note for note in table.notes) == 3
    image = bytearray(good)
    image[:512] = bytes(512)
    table = opened([bytes(image)], key)
    assert content(table, [bytes(image)]) == PLAIN
    assert any("its copy is used" in note for note in table.notes)
    for unit in range(5):
        image = bytearray(good)
        image[group.metadata[0] * BLOCK + unit * UNIT + 300] ^= 1
        table = opened([bytes(image)], key)
        assert content(table, [bytes(image)]) == PLAIN
        assert any("1 blocks are damaged" in note for note in table.notes)
    image = bytearray(good)
    for at in group.labels:
        image[at * BLOCK + 100] ^= 1
    with pytest.raises(Malformed, match="no label is intact"):
        opened([bytes(image)], key)


def test_what_the_image_ends_before_is_lost() -> None:
    group = Group(PLAIN)
    held = group.image()[: (256 + COUNT - 2) * BLOCK + 700]
    table = opened([held], ("password", PASSWORD))
    stop = (COUNT - 2) * BLOCK + 512
    assert content(table, [held], lost=b"?") == PLAIN[:stop] + b"?" * (len(PLAIN) - stop)


def test_the_last_transaction_counts() -> None:
    group = Group(PLAIN)
    name = "com.apple.corestorage."
    older = [block(0x0305, struct.pack("<II", 0, 0), oid=3, transaction=0), *group.blocks()]
    removed = f"<dict><key>{name}lv.size</key><integer>4096</integer></dict>".encode()
    data = struct.pack("<QQ16xQQ8x", 77, 3, 5, 0) + struct.pack(
        "<IIII", len(removed), len(removed), 0xB8, len(removed)
    )
    older.append(block(0x001A, data.ljust(0xB8 - 64, b"\0") + removed, oid=77, transaction=0))
    image = bytearray(group.image())
    for at in group.metadata:
        image[at * BLOCK : at * BLOCK + group.units * UNIT] = group.encrypted_metadata(0, older)
    table = opened([bytes(image)], ("password", PASSWORD))
    assert content(table, [bytes(image)]) == PLAIN
    assert table.notes == ("volume 77 was removed",)


def tampered(group: Group, blocks: list[bytes], base: bytes = b"") -> bytes:
    """Return an image with these blocks of metadata in both copies."""
    image = bytearray(base or group.image())
    stored = group.encrypted_metadata(0, blocks)
    for at in group.metadata:
        image[at * BLOCK : at * BLOCK + len(stored)] = stored
    return bytes(image)


def outcome(image: bytes) -> VolumeTable | None:
    try:
        table = opened([image], ("password", PASSWORD), final=True)
        build_all(table.layouts, [Memory(image)], "x")
    except (NeedKey, NotMine, NotSupported, EvidenceError):
        return None
    return table


@pytest.mark.parametrize("shape", ["encrypted", "plain", "compressed"])
def test_mutated_metadata_is_refused_or_lies_on_the_volume(shape) -> None:
    """Blocks changed before they are summed and encrypted: whoever writes them can do both."""
    count = int(os.environ.get("IMGFS_SEEDS", "200"))
    group = Group(PLAIN, **SHAPES[shape])
    good, base = group.blocks(), group.image()
    same = 0
    for seed in range(count):
        rng = random.Random(seed)
        blocks = list(good)
        number = rng.randrange(len(blocks))
        raw = bytearray(blocks[number])
        at = rng.choice((rng.randrange(8, 64), rng.randrange(64, 200), rng.randrange(64, 2000)))
        raw[at : at + 4] = rng.choice((rng.randbytes(4), b"\xff" * 4, bytes(4), struct.pack("<I", 1 << 20)))
        kind, oid, transaction = (
            struct.unpack_from("<H", raw, 10)[0],
            struct.unpack_from("<Q", raw, 24)[0],
            struct.unpack_from("<Q", raw, 16)[0],
        )
        blocks[number] = block(kind, bytes(raw[64:]), transaction=transaction, oid=oid)
        image = tampered(group, blocks, base)
        table = outcome(image)
        if table is not None and len(table.volumes) == 1 and content(table, [image], lost=b"?") == PLAIN:
            same += 1
    assert same > count // 10


def test_mutated_headers_and_labels_are_refused_or_give_the_same() -> None:
    count = int(os.environ.get("IMGFS_SEEDS", "200"))
    good = Group(PLAIN).image()
    for seed in range(count):
        rng = random.Random(seed)
        image = bytearray(good)
        at = rng.choice((rng.randrange(512), BLOCK + rng.randrange(300), rng.randrange(260 * BLOCK)))
        image[at : at + 4] = rng.choice((rng.randbytes(4), b"\xff" * 4, bytes(4)))
        table = outcome(bytes(image))
        assert table is not None, f"seed {seed}: one damage, and nothing opens"
        if at < 256 * BLOCK:
            assert content(table, [bytes(image)]) == PLAIN, f"seed {seed}: checksums over everything"
    for end in (0, 90, 511, 512, BLOCK, 2 * BLOCK, BLOCK + LABEL, 70 * BLOCK, 200 * BLOCK):
        outcome(good[:end])


def test_costs_that_attack_are_refused_before_they_are_paid() -> None:
    for rounds in (0xFFFF_FFFF, 10_000_001):
        group = Group(PLAIN)
        blocks = group.blocks()
        group.rounds = 1
        listed = next(one for one in blocks if struct.unpack_from("<H", one, 10)[0] == 0x0019)
        text = listed[64 + 0x3B0 - 64 :].rstrip(b"\0").decode()
        import base64
        import re

        def cost(match: re.Match[str], rounds: int = rounds) -> str:
            raw = bytearray(base64.b64decode(match[1]))
            if len(raw) == 284:
                raw[168:172] = struct.pack("<I", rounds)
            return f"<data>{base64.b64encode(raw).decode()}</data>"

        text = re.sub("<data>(.*?)</data>", cost, text)
        data = listed[64 : 64 + 0x3B0 - 64] + text.encode()
        blocks[blocks.index(listed)] = block(0x0019, data, oid=10)
        with pytest.raises(NeedKey, match="too many"):
            opened([tampered(group, blocks)], ("password", PASSWORD))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<dict>",
        "<dict><key>a</key><reference IDREF='9'/></dict>",
        "<array/>",
        "<!DOCTYPE d [<!ENTITY a 'b'>]><dict><key>&a;</key></dict>",
        "<dict>" * 40 + "</dict>" * 40,
        "<dict>" + "<key>a</key><string/>" * 30_000 + "</dict>",
        "<dict><key>a</key><data>A</data></dict>",
        "<dict><key>a</key><integer>x</integer></dict>",
    ],
)
def test_property_lists_are_bounded(text) -> None:
    with pytest.raises(Malformed):
        parse(text.encode())


def test_property_lists_repeat_values_by_reference() -> None:
    text = (
        b'<dict ID="0"><key>a</key><integer size="32" ID="5">0x1f</integer><key>b</key><reference IDREF="5"/>'
    )
    assert parse(text + b"<key>c</key><array><true/></array></dict>\0rest") == {"a": 31, "b": 31, "c": [1]}


# --- through a mount --------------------------------------------------------------------------------------
def key_file(folder: Path, *keys: tuple[str, str]) -> Path:
    path = folder / "keys.toml"
    path.write_text("".join(f'[[key]]\ntype = "{kind}"\nvalue = "{value}"\n' for kind, value in keys))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mounted_group_is_read_through_its_cipher(shape, tmp_path) -> None:
    group = Group(PLAIN, **SHAPES[shape])
    paths = [tmp_path / f"disk{member}.img" for member in range(group.members)]
    for path, image in zip(paths, images(group), strict=True):
        path.write_bytes(image)
    given = [("password", PASSWORD.decode())]
    if group.system:
        (tmp_path / "wipekey").write_bytes(group.wipekey())
        given.append(("keyfile", str(tmp_path / "wipekey")))
    rows = json.loads(imgfs("info", "--json", *paths).stdout)["layers"]
    locked = [row for row in rows if row["state"] == "locked"]
    assert bool(locked) is group.encrypted
    if group.encrypted and not group.system:
        assert [row[1:3] for row in locked[-1]["protectors"]] == [
            ["password", USER],
            ["recovery", RECOVERY_USER],
        ]
    keys = key_file(tmp_path, *given)
    (tmp_path / "m").mkdir()

    def right(root: Path) -> None:
        (found,) = root.glob("*/*/root/secret.txt")
        assert found.read_bytes() == TEXT
        assert (found.parent.parent / "volume.raw").read_bytes() == PLAIN

    with mounted(*paths, at=tmp_path / "m", options=("--keys", str(keys))) as root:
        right(root)
    with mounted(*paths, at=tmp_path / "m") as root:
        if group.encrypted:
            os.listdir(root)
            assert not list(root.glob("*/*/root"))
            (tmp_path / "bad").mkdir()
            wrong = key_file(tmp_path / "bad", ("password", "wrong"))
            for file, code in ((wrong, 7), (keys, 0), (keys, 2)):
                done = imgfs("unlock", root, "--keys", file, check=False)
                assert done.returncode == code, done.stdout + done.stderr
        right(root)


def test_a_group_on_one_disk_is_unlocked_while_it_is_mounted(tmp_path) -> None:
    group = Group(PLAIN, members=2, segments=FUSION)
    held = images(group)
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    rows = "".join(
        f"start={2048 + 8192 * n}, size={len(one) // 512}, type=53746F72-6167-11AA-AA11-00306543ECAC\n"
        for n, one in enumerate(held)
    )
    sfdisk(disk, "label: gpt\n" + rows)
    with disk.open("r+b") as file:
        for number, one in enumerate(held):
            file.seek((2048 + 8192 * number) * 512)
            file.write(one)
    keys = key_file(tmp_path, ("recovery", RECOVERY.decode()))
    (tmp_path / "m").mkdir()
    with mounted(disk, at=tmp_path / "m") as root:
        os.listdir(root / "disk.img")
        assert not list(root.glob("*/*/root"))
        done = imgfs("unlock", root, "*/01-*", "--keys", keys, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (found,) = root.glob("disk.img/*/root/secret.txt")
        assert found.read_bytes() == TEXT


def test_noise_looks_like_nothing() -> None:
    rng = random.Random(5)
    assert not any(known(rng.randbytes(1100)) for _ in range(20_000))
    for at, sign in ((512, b"EFI PART"), (1024, b"H+\0\4"), (0, b"ER\2\0"), (0, bytes(512))):
        data = bytearray(rng.randbytes(2048))
        data[at : at + len(sign)] = sign
        assert known(data)
    data = bytearray(rng.randbytes(2048))
    data[1080:1082], data[1048:1052] = b"\x53\xef", bytes(4)
    assert known(data)
    assert not known(b"")
