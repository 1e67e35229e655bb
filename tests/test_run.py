"""A run's folder: what a kill or a full disk leaves in it can be read, and a write is whole or not at all."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from byolt.files import write_json
from byolt.networks.encoders import save_weights
from byolt.run import Run
from byolt_export.errors import ByoltError, InputError


@contextmanager
def no_file_beyond(size_bytes: int) -> Iterator[None]:
    """As on a disk that is full: a write beyond fails after what fits is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_line_that_a_full_disk_left_is_dropped_at_resume(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (2, 4, 6):
        run.log({"step": step, "loss": 1.5})
    whole = (tmp_path / "metrics.jsonl").stat().st_size
    with no_file_beyond(whole + 9), pytest.raises(ByoltError) as fault:
        run.log({"step": 8, "loss": 1.5})
    assert fault.value.exit_code == 1
    said = f"{tmp_path / 'metrics.jsonl'} could not be written (File too large); make room, and give the command again"
    assert str(fault.value) == said
    assert (tmp_path / "metrics.jsonl").stat().st_size == whole + 9  # Half a line.
    assert [record["step"] for record in run.log_records()] == [2, 4, 6]
    run.forget_after(4)
    run.log({"step": 6, "loss": 1.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": k, "loss": 1.5} for k in (2, 4)] + [
        {"step": 6, "loss": 1.0}
    ]


def test_a_damaged_line_before_the_last_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: .*; remove that line"):
        Run(tmp_path).log_records()


def test_a_result_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"state": "finished"})
    with no_file_beyond(1000), pytest.raises(ByoltError, match=r"result\.json could not be written \(File too large\)"):
        write_json(path, {"state": "finished", "text": "x" * 2000})
    assert json.loads(path.read_text()) == {"state": "finished"}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_weights_that_cannot_be_written_are_one_sentence_and_leave_those_before(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_weights(nn.Linear(2, 2), path, {})
    before = path.read_bytes()
    with no_file_beyond(10_000), pytest.raises(ByoltError) as fault:
        save_weights(nn.Linear(100, 100), path, {})
    assert fault.value.exit_code == 1
    assert str(fault.value).startswith(f"{path} could not be written (")
    assert "\n" not in str(fault.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
