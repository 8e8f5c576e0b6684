"""Sparse images: bands lie where the indexes say; what none names is zeros, what none can name is lost."""

from __future__ import annotations

import lzma
import random
import struct
import time

import pytest

from imgfs.errors import Malformed, NotMine
from imgfs.testing.media import check_media
from tests.backends.diskimages import contents, holes, media, run_count

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
BAND = 2  # sectors


def composed(
    bands: dict[int, bytes], sectors: int, *, band: int = BAND, wide: bool = True, per: int = 0
) -> bytes:
    """Return an image with bands in this order, numbered from 0 on. ``per`` bands an index, 0: full."""
    numbers = list(bands)
    out = b""
    index = 0
    while not index or numbers:
        room = per or (1010 if index else 1008)
        held, numbers = numbers[:room], numbers[room:]
        body = b"".join(bands[number].ljust(band * 512, b"\0") for number in held)
        following = len(out) + 4096 + len(body) if numbers else 0
        ids = struct.pack(f">{len(held)}I", *(number + 1 for number in held))
        if index:
            head = struct.pack(">4sIIQ36x", b"sprs", index, 1, following) + ids
        else:
            total = sectors if wide else 0
            head = (
                struct.pack(">4sIIIIQQ28x", b"sprs", 3, band, 1, sectors & 0xFFFFFFFF, following, total) + ids
            )
        out += head.ljust(4096, b"\0") + body
        index += 1
    return out


def laid(bands: dict[int, bytes], sectors: int, band: int = BAND) -> bytes:
    out = bytearray(sectors * 512)
    for number, data in bands.items():
        out[number * band * 512 : number * band * 512 + len(data)] = data
    return bytes(out[: sectors * 512])


def noise(numbers: list[int], seed: int = 1) -> dict[int, bytes]:
    rng = random.Random(seed)
    return {number: rng.randbytes(BAND * 512) for number in numbers}


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("per", [0, 1, 3])
def test_bands_lie_where_the_indexes_say(wide, per) -> None:
    bands = noise([7, 0, 1, 3, 12, 2, 24])
    image = composed(bands, 49, wide=wide, per=per)
    assert contents("sparseimage", image) == laid(bands, 49)
    claim = media("sparseimage", image)
    assert not claim.lost
    assert claim.metadata == {"band size": "1024", "bands": "7 of 25"}


def test_more_bands_than_one_index_holds() -> None:
    numbers = random.Random(2).sample(range(5000), 3100)
    bands = noise(numbers)
    image = composed(bands, 10_000)
    assert contents("sparseimage", image) == laid(bands, 10_000)


@pytest.mark.parametrize("per", [0, 3])
def test_the_contract_of_media(per) -> None:
    bands = noise([7, 0, 1, 3, 12, 2, 24])
    check_media("sparseimage", {"disk.sparseimage": composed(bands, 49, per=per)}, laid(bands, 49), seeds=200)


def test_an_index_that_cannot_be_read_makes_no_zeros() -> None:
    bands = noise([0, 1, 2, 3, 5])
    image = bytearray(composed(bands, 16, per=2))
    second = 4096 + 2 * 1024
    image[second : second + 4] = b"sprz"
    found = contents("sparseimage", bytes(image))
    assert found[:2048] == bands[0] + bands[1]
    assert found[2048:] == b"?" * (16 * 512 - 2048)
    assert any("index cannot be read" in note for note in media("sparseimage", bytes(image)).notes)
    struct.pack_into(">Q", image, 20, 0x1000)  # a place the first index has itself: no loop
    assert contents("sparseimage", bytes(image))[2048:] == found[2048:]


def test_bands_named_twice_or_nowhere_are_said() -> None:
    image = bytearray(composed(noise([0, 1, 2]), 8))
    struct.pack_into(">III", image, 64, 1, 1, 77)
    claim = media("sparseimage", bytes(image))
    assert [note.split()[0] for note in claim.notes] == ["1", "1"]
    cut = composed(noise([0, 1]), 8)[:-700]
    assert contents("sparseimage", cut)[2048 - 700 : 2048] == b"?" * 700


def test_an_image_without_bands_of_many_terabytes_opens_at_once() -> None:
    begin = time.process_time()
    claim = media("sparseimage", composed({}, (1 << 54) - 1, band=2048))
    assert time.process_time() - begin < 1
    assert (run_count(claim), holes(claim)) == (1, ((1 << 54) - 1) * 512)


def test_impossible_sizes_are_malformed() -> None:
    image = composed(noise([0]), 8)
    with pytest.raises(NotMine):
        media("sparseimage", b"sprz" + image[4:])
    for cut in (image[:2000], image[:8] + bytes(4) + image[12:], image[:8] + b"\xff" * 4 + image[12:]):
        with pytest.raises(Malformed):
            media("sparseimage", cut)


def test_the_image_of_the_corpus(corpus) -> None:
    path = corpus / "corpus/SecurityRonin_dmg-forensic/synthetic.sparseimage.xz"
    image = lzma.decompress(path.read_bytes())
    found = contents("sparseimage", image)
    assert found == image[4096:5120] + bytes(1024) + image[5120:6144]
