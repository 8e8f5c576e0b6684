"""Nero's images: tracks as composed here and as nrg2iso reads them; audio stays in the file."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest

from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.media import check_media, contents
from tests.backends.discimages import DATA, audio, nero, noise, sectors
from tests.backends.diskimages import media

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
MODES = [
    (0x00, "MODE1/2048"),
    (0x02, "MODE2/2048"),
    (0x03, "MODE2/2336"),
    (0x05, "MODE1/2352"),
    (0x06, "MODE2/2352"),
    (0x0F, "MODE1/2448"),
    (0x11, "MODE2/2448"),
]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("mode, shape", MODES)
def test_one_track_of_any_mode(mode, shape, wide, taken) -> None:
    data, stride = noise(90), int(shape[6:])
    gap = sectors(noise(0 if taken else 150, 2), shape, lba=-150)
    raw = gap + sectors(data, shape)
    image = nero(raw, [(mode, stride, 0, len(gap), len(raw), 0)], wide=wide, taken=taken)
    assert contents("nrg", {"d.nrg": image}) == data
    claim = media("nrg", image)
    assert claim.version == f"Nero image, version {1 + wide}"
    assert not claim.lost
    assert not claim.notes
    check_media("nrg", {"d.nrg": image}, data, seeds=200)


@pytest.mark.skipif(shutil.which("nrg2iso") is None, reason="nrg2iso is missing")
@pytest.mark.parametrize("wide", [True, False])
def test_a_disc_of_one_track_reads_as_nrg2iso_reads_it(wide, tmp_path) -> None:
    raw = noise(150, 2) + noise(90)
    image = nero(raw, [(0, DATA, 0, 150 * DATA, len(raw), 0)], wide=wide)
    (tmp_path / "d.nrg").write_bytes(image)
    subprocess.run(["nrg2iso", "d.nrg", "d.iso"], cwd=tmp_path, check=True, capture_output=True)
    peer = (tmp_path / "d.iso").read_bytes()  # the chunks behind the tracks are in it, too
    assert peer.startswith(contents("nrg", {"d.nrg": image}))
    assert contents("nrg", {"d.nrg": image}) == noise(90)


@pytest.mark.parametrize("wide", [True, False])
def test_data_on_both_sides_of_audio(wide) -> None:
    first, second, sound = noise(40, 1), noise(30, 2), audio(20)
    raw = sectors(first, "MODE1/2352") + sound + sectors(second, "MODE2/2352", lba=60)
    cuts = [0, 40 * 2352, 60 * 2352, 90 * 2352]
    tracks = [
        (0x05, 2352, cuts[0], cuts[0], cuts[1], 0),
        (0x07, 2352, cuts[1], cuts[1], cuts[2], 40),
        (0x06, 2352, cuts[2], cuts[2], cuts[3], 60),
    ]
    image = nero(raw, tracks, wide=wide)
    assert contents("nrg", {"d.nrg": image}, lost=b"?") == first + b"?" * (20 * DATA) + second
    claim = media("nrg", image)
    assert [row[:2] for row in claim.lost] == [(40 * DATA, 60 * DATA)]
    assert any(
        f"track 2 is audio, no part of the media: bytes [{cuts[1]}, {cuts[2]})" in n for n in claim.notes
    )


@pytest.mark.parametrize("wide", [True, False])
def test_gaps_in_the_file_count(wide) -> None:
    first, second = noise(20, 1), noise(10, 2)
    raw = noise(150, 3) + first + noise(150, 4) + second
    cuts = [DATA * sector for sector in (0, 150, 170, 320, 330)]
    tracks = [(0, DATA, cuts[0], cuts[1], cuts[2], 0), (0, DATA, cuts[2], cuts[3], cuts[4], 170)]
    image = nero(raw, tracks, wide=wide)
    assert contents("nrg", {"d.nrg": image}, lost=b"?") == first + b"?" * (150 * DATA) + second


@pytest.mark.skipif(shutil.which("cd-info") is None, reason="cd-info is missing")
def test_tracks_lie_where_libcdio_says(tmp_path) -> None:
    raw = sectors(noise(40), "MODE1/2352") + audio(20) + sectors(noise(30), "MODE1/2352", lba=60)
    cuts = [0, 40 * 2352, 60 * 2352, 90 * 2352]
    tracks = [
        (0x05, 2352, cuts[0], cuts[0], cuts[1], 0),
        (0x07, 2352, cuts[1], cuts[1], cuts[2], 40),
        (0x05, 2352, cuts[2], cuts[2], cuts[3], 60),
    ]
    image = tmp_path / "d.nrg"
    image.write_bytes(nero(raw, tracks))
    said = subprocess.run(
        ["cd-info", "--no-device-info", "-N", image], capture_output=True, text=True, check=False
    )
    table = [int(found[1]) for found in re.finditer(r"^ +\d+: [\d:]+ +(\d{6}) ", said.stdout, re.MULTILINE)]
    assert table == [0, 40, 60]  # of the lead-out it makes a negative number
    lost = [row[:2] for row in media("nrg", image).lost]
    assert lost == [(table[1] * DATA, table[2] * DATA)]


def test_what_is_described_and_not_there_is_lost() -> None:
    data = noise(20)
    image = nero(data, [(0, DATA, 0, 0, 20 * DATA, 0), (0, DATA, 0, 1 << 40, (1 << 40) + DATA, 20)])
    assert contents("nrg", {"d.nrg": image}, lost=b"?") == data + b"?" * DATA
    twice = nero(data, [(0, DATA, 0, 0, 20 * DATA, 0), (0, DATA, 0, 0, 5 * DATA, 10)])
    assert contents("nrg", {"d.nrg": twice}) == data
    assert any("left out" in note for note in media("nrg", twice).notes)


def test_descriptions_that_cannot_be_are_refused() -> None:
    track = (0, DATA, 0, 0, 20 * DATA, 0)
    image = nero(noise(20), [track])
    for bad, error in (
        (image[:-1], NotMine),
        (b"NER5", NotMine),
        (image[:-8] + struct.pack(">Q", 1 << 50), Malformed),
        (image[:-8] + struct.pack(">Q", len(image) - 20), Malformed),
        (nero(noise(20), [(0x44, DATA, 0, 0, 20 * DATA, 0)]), Malformed),
        (nero(noise(20), [(0x00, 77, 0, 0, 20 * DATA, 0)]), Malformed),
        (nero(noise(20), [(0x00, DATA, 0, DATA, 0, 0)]), Malformed),
        (nero(noise(20), []), Malformed),
        (nero(audio(20), [(0x07, 2352, 0, 0, 20 * 2352, 0)]), NotSupported),
    ):
        with pytest.raises(error):
            media("nrg", bad)


def test_the_image_of_the_corpus_is_audio(corpus) -> None:
    packed = corpus / "corpus/libcdio_libcdio/p1.nrg.xz"
    image = subprocess.run(["xz", "-dc", packed], check=True, capture_output=True).stdout
    with pytest.raises(NotSupported, match="audio only"):
        media("nrg", image)
