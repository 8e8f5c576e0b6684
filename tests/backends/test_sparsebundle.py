"""Sparse bundles: bands of a folder, by their numbers; missing ones are zeros, unreadable ones are lost."""

from __future__ import annotations

import os
import plistlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgfs.backends import Options, discover
from imgfs.cli.options import image_path, split_path
from imgfs.errors import Malformed, NotMine, UsageError
from imgfs.opening.bundles import bundle, make_room, open_bundle
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.mounts import imgfs
from tests.peers import layers, watched
from tests.recipes import MIB, fat

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
BAND = 4096


def listed(size: int, band: int = BAND, **more: object) -> bytes:
    return plistlib.dumps(
        {
            "CFBundleInfoDictionaryVersion": "6.0",
            "band-size": band,
            "bundle-backingstore-version": 1,
            "diskimage-bundle-type": "com.apple.diskimage.sparsebundle",
            "size": size,
        }
        | more
    )


def members(bands: dict[int, bytes], size: int, band: int = BAND) -> dict[str, bytes]:
    files = {"Info.plist": listed(size, band), "Info.bckup": listed(size, band)}
    return files | {f"{number:x}": data for number, data in sorted(bands.items())}


def laid(bands: dict[int, bytes], size: int, band: int = BAND) -> bytes:
    out = bytearray(size)
    for number, data in bands.items():
        out[number * band : number * band + len(data)] = data
    return bytes(out[:size])


def noise() -> dict[int, bytes]:
    rng = random.Random(1)
    return {number: rng.randbytes(length) for number, length in ((0, BAND), (3, 100), (10, BAND), (17, 2000))}


def written(folder: Path, data: bytes, band: int) -> Path:
    """Write a disk as a bundle; bands of zeros are not written."""
    (folder / "bands").mkdir(parents=True)
    (folder / "Info.plist").write_bytes(listed(len(data), band))
    (folder / "Info.bckup").write_bytes(listed(len(data), band))
    (folder / "token").touch()
    for number, at in enumerate(range(0, len(data), band)):
        if any(piece := data[at : at + band]):
            (folder / "bands" / f"{number:x}").write_bytes(piece)
    return folder


SIZE = 17 * BAND + 2000


def test_bands_lie_at_their_numbers() -> None:
    bands = noise()
    assert contents("sparsebundle", members(bands, SIZE)) == laid(bands, SIZE)


def test_the_contract_of_media() -> None:
    bands = noise()
    files = members(bands, SIZE)
    backend = discover()["sparsebundle"]
    readers = [MemoryReader(data, name=name) for name, data in files.items()]
    readers[0].others = readers[1:]
    assert backend.open(readers[0], Options()).metadata == {"band size": "4096", "bands": "4 of 18"}
    check_media("sparsebundle", files, laid(bands, SIZE), seeds=200)


def test_an_overlong_band_and_one_that_cannot_be_opened_are_lost() -> None:
    bands = noise()
    files = members(bands, SIZE) | {"1": bytes(BAND + 1), "2": b"", "ff": b"beyond", "0A": b"twice"}
    found = contents("sparsebundle", files, lost=b"?")
    truth = laid(bands, SIZE)
    assert found == truth[:BAND] + b"?" * 2 * BAND + truth[3 * BAND :]


def test_the_backup_of_the_list_stands_in_for_it() -> None:
    bands = noise()
    files = members(bands, SIZE)
    files["Info.plist"] = files["Info.plist"].replace(b"</dict>", b"")
    assert contents("sparsebundle", files) == laid(bands, SIZE)
    del files["Info.plist"]
    assert contents("sparsebundle", files) == laid(bands, SIZE)
    for bad in (b"", b"<plist/>", plistlib.dumps({"size": 5})):
        with pytest.raises(NotMine):
            contents("sparsebundle", {"Info.plist": bad, "0": bytes(5)})
    for values in ({"size": -1}, {"band-size": 0}, {"size": "large"}, {"size": 1 << 63}):
        with pytest.raises(Malformed):
            contents(
                "sparsebundle", {"Info.plist": plistlib.dumps(plistlib.loads(listed(5)) | values), "0": b"x"}
            )
    with pytest.raises(Malformed, match="no band"):
        contents("sparsebundle", {"Info.plist": listed(5)})


