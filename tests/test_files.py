"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from byolt_export.files import replacing, write_whole


def test_a_file_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "früher")
    with replacing(path) as beside:
        beside.write_bytes(b"later")
        assert path.read_text(encoding="utf-8") == "früher"
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"later", [path])


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_earlier_file_and_nothing_beside_it(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"earlier")

    def half() -> None:
        with replacing(path) as beside:
            beside.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"earlier", [path])
