"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest
import torch

from byolt.networks.encoders import save_weights
from byolt.training.checkpoint import KEYS, save_checkpoint
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


def test_a_file_has_the_mode_of_its_neighbours(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_weights(torch.nn.Linear(2, 2), tmp_path / "encoder.safetensors", {})
        write_whole(tmp_path / "recipe.yaml", "a: 1")
        save_checkpoint(tmp_path, dict.fromkeys(KEYS - {"format"}, 0), keep=1)
    finally:
        os.umask(before)
    assert {path.name: f"{path.stat().st_mode & 0o777:o}" for path in tmp_path.iterdir()} == {
        "encoder.safetensors": "640",
        "recipe.yaml": "640",
        "last.pt": "640",
        "step-00000000.pt": "640",
    }
