"""A run's folder: what a kill or a full disk leaves in it can be read, and a write is whole or not at all."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from byolt.console.summary import delivered_files
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


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"state": "fin', b"null", b"[1]", b"{}", b"\xff\xfe", b"[" * 9999, b"9" * 9999]
)
def test_an_empty_or_cut_file_of_a_run_is_one_sentence_wherever_it_is_read(tmp_path: Path, text: bytes) -> None:
    run = Run(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "export").mkdir()
    for name, read in {
        "result.json": lambda: run.result,
        "environment.json": lambda: run.hash,
        "evaluation/collapse.json": run.summary,
        "export/manifest.json": lambda: delivered_files(run),
    }.items():
        (tmp_path / name).write_bytes(text)
        if text == b"{}" and name.startswith("evaluation"):
            assert run.metrics("collapse") == {}
            continue
        with pytest.raises(InputError) as fault:
            read()
        said = str(fault.value)
        assert said.startswith(f"{tmp_path / name} "), said
        assert any(words in said for words in ("is damaged; ", "is empty; ", "does not name the run's hash; ")), said
        assert "\n" not in said
        (tmp_path / name).unlink()


@pytest.mark.parametrize("line", ["5", "null", "[1]", "{}", '{"step": "x"}', "\0\0\0", "[" * 9999])
def test_a_line_that_is_no_record_is_named_and_at_the_end_dropped(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n')
    assert Run(tmp_path).log_records() == [{"step": 1}]
    file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: half a line, or none that byolt wrote; remove that line$"):
        Run(tmp_path).forget_after(1)


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
