"""What the analyst says: IMAGE:PATH, sizes, keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgfs.cli.options import size, split_path
from imgfs.errors import UsageError
from imgfs.opening.keys import Key, load


def test_image_and_path_are_split_at_the_longest_file(tmp_path: Path) -> None:
    for name in ("disk", "disk:02", "a:b:c.dd"):
        (tmp_path / name).touch()
    cases = {
        "disk": ("disk", ()),
        "disk:": ("disk", ()),
        "disk:01/root/etc": ("disk", (b"01", b"root", b"etc")),
        "disk:/01//root/": ("disk", (b"01", b"root")),
        "disk:02": ("disk:02", ()),
        "disk:02:root": ("disk:02", (b"root",)),
        "a:b:c.dd:01/name:stream": ("a:b:c.dd", (b"01", b"name:stream")),
        "disk:01/a:b": ("disk", (b"01", b"a:b")),
        "disk:\udcff": ("disk", (b"\xff",)),
    }
    for argument, (name, inner) in cases.items():
        assert split_path(f"{tmp_path}/{argument}") == (tmp_path / name, inner)


def test_no_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        split_path(f"{tmp_path}/nothing:path")
    with pytest.raises(UsageError):
        split_path(str(tmp_path))


@given(
    st.integers(0, 1 << 64),
    st.sampled_from([("", 1), ("s", 512), ("K", 1024), ("m", 1 << 20), ("T", 1 << 40)]),
)
def test_sizes_are_numbers_with_a_unit(number: int, unit: tuple[str, int]) -> None:
    assert size(f"{number}{unit[0]}", "offset") == number * unit[1]
    assert size(f"{number:#x}", "offset") == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "ten", "1kk", "0xg", "1 0", "s"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        size(text, "offset")


def test_keys_are_read_and_fit_by_address(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        '[[key]]\ntype = "password"\nvalue = "s3cret"\nvolume = "*luks*"\n[[key]]\ntype = "clear"\n'
    )
    path.chmod(0o600)
    assert load(path) == (Key("password", "s3cret", "*luks*"), Key("clear", "", "*"))
    assert load(path)[0].fits("disk.dd|gpt:2|luks")
    assert not load(path)[0].fits("disk.dd|gpt:2|bitlocker")
    assert "s3cret" not in repr(load(path)[0])
    assert "s3cret" not in repr(load(path)[0].secret())


def test_a_keyfile_is_read_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "k.bin").write_bytes(bytes(range(100)))
    path = tmp_path / "keys.toml"
    path.write_text('[[key]]\ntype = "keyfile"\nvalue = "k.bin"\noffset = 10\nsize = 20\n')
    path.chmod(0o600)
    assert load(path)[0].secret().value == bytes(range(10, 30))
    path.write_text('[[key]]\ntype = "keyfile"\nvalue = "k.bin"\noffset = 90\nsize = 20\n')
    with pytest.raises(UsageError, match="asked for"):
        load(path)[0].secret()
    path.write_text(
        '[[key]]\ntype = "volume-key"\nvalue = "00ff"\n[[key]]\ntype = "volume-key"\nvalue = "x"\n'
    )
    good, bad = load(path)
    assert good.secret().value == b"\0\xff"
    with pytest.raises(UsageError, match="hexadecimal"):
        bad.secret()


@pytest.mark.parametrize(
    "text",
    [
        "[key]\ntype = 1",
        "key = 3",
        "[[key]]\nvalue = 'x'",
        "[[key]]\ntype = 'password'",
        "[[key]]\ntype = 'password'\nvalue = 3",
        "[[key]]\ntype = 'clear'\nother = 'x'",
        "not toml",
        "\udcff",
    ],
)
def test_malformed_key_files_are_refused_without_their_secrets(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(UsageError):
        load(path)