# --- through a mount --------------------------------------------------------------------------------------
@pytest.fixture
def volume(tmp_path: Path) -> bytes:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("found")
    return fat(tmp_path / "volume", source, 12, 4 * MIB).read_bytes()


def test_the_folder_is_the_image_and_so_is_its_list(volume, tmp_path: Path) -> None:
    folder = written(tmp_path / "backup.sparsebundle", volume, 8192)
    assert 1 < len(list((folder / "bands").iterdir())) < 512
    for named in (folder, folder / "Info.plist"):
        with watched(named, at=tmp_path / "m") as point:
            assert [path.read_text() for path in point.glob("*/*/root/file")] == ["found"]
            assert (point / folder.name / "disk.raw").read_bytes() == volume
            (layer,) = layers(point, backend="sparsebundle")
            assert layer["state"] == "open"
    done = imgfs("info", str(folder), check=False)
    assert done.returncode == 0
    assert "sparse bundle" in done.stdout


def test_a_band_that_is_a_link_or_no_file_is_lost(volume, tmp_path: Path) -> None:
    folder = written(tmp_path / "backup.sparsebundle", volume, 8192)
    (tmp_path / "elsewhere").write_bytes(b"secret" * 1000)
    (folder / "bands/1").unlink(missing_ok=True)
    (folder / "bands/1").symlink_to(tmp_path / "elsewhere")
    (folder / "bands/5").mkdir()
    (folder / "bands/6").touch()
    with watched(folder, at=tmp_path / "m") as point:
        (layer,) = layers(point, backend="sparsebundle")
        assert layer["state"] == "incomplete"
        assert [row[:2] for row in layer["lost"]] == [[8192, 16384], [40960, 49152]]
        with (point / folder.name / "disk.raw").open("rb", buffering=0) as raw:
            assert raw.read(8192) == volume[:8192]
            with pytest.raises(OSError, match="Input/output"):
                raw.read(512)
            raw.seek(49152)
            assert raw.read(8192) == bytes(8192)


def test_what_is_no_bundle_is_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert bundle(folder) is None
    (folder / "Info.plist").write_bytes(listed(5))
    assert bundle(folder) is None
    (tmp_path / "bands").mkdir()
    (folder / "bands").symlink_to(tmp_path / "bands")
    assert bundle(folder) is None
    with pytest.raises(UsageError, match="directory"):
        image_path(str(folder))
    with pytest.raises(UsageError):
        split_path(f"{folder}:x")
    (folder / "bands").unlink()
    (folder / "bands").mkdir()
    assert bundle(folder) == bundle(folder / "Info.plist") == folder
    assert split_path(f"{folder}:00/root") == (folder, (b"00", b"root"))
    assert image_path(str(folder)) == folder
    shutil.move(folder / "Info.plist", folder / "list")
    (folder / "Info.plist").symlink_to(folder / "list")
    with pytest.raises(UsageError, match="property list"):
        open_bundle(folder)


def test_more_bands_than_files_may_be_open_at_once(tmp_path: Path) -> None:
    """A soft limit is raised; a hard one is said before anything is read as zeros."""
    data = random.Random(4).randbytes(1200 * 512)
    folder = written(tmp_path / "many.sparsebundle", data, 512)
    code = (
        "import resource, sys; from pathlib import Path; from imgfs.opening.bundles import open_bundle\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[2])))\n"
        "files, unopened = open_bundle(Path(sys.argv[1])); print(len(files), len(unopened))"
    )
    for hard, wanted in (("4096", "1202 0"), ("1024", "UsageError")):
        command = [sys.executable, "-c", code, str(folder), hard]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert wanted in done.stdout + done.stderr
    with watched(folder, at=tmp_path / "m") as point:
        assert (point / folder.name / "disk.raw").read_bytes() == data
    with pytest.raises(UsageError, match="open at once"):
        make_room(1 << 40)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_band_without_permission_is_lost(volume, tmp_path: Path) -> None:
    folder = written(tmp_path / "backup.sparsebundle", volume, 8192)
    (folder / "bands/0").chmod(0)
    _, unopened = open_bundle(folder)
    assert unopened == ("0",)
