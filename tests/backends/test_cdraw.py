"""Raw sectors without a description: data reads as bchunk reads it, audio behind it is told."""

from __future__ import annotations

import shutil
import time

import pytest

from imgfs.errors import Malformed, NotMine
from imgfs.testing.media import check_media, contents
from tests.backends.discimages import DATA, audio, noise, sectors, sheet
from tests.backends.diskimages import media
from tests.backends.test_cue import by_bchunk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
MODES = ["MODE1/2352", "MODE1/2448", "MODE2/2352", "MODE2/2448", "MODE1/2368"]


@pytest.mark.skipif(shutil.which("bchunk") is None, reason="bchunk is missing")
@pytest.mark.parametrize("mode", ["MODE1/2352", "MODE2/2352"])
def test_sectors_read_as_bchunk_reads_them(mode, tmp_path) -> None:
    raw = sectors(noise(99), mode)
    cue = sheet(("d.bin", [(mode, {1: 0})]))
    assert contents("cdraw", {"d.bin": raw}) == by_bchunk(tmp_path, cue, raw) == noise(99)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [1, 2, 100])
def test_the_contract_of_media(mode, number) -> None:
    data = noise(number)
    check_media("cdraw", {"d.bin": sectors(data, mode)}, data, seeds=200)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [1, 7, 50, 5000])
def test_audio_behind_data_is_found(mode, number) -> None:
    stride = int(mode[6:])
    data = noise(number)
    raw = sectors(data, mode) + audio(300, stride=stride)
    assert contents("cdraw", {"d.bin": raw}) == data
    notes = media("cdraw", raw).notes
    assert any(f"[{number * stride}, {(number + 300) * stride})" in note for note in notes)


@pytest.mark.parametrize("number", [3, 2500])
def test_a_change_of_mode_is_found(number) -> None:
    one, two = noise(number, 1), noise(1234, 2)
    raw = sectors(one, "MODE1/2352") + sectors(two, "MODE2/2352", lba=number)
    assert contents("cdraw", {"d.bin": raw}) == one + two


def test_damaged_sectors_between_others_stay_in_their_place() -> None:
    data = noise(5000)
    raw = bytearray(sectors(data, "MODE1/2352"))
    truth = bytearray(data)
    for at in (1, 2, *range(700, 760), 4998):
        raw[at * 2352 : (at + 1) * 2352] = b"x" * 2352
        truth[at * DATA : (at + 1) * DATA] = b"x" * DATA
    assert contents("cdraw", {"d.bin": bytes(raw)}) == truth


def test_a_last_sector_cut_short_gives_what_is_there() -> None:
    raw = sectors(noise(20), "MODE1/2352")[:-2000]
    assert contents("cdraw", {"d.bin": raw}, lost=b"?") == noise(20)[: 19 * DATA + 336].ljust(20 * DATA, b"?")
    raw = sectors(noise(20), "MODE1/2352")[:-288]
    assert contents("cdraw", {"d.bin": raw}) == noise(20)


def test_forms_and_places_are_said() -> None:
    raw = sectors(noise(20), "MODE2/2352", lba=5000, form2=[7])
    notes = media("cdraw", raw).notes
    assert any("form 2" in note for note in notes)
    assert any("starts with sector 5000" in note for note in notes)
    assert contents("cdraw", {"d.bin": raw}) == noise(20)


def test_what_holds_no_data_is_refused() -> None:
    raw = sectors(noise(3), "MODE1/2352")
    with pytest.raises(NotMine):
        media("cdraw", raw[:2000])
    with pytest.raises(NotMine):
        media("cdraw", b"\1" + raw[1:])
    with pytest.raises(Malformed):
        media("cdraw", raw[:15] + b"\0" + raw[16:2352])


def test_a_whole_disc_opens_at_once(tmp_path) -> None:
    image = tmp_path / "disc.bin"
    block = sectors(noise(1000), "MODE1/2352")
    with image.open("wb") as file:
        for _ in range(330):
            file.write(block)
    begin = time.monotonic()
    claim = media("cdraw", image)
    assert time.monotonic() - begin < 1
    assert claim.layouts[-1].size == 330_000 * DATA
    assert sum(len(layout.table) for layout in claim.layouts[:-1]) < 1 << 19
