"""A JSON file from elsewhere is read strictly, and never without end."""

import os
from pathlib import Path

import pytest

from hieramp.runtime.json_file import parse_json, read_bounded, read_json, read_limited


@pytest.mark.parametrize(("text", "why"), [
    ('{"a": 1, "a": 2}', "the key 'a' is there twice"), ('[{"b": [], "b": []}]', "the key 'b' is there twice"),
    ("NaN", "NaN is no number"), ("[-Infinity]", "Infinity is no number"), ("[" * 100_000, "nested too deep"),
    ('{"a":' * 100_000, "nested too deep"), ("", "Expecting value"), ("9" * 5000, "4300"),
])
def test_what_is_no_json_is_a_value_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"[1,2]")
    assert read_json(path, 5) == [1, 2]
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_limited(path, 4)
    os.truncate(path, 1 << 40)  # holds no block of the disk
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_bounded(path, 4)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and devices with names")
def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(ValueError, match="it is no file"):
            read_limited(tmp_path / name, 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_bounded(tmp_path / "zeros", 10)
