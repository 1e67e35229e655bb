"""How many threads a run learns with: fixed when it begins, its own when it goes on, told where another is given."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from tests.test_command_line import byolt, draw_folder, one_sentence, write_recipe

from byolt.cores import usable_cores
from byolt.doctor.step_speeds import default_threads, measured_here, quickest, speed_by_threads, told
from byolt.files import write_json
from byolt.preflight import check_machine
from byolt.recipe.machine import Machine
from byolt.run import Run, run_of
from byolt.studies.runner import with_one_number_of_threads
from byolt.training.dry_run import dry_run
from byolt.training.loop import pretrain
from byolt_export.errors import InputError


@pytest.fixture(autouse=True)
def _threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_quickest_of_speeds_that_are_nearly_the_same_has_the_fewest_threads() -> None:
    assert quickest({1: 111.0, 2: 12.0}) == 1
    assert quickest({1: 60.0, 2: 100.0}) == 2
    assert quickest({1: 95.0, 2: 100.0}) == 1
    assert (
        told({1: 111.0, 2: 12.0}, 2, "machine.threads")
        == "1: 111 images/s, 2: 12 images/s; quicker with --set machine.threads=1"
    )
    assert told({1: 111.0, 2: 12.0}, 1, "machine.threads") == "1: 111 images/s, 2: 12 images/s"
    assert told({1: 60.0, 2: 100.0}, 2, "machine.threads") == "1: 60 images/s, 2: 100 images/s"


def test_one_and_all_are_measured_in_turn_and_torch_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    monkeypatch.setattr("byolt.doctor.step_speeds.usable_cores", lambda: 2)
    seen, now_s = [], 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)

    def step() -> None:
        nonlocal now_s
        seen.append(torch.get_num_threads())
        now_s += 0.1 * torch.get_num_threads()  # As on a machine where two threads are in each other's way.

    assert speed_by_threads(step, 60) == {1: pytest.approx(600), 2: pytest.approx(300), 3: pytest.approx(200)}
    assert seen == [1, 2, 3] * 4
    assert torch.get_num_threads() == 3


def test_the_default_is_torchs_own_within_the_cores_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    for cores, threads in ((8, 4), (2, 2), (1, 1)):
        monkeypatch.setattr("byolt.doctor.step_speeds.usable_cores", lambda cores=cores: cores)
        assert default_threads() == threads
    assert usable_cores() == min(usable_cores(), len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int]:
    """A run of ``machine.threads: auto``, and the number that torch had when it ended."""
    folder, before = tmp_path_factory.mktemp("auto"), torch.get_num_threads()
    machine = {"runs_dir": folder / "runs", "device": "cpu", "threads": "auto"}
    once = {"epochs": 1, "warmup_epochs": 0}
    run = pretrain(tiny_recipe(data={"cache_dir": folder / "cache"}, machine=machine, schedule=once))
    used = torch.get_num_threads()
    torch.set_num_threads(before)
    return run, used


def test_auto_is_chosen_once_and_written_into_the_run(auto: tuple[Run, int]) -> None:
    run, used = auto
    assert run.environment["threads"] == used
    assert used in {1, default_threads(), usable_cores()}
    assert run.recipe.machine.threads == used
    # What is chosen changes no result key: the run is the same one.
    given = run.recipe.model_copy(update={"machine": run.recipe.machine.model_copy(update={"threads": 3})})
    assert run_of(given, run.environment["images"]).path == run.path


def test_a_run_goes_on_with_its_own_number_and_another_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=32))
    recipe.write_text(recipe.read_text().replace(", threads: 1", ""))
    sets = ("--set", "schedule.epochs=2", "--set", "optim.batch_size=16")
    assert byolt("pretrain", recipe, *sets, "--set", "machine.threads=2", folder=tmp_path).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()

    def resumed(*more: str) -> Any:
        (run / "result.json").unlink(missing_ok=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="byolt"):
            return byolt("pretrain", recipe, *sets, "--resume", run, *more, folder=tmp_path)

    torch.set_num_threads(1)
    assert resumed().returncode == 0
    assert torch.get_num_threads() == 2
    assert "threads" not in caplog.text
    assert resumed("--set", "machine.threads=1").returncode == 0
    assert torch.get_num_threads() == 1
    said = "was learned with 2 threads and goes on with 1 (machine.threads): its weights will agree within rounding"
    assert said in caplog.text
    assert resumed("--set", "machine.threads=auto").returncode == 0
    assert torch.get_num_threads() == 2
    made = json.loads((run / "environment.json").read_text())
    write_json(run / "environment.json", made | {"threads": 4000})  # Of a larger machine.
    told_so = one_sentence(resumed(), 2)
    assert "machine.threads of the run: 4,000 threads are too many" in told_so
    assert f"go on with another by --set machine.threads={usable_cores()}" in told_so
    write_json(run / "environment.json", {name: one for name, one in made.items() if name != "threads"})
    torch.set_num_threads(1)
    assert resumed().returncode == 0  # Of an earlier byolt, which wrote none.
    assert torch.get_num_threads() == 1


def test_a_dry_run_prints_the_line(tmp_path: Path) -> None:
    found = dry_run(tiny_recipe(data={"cache_dir": tmp_path}, machine={"device": "cpu", "threads": 1}), steps=1)
    assert set(found.threads) == {1, usable_cores()}
    assert found.threads_taken == 1
    (line,) = [line for line in found.to_text().splitlines() if line.startswith("threads")]
    assert line.startswith(f"threads        1: {found.threads[1]:,.0f} images/s")
    assert json.loads(json.dumps(found.to_dict()))["threads"]["1"] == found.threads[1]


def test_a_study_fixes_one_number_for_all_its_runs(auto: tuple[Run, int], tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "runs" / auto[0].path.name
    write_json(path / "environment.json", auto[0].environment | {"threads": 7})
    write_json(path / "result.json", {"state": "finished"})
    place = {"runs_dir": tmp_path / "runs"}
    for given, threads in ((3, 3), ("auto", 7), (None, default_threads())):
        fixed = with_one_number_of_threads(tiny_recipe(machine=place | {"threads": given}), said.append)
        assert fixed.machine.threads == threads
    assert said == [f"every run learns with {threads} threads (machine.threads)" for threads in (7, default_threads())]


def test_a_run_of_a_larger_machine_is_measured_on_this_one() -> None:
    there = Machine(threads=4000, workers=4000)
    check_machine(there, there)
    with pytest.raises(InputError, match="machine.workers: 5,000 processes are too many"):
        check_machine(Machine(threads=4000, workers=5000), there)


@pytest.mark.full
def test_the_doctor_measures_here() -> None:
    assert re.match(r"1: [\d,]+ images/s", measured_here()["threads"])
