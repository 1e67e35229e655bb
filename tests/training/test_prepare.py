"""How a recipe sets up the process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import tiny_recipe

from byolt.training import prepare as module
from byolt.training.prepare import prepare

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "")  # So that it is put back afterwards.
    monkeypatch.delenv(WORKSPACE)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("deterministic", "own", "expected"), [(True, None, ":4096:8"), (True, ":16:8", ":16:8"), (False, None, None)]
)
def test_cublas_has_a_fixed_workspace_before_cuda_begins(
    deterministic: bool, own: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(module, "check_recipe", lambda _: seen.append(os.environ.get(WORKSPACE)))
    if own is not None:
        monkeypatch.setenv(WORKSPACE, own)
    machine = {"device": "cpu", "threads": 1, "deterministic": deterministic}
    prepare(tiny_recipe(data={"cache_dir": tmp_path}, machine=machine))
    assert seen == [expected]  # The checks ask a GPU for its memory.
    assert os.environ.get(WORKSPACE) == expected
    assert torch.are_deterministic_algorithms_enabled() == deterministic
