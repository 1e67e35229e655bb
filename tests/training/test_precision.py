"""bf16 on a CPU: measured and told, asked for by name, written into the run, and the same when it goes on."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from tests.test_command_line import byolt, draw_folder, one_sentence, write_recipe

from byolt.device import has_bf16_units
from byolt.doctor.step_speeds import told
from byolt.files import write_json
from byolt.preflight import check_machine
from byolt.recipe.machine import Machine
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.studies.ledger import COLUMNS, Ledger, key_of
from byolt.studies.plan import Arm, Job
from byolt.studies.runner import check_study, refuse_other_precision
from byolt.training.dry_run import dry_run
from byolt.training.loop import pretrain
from byolt.training.prepare import prepare
from byolt_export.errors import InputError, Stopped

CPU = torch.device("cpu")


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that multiplies in bf16; torch computes the same without, only slower."""
    _with_units(monkeypatch, has_them=True)


def _with_units(monkeypatch: pytest.MonkeyPatch, *, has_them: bool) -> None:
    for module in ("byolt.device", "byolt.training.precision"):
        monkeypatch.setattr(f"{module}.has_bf16_units", lambda device: has_them)


def _recipe(folder: Path, precision: str, **sections: Any) -> Recipe:
    machine = {"runs_dir": folder / "runs", "device": "cpu", "threads": 1, "precision": precision}
    return tiny_recipe(data={"cache_dir": folder / "cache"}, machine=machine, **sections)


@pytest.mark.parametrize(
    ("flags", "has_them"),
    [
        *(("flags\t: avx512f avx512_bf16 fma", True), ("flags : avx2 amx_bf16", True), ("Features : fp bf16", True)),
        *(("flags : avx512f avx512_vnni", False), ("", False)),
    ],
)
def test_units_are_read_from_the_processors_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, has_them: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name : bf16 avx512_bf16\n{flags}\n")
    monkeypatch.setattr("byolt.device.Path", lambda _: tmp_path / "cpuinfo")
    assert has_bf16_units(CPU) is has_them


def test_auto_stays_fp32_on_a_cpu(tmp_path: Path, units: None) -> None:
    assert prepare(_recipe(tmp_path, "auto")).learner.bf16 is False
    assert prepare(_recipe(tmp_path, "bf16")).learner.bf16 is True


def test_bf16_without_units_is_refused_before_an_image_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_units(monkeypatch, has_them=False)
    with pytest.raises(InputError, match=r"^machine.precision: bf16, and this processor has no units .*; take fp32$"):
        check_machine(Machine(precision="bf16", device="cpu"))
    check_machine(Machine(precision="bf16", device="cpu"), Machine(precision="bf16"))  # To measure asks for none.
    check_machine(Machine(precision="auto", device="cpu"))


def test_weights_statistics_and_moments_are_fp32_and_the_step_is_not(tmp_path: Path, units: None) -> None:
    views = [torch.rand(16, 3, 8, 8) for _ in range(2)]
    losses = {}
    for precision in ("fp32", "bf16"):
        learner = prepare(_recipe(tmp_path, precision)).learner
        outcome = learner.step(0, *views)
        losses[precision] = outcome.loss
        kept = [*learner.method.state_dict().values(), outcome.loss]
        kept += [value for state in learner.optimizer.state.values() for value in state.values()]
        floats = {one.dtype for one in kept if isinstance(one, torch.Tensor) and one.is_floating_point()}
        assert floats == {torch.float32}
    assert losses["fp32"] != losses["bf16"]
    torch.testing.assert_close(losses["fp32"], losses["bf16"], rtol=0.02, atol=0)


def test_a_run_broken_off_in_bf16_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(_recipe(tmp_path / "whole", "bf16"))
    broken = _recipe(tmp_path / "broken", "bf16")
    with monkeypatch.context() as patched:
        _stop_after(patched, steps=3)
        with pytest.raises(Stopped):
            pretrain(broken)
    (folder,) = (tmp_path / "broken" / "runs").iterdir()
    assert Run(folder).environment["precision"] == "bf16"
    again = pretrain(_recipe(tmp_path / "broken", "auto"), resume=folder)  # Its own, though auto begins in fp32.
    assert again.encoder_file.read_bytes() == whole.encoder_file.read_bytes()
    fp32 = pretrain(_recipe(tmp_path / "fp32", "fp32"))
    assert fp32.environment["precision"] == "fp32"
    assert fp32.encoder_file.read_bytes() != whole.encoder_file.read_bytes()


