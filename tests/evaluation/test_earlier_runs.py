"""Runs of a byolt that wrote BatchNorm's moving averages: told, and never compared with newer ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from byolt.evaluation.norm_statistics import lag, warn_of_lag
from byolt.evaluation.predictions import compare
from byolt.run import Run
from byolt_export.errors import InputError


def run_in(folder: Path, weights: str, *, taken_anew: bool) -> Run:
    run = Run(folder)
    labels = np.arange(8) % 2
    run.write_metrics("encoder", {})
    answers = {f"encoder_{probe}": labels for probe in ("knn", "linear")}
    np.savez(folder / "evaluation" / "predictions.npz", images=np.array("same"), labels=labels, **answers)
    save_file({weights: torch.ones(2)}, run.encoder_file)
    if taken_anew:
        run.write_metrics("norm_statistics", {"layers": 1})
    return run


def test_an_earlier_run_is_told_and_not_compared_with_a_newer_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = run_in(tmp_path / "old", "bn1.running_var", taken_anew=False)
    new = run_in(tmp_path / "new", "bn1.running_var", taken_anew=True)
    assert (lag(old), lag(new)) == (True, False)
    for pair in ((old, new), (new, old)):
        with pytest.raises(InputError, match=r"old was learned by an earlier byolt.*learn .*old again"):
            compare(*pair)
    assert compare(old, old)["knn"]["difference"] == compare(new, new)["knn"]["difference"] == 0
    warn_of_lag(new)
    assert not caplog.records
    warn_of_lag(old)
    assert "has BatchNorm's moving averages, which may lag behind its weights" in caplog.text


def test_a_run_without_such_norms_is_compared_whenever_it_was_learned(tmp_path: Path) -> None:
    old = run_in(tmp_path / "old", "norm.weight", taken_anew=False)
    new = run_in(tmp_path / "new", "norm.weight", taken_anew=True)
    assert not lag(old)
    assert compare(old, new)["linear"]["p"] == 1
    old.encoder_file.write_bytes(b"damaged")
    assert not lag(old)
