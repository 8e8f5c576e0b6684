"""Cue sheets: data tracks read as bchunk reads them; what no file holds is lost, audio stays in its file."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends.discimages import DATA, audio, noise, sectors, sheet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgfs.backends import Reader
    from imgfs.model import Media

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
needs_bchunk = pytest.mark.skipif(shutil.which("bchunk") is None, reason="bchunk is missing")
MODES = ["MODE1/2048", "MODE1/2352", "MODE1/2448", "MODE2/2336", "MODE2/2352", "MODE2/2448"]


def opened(files: Mapping[str, bytes]) -> Media:
    readers = [MemoryReader(data, name=name) for name, data in files.items()]
    readers[0].others = readers[1:]
    return cast("Media", discover()["cue"].open(cast("Reader", readers[0]), Options()))


def by_bchunk(folder: Path, cue: bytes, data: bytes) -> bytes:
    """Return what bchunk makes of the first track."""
    (folder / "d.cue").write_bytes(cue)
    (folder / "d.bin").write_bytes(data)
    subprocess.run(["bchunk", "d.bin", "d.cue", "out"], cwd=folder, check=True, capture_output=True)
    return (folder / "out01.iso").read_bytes()


@needs_bchunk
@pytest.mark.parametrize("mode", ["MODE1/2352", "MODE2/2352"])
def test_a_data_track_reads_as_bchunk_reads_it(mode, tmp_path) -> None:
    data = noise(100)
    cue, raw = sheet(("d.bin", [(mode, {1: 0})])), sectors(data, mode)
    assert contents("cue", {"d.cue": cue, "d.bin": raw}) == by_bchunk(tmp_path, cue, raw) == data


@needs_bchunk
@pytest.mark.parametrize("mode", ["MODE1/2352", "MODE2/2352"])
def test_audio_behind_data_is_told_and_not_shown(mode, tmp_path) -> None:
    data, sound = noise(70), audio(50)
    cue = sheet(("d.bin", [(mode, {1: 0}), ("AUDIO", {1: 70}), ("AUDIO", {0: 90, 1: 95})]))
    raw = sectors(data, mode) + sound
    assert contents("cue", {"d.cue": cue, "d.bin": raw}) == by_bchunk(tmp_path, cue, raw) == data
    claim = opened({"d.cue": cue, "d.bin": raw})
    assert [
        f"[{70 * 2352}, {95 * 2352})" in note or f"[{95 * 2352}, {len(raw)})" in note for note in claim.notes
    ]
    assert claim.metadata["tracks"] == f"1 {mode}, 2 AUDIO, 3 AUDIO"
    assert not claim.lost


@pytest.mark.parametrize("mode", MODES)
def test_the_contract_of_media(mode) -> None:
    data = noise(101)
    cue, raw = sheet(("a/d.bin", [(mode, {1: 0})])), sectors(data, mode)
    check_media("cue", {"d.cue": cue, "a/d.bin": raw}, data, seeds=200)


def test_tracks_of_several_shapes_share_a_file() -> None:
    shapes = ["MODE1/2048", "MODE2/2336", "MODE1/2352"]
    data = [noise(20, seed) for seed in range(3)]
    raw = b"".join(
        sectors(part, shape, lba=20 * place)
        for place, (part, shape) in enumerate(zip(data, shapes, strict=True))
    )
    cue = sheet(("d.bin", [(shape, {1: 20 * place}) for place, shape in enumerate(shapes)]))
    assert contents("cue", {"d.cue": cue, "d.bin": raw}) == b"".join(data)


def test_tracks_in_files_of_their_own_follow_each_other() -> None:
    first, second = noise(30, 1), noise(40, 2)
    files = {
        "1.bin": sectors(first, "MODE1/2352"),
        "2.bin": audio(10),
        "3.bin": sectors(second, "MODE1/2352", lba=40),
    }
    modes = ("MODE1/2352", "AUDIO", "MODE1/2352")
    cue = sheet(*((name, [(mode, {1: 0})]) for name, mode in zip(files, modes, strict=True)))
    whole = {"d.cue": cue, **files}
    assert contents("cue", whole, lost=b"?") == first + b"?" * (10 * DATA) + second
    assert [row[:2] for row in opened(whole).lost] == [(30 * DATA, 40 * DATA)]
    del whole["3.bin"]
    claim = opened(whole)
    assert claim.wants == ("3.bin",)
    assert contents("cue", whole) == first
    alone = opened({"d.cue": cue})
    assert alone.wants == tuple(files)
    assert alone.layouts[-1].size == 0


def test_the_place_of_a_track_is_what_its_first_sector_says() -> None:
    first, second = noise(30, 1), noise(40, 2)
    cue = sheet(("1.bin", [("MODE1/2352", {1: 0})]), ("2.bin", [("MODE2/2352", {1: 0})]))
    files = {
        "d.cue": cue,
        "1.bin": sectors(first, "MODE1/2352"),
        "2.bin": sectors(second, "MODE1/2352", lba=11_430),
    }
    assert contents("cue", files, lost=b"?") == first + b"?" * (11_400 * DATA) + second
    notes = opened(files).notes
    assert any("11430 by its header" in note for note in notes)
    assert any("MODE2/2352: its first sector is of mode 1" in note for note in notes)


def test_gaps_count() -> None:
    """A gap of the sheet alone moves what follows; one in the file is skipped."""
    first, second = noise(20, 1), noise(20, 2)
    cue = sheet(("d.bin", [("MODE1/2048", {1: 0}), ("MODE1/2048", {0: 20, 1: 25})]))
    raw = first + noise(5, 3) + second
    assert contents("cue", {"d.cue": cue, "d.bin": raw}, lost=b"?") == first + b"?" * (5 * DATA) + second
    cue = cue.replace(b"    INDEX 00 00:00:20", b"    PREGAP 00:02:00").replace(b":25", b":20")
    raw = first + second
    assert contents("cue", {"d.cue": cue, "d.bin": raw}, lost=b"?") == first + b"?" * (150 * DATA) + second


def test_a_gap_at_the_end_of_the_file_before() -> None:
    first, second = noise(20, 1), noise(20, 2)
    cue = b'FILE "1.bin" BINARY\nTRACK 01 MODE1/2048\nINDEX 01 00:00:00\n'
    cue += b"TRACK 02 MODE1/2048\nINDEX 00 00:00:20\n"
    cue += b'FILE "2.bin" BINARY\nINDEX 01 00:00:00\n'
    assert contents("cue", {"d.cue": cue, "1.bin": first, "2.bin": second}) == first + second


def test_a_file_cut_short_costs_its_end() -> None:
    data = noise(40)
    cue = sheet(("d.bin", [("MODE1/2352", {1: 0}), ("AUDIO", {1: 40})]))
    raw = sectors(data, "MODE1/2352")[: 20 * 2352 + 116]
    assert contents("cue", {"d.cue": cue, "d.bin": raw}, lost=b"?") == data[: 20 * DATA + 100].ljust(
        40 * DATA, b"?"
    )
    assert opened({"d.cue": cue, "d.bin": raw}).lost


def test_names_are_claims() -> None:
    data = noise(3)
    for said, wanted in (
        ("/etc/passwd", ("passwd",)),
        ("C:\\\\rips\\\\d.bin", ("d.bin",)),
        ("../d.bin", ("d.bin",)),
        ("x/..", ()),
        ("sub\\\\d.bin", ("sub//d.bin",)),
    ):
        cue = sheet((said, [("MODE1/2048", {1: 0})]))
        claim = opened({"d.cue": cue})
        assert claim.wants in (wanted, tuple(name.rpartition("/")[2] for name in wanted)), said
        assert claim.notes
    cue = sheet(("d.bin", [("MODE1/2048", {1: 0})])).replace(b"BINARY", b"WAVE")
    assert opened({"d.cue": cue, "d.bin": data}).wants == ()


def test_sheets_that_cannot_be_are_refused() -> None:
    good = sheet(("d.bin", [("MODE1/2048", {1: 0})]))
    for text, error in (
        (b"", NotMine),
        (b"\0" * 600, NotMine),
        (b"a letter", NotMine),
        (b'FILE "d.bin" BINARY', NotMine),
        (good.replace(b"MODE1/2048", b"MODE9/2048"), Malformed),
        (good.replace(b"INDEX", b"INDIX"), Malformed),
        (good.replace(b"00:00:00", b"00:60:00"), Malformed),
        (sheet(("d.bin", [("MODE1/2048", {1: 9}), ("AUDIO", {1: 3})])), Malformed),
        (sheet(("d.bin", [("AUDIO", {1: 0})] * 100)), Malformed),
        (sheet(("d.bin", [("AUDIO", {1: 0})])), NotSupported),
    ):
        with pytest.raises(error):
            opened({"d.cue": text, "d.bin": noise(3)})


def test_text_of_any_spelling() -> None:
    data = noise(3)
    for cue in (
        b'\xef\xbb\xbffile "d.bin" binary\r\n\ttrack 1 mode1/2048\r\nindex 1 0:00:00',
        b'CATALOG 0123456789012\nTITLE "A t\xeftle"\n' + sheet(("d.bin", [("MODE1/2048", {1: 0})])),
    ):
        assert contents("cue", {"d.cue": cue, "d.bin": data}) == data
    assert opened({"d.cue": cue, "d.bin": data}).metadata["title"] == "A tïtle"
