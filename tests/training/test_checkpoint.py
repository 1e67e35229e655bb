"""Checkpoints: whole or not at all, on any file system."""

import errno
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from byolt.training.checkpoint import load_checkpoint, save_checkpoint
from byolt_export.errors import ByoltError, InputError


def state_of(step: int, numbers: int = 10) -> dict[str, Any]:
    method = {"weight": torch.full((numbers,), float(step))}
    evaluator = {"monitor": {}, "figures": {"rankme": 2.5}}
    keys: dict[str, Any] = {"result_keys": {"seed": 0}, "images": "abc"}
    return keys | {"step": step, "method": method, "optimizer": {}, "watch": evaluator}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_two(folder: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(folder, state_of(step), keep=2)
    assert names(folder) == ["last.pt", "step-00000002.pt", "step-00000003.pt"]
    assert load_checkpoint(folder)["method"]["weight"][0] == 3
    assert torch.load(folder / "step-00000002.pt", weights_only=True)["step"] == 2


def test_the_last_and_the_latest_numbered_ones_are_kept(tmp_path: Path) -> None:
    save_two(tmp_path)
    assert (tmp_path / "last.pt").stat().st_ino == (tmp_path / "step-00000003.pt").stat().st_ino


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    save_two(tmp_path)
    assert (tmp_path / "last.pt").stat().st_ino != (tmp_path / "step-00000003.pt").stat().st_ino


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    save_checkpoint(folder, state_of(1), keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # The next one has 400,000 bytes of weights.
    try:
        with pytest.raises(ByoltError) as fault:
            save_checkpoint(folder, state_of(2, numbers=100_000), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fault.value.exit_code == 1
    assert "\n" not in str(fault.value)
    assert str(fault.value).startswith(f"checkpoint of step 2 could not be written to {folder} (")
    assert str(fault.value).endswith(f"--resume {folder.parent}")
    assert "make room and go on with byolt pretrain " in str(fault.value)
    assert names(folder) == ["last.pt", "step-00000001.pt"]
    assert load_checkpoint(folder)["step"] == 1


def test_a_checkpoint_that_cannot_be_written_is_told_in_the_systems_words(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/self/checkpoints")  # root may write to any other.
    else:
        folder = tmp_path / "run"
        folder.mkdir(mode=0o500)
    with pytest.raises(ByoltError) as fault:
        save_checkpoint(folder, state_of(1), keep=2)
    said = str(fault.value)
    assert "enforce fail" not in said
    assert "inline_container" not in said
    assert re.search(
        r"could not be written to \S+ \([A-Z][a-z ]+\); see that the folder can be written and give the", said
    ), said


def test_a_damaged_checkpoint_names_the_one_to_take(tmp_path: Path) -> None:
    save_two(tmp_path)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").unlink()  # It is one file with its numbered name.
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.pt is damaged .*; copy step-00000003\.pt over it"):
        load_checkpoint(tmp_path)
