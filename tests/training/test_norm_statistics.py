"""BatchNorm statistics in a run: what is evaluated and written has new ones, what is learned does not notice."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tests.conftest import tiny_recipe
from tests.training.test_loop import recipe_in

from byolt.data import Splits, open_store
from byolt.data.source import ArraySource
from byolt.evaluation.outcome import outcome_of
from byolt.files import read_json
from byolt.run import Run
from byolt.studies.measure import last_encoder
from byolt.training.checkpoint import load_checkpoint
from byolt.training.loop import pretrain
from byolt.training.online_eval import OnlineEvaluator
from byolt.training.step import Learner


def learned(folder: Path, every_epochs: int) -> Run:
    return pretrain(recipe_in(folder, evaluation={"every_epochs": every_epochs}))


def test_a_run_is_the_same_however_often_it_is_evaluated_and_what_it_delivers_has_new_statistics(
    tmp_path: Path,
) -> None:
    often, once = learned(tmp_path / "often", 1), learned(tmp_path / "once", 1000)
    losses = [[line["loss"] for line in run.log_records() if "lr" in line] for run in (often, once)]
    assert losses[0] == losses[1]
    states = [load_checkpoint(run.checkpoints) for run in (often, once)]
    for name, value in states[0]["method"].items():
        assert torch.equal(value, states[1]["method"][name]), name
    assert often.encoder_file.read_bytes() == once.encoder_file.read_bytes()

    delivered, last = load_file(once.encoder_file), states[1]["method"]
    moved = {name for name, value in delivered.items() if not torch.equal(value, last[f"encoder.{name}"])}
    assert moved == {name for name in delivered if name.endswith(("running_mean", "running_var"))}
    for name, value in last_encoder(once).state_dict().items():
        assert torch.equal(value, delivered[name]), name

    done = read_json(once.path / "evaluation" / "norm_statistics.json")
    assert done is not None
    assert (done["layers"], done["images"], done["batch"]) == (len(moved) // 2, 64, 64)
    assert done["seconds"] > 0
    assert done["memory_mb"] >= 0
    assert "drawn by seed 0" in done["order"]

    result, outcome = once.result, outcome_of(once)
    assert result is not None
    assert result["verdict"] in ("healthy", "dimensional")
    assert outcome is not None
    assert result["beside"]["knn"].keys() == {"encoder", "untrained", "pixels", "colours"}
    assert result["beside"]["knn"]["encoder"] == result["knn"]
    assert "kNN on" in outcome.sentence


def test_statistics_that_lag_or_are_wild_change_no_metric(tmp_path: Path) -> None:
    recipe = tiny_recipe(data={"cache_dir": tmp_path}, evaluation={"knn_k": 3})
    images = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(80, dtype=np.int64) % 4
    source = ArraySource("few", images, labels, tuple("abcd"), "few")
    store = open_store(source, 16, "crop", budget_gb=1, cache_dir=tmp_path, corrupt_limit=0)
    found = []
    for momentum, initial in ((0.1, 1.0), (0.0003, 1e12)):
        learner = Learner(recipe, torch.device("cpu"), steps=4, steps_per_epoch=2)
        norms = [module for module in learner.method.encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
            assert norm.running_var is not None
            norm.running_var.fill_(initial)
        outcome = learner.step(0, *torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
        before = {name: value.clone() for name, value in learner.method.state_dict().items()}
        evaluator = OnlineEvaluator(recipe, Splits(source, source, None), store)
        found.append(evaluator.evaluate(learner, outcome, epoch=1))
        for name, value in learner.method.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert found[0] == found[1]
    assert found[1]["rankme"] > 2  # With the averages that lag it is 1.