def _stop_after(patched: pytest.MonkeyPatch, steps: int) -> None:
    """As if SIGTERM came in that step."""
    import os
    import signal

    from byolt.training.cuda_graph import Stepper

    step = Stepper.step

    def interrupted(self: Stepper, number: int, batch: Any) -> Any:
        if number + 1 == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, batch)

    patched.setattr(Stepper, "step", interrupted)


def test_going_on_without_units_is_refused_unless_fp32_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _with_units(monkeypatch, has_them=True)
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=32))
    sets = ("--set", "schedule.epochs=2", "--set", "optim.batch_size=16")
    assert byolt("pretrain", recipe, *sets, "--set", "machine.precision=bf16", folder=tmp_path).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    _with_units(monkeypatch, has_them=False)

    def resumed(*more: str, of: Path = recipe) -> Any:
        (run / "result.json").unlink(missing_ok=True)
        given = sets if of == recipe else ()
        return byolt("pretrain", of, *given, "--resume", run, *more, folder=tmp_path)

    said = one_sentence(resumed(), 2)
    assert "was learned in bf16, and this processor has no units for bf16" in said
    assert "go on in fp32 with --set machine.precision=fp32" in said
    assert "machine.precision: bf16" in one_sentence(resumed(of=run / "recipe.resolved.yaml"), 2)
    with caplog.at_level(logging.WARNING, logger="byolt"):
        assert resumed("--set", "machine.precision=fp32").returncode == 0
    assert "was learned in bf16 and goes on in fp32 (machine.precision)" in caplog.text
    made = json.loads((run / "environment.json").read_text())
    write_json(run / "environment.json", {name: one for name, one in made.items() if name != "precision"})
    assert resumed().returncode == 0  # Of an earlier byolt, which wrote none.


def test_a_dry_run_measures_both_and_leaves_the_learner_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_units(monkeypatch, has_them=True)
    found = dry_run(_recipe(tmp_path, "auto"), steps=1)
    assert list(found.precisions) == ["fp32", "bf16"]
    assert found.precision_taken == "fp32"
    (line,) = [line for line in found.to_text().splitlines() if line.startswith("precision")]
    assert line.startswith(f"precision      fp32: {found.precisions['fp32']:,.0f} images/s, bf16: ")
    _with_units(monkeypatch, has_them=False)
    assert dry_run(_recipe(tmp_path, "auto"), steps=1).precisions == {}
    both = {"fp32": 100.0, "bf16": 142.0}
    assert told(both, "fp32", "machine.precision").endswith("; quicker with --set machine.precision=bf16")
    assert "quicker" not in told(both, "bf16", "machine.precision")
    assert told({"fp32": 100.0, "bf16": 50.0}, "bf16", "machine.precision").endswith("machine.precision=fp32")


def test_a_studys_rows_of_bf16_are_never_taken_for_those_of_fp32(tmp_path: Path, units: None) -> None:
    fp32, auto, bf16 = (
        key_of(Job("byol", _recipe(tmp_path, precision), "study"), "images") for precision in ("fp32", "auto", "bf16")
    )
    assert fp32 == auto
    assert bf16.run == fp32.run
    assert bf16.protocol != fp32.protocol
    arms = [Arm("byol", _recipe(tmp_path, "fp32"), {}), Arm("simclr", _recipe(tmp_path, "bf16"), {})]
    with pytest.raises(InputError, match="^study: machine.precision is one for all arms"):
        check_study(arms, tmp_path, None)


def test_a_study_refuses_a_run_of_the_other_arithmetic(tmp_path: Path, units: None) -> None:
    write_json(tmp_path / "run" / "environment.json", {"precision": "fp32"})
    run = Run(tmp_path / "run")
    refuse_other_precision(run, _recipe(tmp_path, "auto"))
    with pytest.raises(InputError, match=r"run was learned in fp32, .* with --set machine.runs_dir=runs-bf16$"):
        refuse_other_precision(run, _recipe(tmp_path, "bf16"))


def test_a_ledger_of_an_older_byolt_holds_fp32_and_takes_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    older = COLUMNS[:-1]
    assert COLUMNS[-1] == "precision"
    row = dict.fromkeys(older, "") | {"run": "1", "protocol": "2", "byolt": "3"}
    path.write_text(",".join(older) + "\n" + ",".join(row.values()) + "\n")
    ledger = Ledger(path)
    ledger.append(row | {"run": "4", "precision": "fp32"})
    assert [line["precision"] for line in ledger.lines()] == ["fp32", "fp32"]
    with pytest.raises(InputError, match="holds rows of fp32 alone; name another --results folder for bf16"):
        ledger.append(row | {"run": "5", "precision": "bf16"})
    fresh = Ledger(tmp_path / "new.csv")
    fresh.append(row | {"precision": "bf16"})
    assert fresh.lines()[0]["precision"] == "bf16"
