"""A folder that may not be written: the sentence names the key that says where runs are kept."""

import errno
import os
from pathlib import Path

import pytest

from byolt import Recipe
from byolt.files import append_text, write_json
from byolt.recipe.data import Data
from byolt.recipe.machine import Machine
from byolt.recipe.optim import Schedule
from byolt.run import create_run
from byolt_export.bundle.folder import staged
from byolt_export.errors import ByoltError, not_written

READ_ONLY = Path("/sys")  # Nobody makes a file there, root neither.


def test_what_is_written_to_a_read_only_folder_is_told_where_to_go() -> None:
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):
        told = str(not_written(Path("runs/a/x.json"), OSError(number, os.strerror(number))))
        assert told.startswith(f"runs/a/x.json could not be written ({os.strerror(number)}); take a folder that may be")
        assert "--set machine.runs_dir=DIR" in told
        assert "make room" not in told
    full = str(not_written(Path("a"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert full == "a could not be written (No space left on device); make room, and give the command again"


def test_each_way_to_write_there_is_one_sentence() -> None:
    with pytest.raises(ByoltError, match=r"/sys/byolt/a\.json could not be written .*machine\.runs_dir"):
        write_json(READ_ONLY / "byolt" / "a.json", {})
    with pytest.raises(ByoltError, match=r"/sys/metrics\.jsonl could not be written .*machine\.runs_dir"):
        append_text(READ_ONLY / "metrics.jsonl", "{}")
    with (
        pytest.raises(ByoltError, match=r"/sys/export could not be written .*machine\.runs_dir"),
        staged(READ_ONLY / "export"),
    ):
        pass
    recipe = Recipe(
        name="a",
        data=Data(name="synthetic", image_size_px=32),
        schedule=Schedule(epochs=1, warmup_epochs=0),
        machine=Machine(runs_dir=READ_ONLY),
    )
    with (
        pytest.raises(ByoltError, match=r"/sys/a-\w+ cannot be made: .*machine\.runs_dir"),
        create_run(recipe, "0" * 16, "name: a"),
    ):
        pass
