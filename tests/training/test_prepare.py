"""How a recipe sets up the process."""

import os
import subprocess
import sys
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
    torch.backends.cudnn.benchmark = False


# In a process of its own: torch looks for the workspace once, at the first product of a process.
TWICE = """if True:
    import sys
    from pathlib import Path
    import torch
    from tests.conftest import tiny_recipe
    from byolt.training.loader import batch_stream
    from byolt.training.prepare import prepare
    machine = {"device": sys.argv[1], "threads": 1, "deterministic": True}
    recipe = tiny_recipe(data={"cache_dir": Path(sys.argv[2])}, machine=machine, optim={"momentum": 0.9})
    ends = []
    for _ in range(2):
        parts = prepare(recipe)
        for step, batch in enumerate(batch_stream(parts.sampler, parts.store, recipe, parts.learner.device)):
            parts.stepper.step(step, batch)
        ends.append(parts.learner.method.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
"""


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.full), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_two_deterministic_runs_have_the_same_bits(device: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != WORKSPACE}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", TWICE, device, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("deterministic", "own", "expected"), [(True, None, ":4096:8"), (True, ":16:8", ":16:8"), (False, None, None)]
)
def test_cublas_has_a_fixed_workspace_before_cuda_begins(
    deterministic: bool, own: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)  # Its own imports take seconds.
    monkeypatch.setattr(module, "check_recipe", lambda _: seen.append(os.environ.get(WORKSPACE)))
    if own is not None:
        monkeypatch.setenv(WORKSPACE, own)
    machine = {"device": "cpu", "threads": 1, "deterministic": deterministic}
    prepare(tiny_recipe(data={"cache_dir": tmp_path}, machine=machine))
    assert seen == [expected]  # The checks ask a GPU for its memory.
    assert os.environ.get(WORKSPACE) == expected
    assert asked == [deterministic]
