"""The steps of the GPU's one run, on the CPU in a GPU's place: right ones pass, and planted faults do not."""

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import learn, measure, smoke
from benchmarks.gpu.items import take
from benchmarks.gpu.settings import Settings
from torch import Tensor

from byolt.training.cuda_graph import CapturedStep
from byolt.training.step import Learner
from tests.test_command_line import draw_folder

SMALL = ("data.image_size_px=16",)


def outcome(step: str, tmp_path: Path, **how: Any) -> tuple[str, dict[str, Any]]:
    settings = Settings(archive=str(tmp_path), scratch=str(tmp_path), tiny=True, sets=SMALL, **how)
    return take(step, settings, lambda _: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "step",
    [
        *("against_cpu:lars", "captured:byol", "resume", "ceilings", "speed:captured:", "warm:compiled:"),
        *("no_waits:captured", "kernels:captured"),
    ],
)
def test_without_a_gpu_nothing_that_needs_one_has_passed(step: str, tmp_path: Path) -> None:
    assert outcome(step, tmp_path) == ("needs a GPU", {})


@pytest.mark.parametrize("step", ["against_cpu:lars", "against_cpu:adamw", "captured:byol", "resume"])
def test_what_is_right_passes(step: str, tmp_path: Path) -> None:
    state, found = outcome(step, tmp_path, rehearse=True)
    assert state == ("passed" if torch.cuda.is_available() else "rehearsed"), found


def test_a_captured_step_on_the_batch_of_its_capture_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(self: CapturedStep, _: object) -> Any:
        return self._run()

    monkeypatch.setattr(CapturedStep, "take", stale)
    assert outcome("captured:byol", tmp_path, rehearse=True)[0] == "failed"


def test_weights_of_another_device_a_hundredth_off_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = smoke.learner_of

    def off(*parts: Any, rates: bool) -> Learner:
        learner = right(*parts, rates=rates)
        if rates:
            with torch.no_grad():
                smoke.matrices(learner.method)[0].mul_(1.01)
        return learner

    monkeypatch.setattr(smoke, "learner_of", off)
    assert outcome("against_cpu:lars", tmp_path, rehearse=True)[0] == "failed"


def test_going_on_without_the_moments_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights_alone(self: Learner, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])

    monkeypatch.setattr(Learner, "restore", weights_alone)
    assert outcome("resume", tmp_path, rehearse=True)[0] == "failed"


def test_no_number_is_no_match() -> None:
    assert smoke.relative(torch.tensor([torch.nan]), torch.ones(1)) == float("inf")
    assert smoke.relative(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)  # 0.5 / 5.


def test_a_fault_is_told_by_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Settings) -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(measure, "machine", broken)
    state, found = outcome("machine", tmp_path)
    assert state == "failed"
    assert found["told"][-1] == "RuntimeError: no such kernel"


def test_as_many_epochs_as_fit() -> None:
    # 0.92 (245 - 25 - 10 * 2) = 184 s; at 1000 images/s 184,000 images: 18 epochs of 10,000, in whole tenths 10.
    assert learn.epochs_that_fit(245.0, 1000.0, 10_000, 200) == 10
    assert learn.epochs_that_fit(245.0, 1000.0, 20_000, 200) == 9
    assert learn.epochs_that_fit(245.0, 1e6, 10_000, 200) == 200
    assert learn.epochs_that_fit(20.0, 1000.0, 10_000, 200) == 1  # Learning begins whatever is left.


def test_of_a_tiny_run_a_few_images_of_each_class_are_unpacked(tmp_path: Path) -> None:
    draw_folder(tmp_path / "set" / "train", classes=2, images=80)
    draw_folder(tmp_path / "set" / "test", classes=2, images=24)
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "cifar10")
    for tiny, counts in ((True, (64, 16)), (False, (80, 24))):
        folder = tmp_path / f"unpacked-{tiny}"
        learn.unpack(tmp_path / "images.tar.gz", folder, tiny=tiny)
        found = tuple(len(list((folder / part).rglob("*.*"))) for part in ("train", "test"))
        assert found == counts


def test_the_linear_probe_lies_where_its_features_do() -> None:
    from byolt.evaluation.linear import linear_probe

    where = "cuda" if torch.cuda.is_available() else "cpu"
    labels = torch.arange(2).repeat(20)
    features: Tensor = labels[:, None] * 4.0 + torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    fitted = linear_probe(features.to(where), labels.numpy(), classes=2, validation_share=0.2, seed=0)
    assert fitted.weight.device.type == where
    assert (fitted.predict(features.to(where)) == labels.numpy()).mean() > 0.9
