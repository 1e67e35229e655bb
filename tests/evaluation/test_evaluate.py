"""A run's metrics: which baselines stand beside it, the official folds, and the collapse measures without labels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from tests.conftest import tiny_recipe
from tests.data.tiny_sets import write_stl10
from tests.evaluation.arrays import ArrayImages
from tests.test_command_line import draw_folder

from byolt.data import open_splits
from byolt.evaluation import finetune_run
from byolt.evaluation.collapse import rankme, uniformity, z_std_ratio
from byolt.evaluation.evaluate import embed_store, evaluate, evaluation_store
from byolt.evaluation.features import embed
from byolt.evaluation.finetune_run import finetune, load_classifier
from byolt.evaluation.frozen_collapse import frozen_collapse
from byolt.evaluation.predictions import compare
from byolt.evaluation.probe_metrics import LabelledFeatures, evaluate_features, evaluate_folds
from byolt.networks.encoders import build_encoder, weight_seed
from byolt.recipe.evaluation import Evaluation
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.training.loop import pretrain
from byolt_export.errors import InputError


def learn(tmp_path: Path, **sections: Any) -> Run:
    """A tiny run that has learned for one epoch."""
    if "data" not in sections:
        root = draw_folder(tmp_path / "images", classes=2, images=80, size_px=16)
        sections["data"] = {"name": "folder", "root": root}
    sections["data"]["cache_dir"] = tmp_path / "cache"
    sections["schedule"] = {"epochs": 1}
    sections["machine"] = {"runs_dir": tmp_path / "runs", "threads": 1}
    return pretrain(tiny_recipe(**sections))


def weights_file(tmp_path: Path, recipe: Recipe, seed: int) -> Path:
    """Initial weights as another run would have left them."""
    from safetensors.torch import save_file

    encoder, _ = build_encoder(recipe.model, seed=seed, image_size_px=recipe.data.image_size_px)
    path = tmp_path / f"start-{seed}.safetensors"
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, path)
    return path


def test_what_learning_started_from_stands_beside_random_weights(tmp_path: Path, recipe: Recipe) -> None:
    start = weights_file(tmp_path, recipe, seed=77)
    run = learn(tmp_path, model={"init": "file", "init_file": start})
    evaluate(run)
    collapse = run.metrics("collapse")
    assert collapse is not None
    probe = evaluation_store(open_splits(run.recipe.data, 0).learn, run.recipe)
    for name, seed in {"untrained": weight_seed(0), "start": 77}.items():
        encoder, _ = build_encoder(recipe.model, seed=seed, image_size_px=16)
        features = embed_store(encoder, probe, run.recipe)
        assert collapse[name]["rankme"] == pytest.approx(rankme(features), rel=1e-4)
    metrics = run.metrics("start")
    assert metrics is not None
    assert metrics["knn"]["features"] == f"the same encoder as learning started from it, weights of {start}"
    assert "random weights" in (run.metrics("untrained") or {})["knn"]["features"]


def test_a_finished_run_needs_its_initial_weights_no_more(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    start = weights_file(tmp_path, recipe, seed=77)
    run = learn(tmp_path, model={"init": "file", "init_file": start})
    before = run.encoder().state_dict()
    resolved = run.path / "recipe.resolved.yaml"
    text = resolved.read_text()
    resolved.write_text(text.replace(str(start), "package:no_such_package/w.pth"))
    with caplog.at_level(logging.WARNING, "byolt"):
        evaluate(run)
    assert "learning started from: model.init_file package:no_such_package/w.pth: the package no_such" in caplog.text
    resolved.write_text(text)
    start.unlink()
    assert all(torch.equal(value, before[name]) for name, value in run.encoder().state_dict().items())
    with caplog.at_level(logging.WARNING, "byolt"):
        evaluate(run)
    assert "left out: metrics of the weights that learning started from" in caplog.text
    assert run.metrics("untrained") is not None
    assert run.metrics("start") is None
    start.write_bytes(weights_file(tmp_path, recipe, seed=78).read_bytes())
    evaluate(run)
    assert "is not the file that learning started from" in caplog.text
    assert run.metrics("start") is None


def test_a_run_that_started_from_imagenet_is_loaded_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolved recipe says `imagenet`; from there on nothing may reach for the network."""
    run = learn(tmp_path)
    resolved = run.path / "recipe.resolved.yaml"
    text = resolved.read_text()
    assert "init: random" in text
    resolved.write_text(text.replace("init: random", "init: imagenet"))
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    run.encoder()
    finetune(run, tmp_path / "images", overrides=["finetune.epochs=1"])
    assert load_classifier(run)[1] == ("class-0", "class-1")


def test_the_hash_is_the_runs_own_whatever_its_folder_and_images_are_now(tmp_path: Path) -> None:
    run = learn(tmp_path)
    name = run.path.name
    moved = Run(run.path.rename(tmp_path / "elsewhere"))
    assert moved.hash == name.removeprefix("tiny-")
    (moved.path / "environment.json").unlink()
    with pytest.raises(InputError, match=r"environment\.json does not name the run's hash"):
        _ = moved.hash


def test_a_collapsed_run_is_not_told_to_resume(tmp_path: Path) -> None:
    run = learn(tmp_path)
    run.encoder_file.unlink()
    result = run.path / "result.json"
    result.write_text(result.read_text().replace('"finished"', '"collapsed"'))
    with pytest.raises(
        InputError, match="collapsed by step 4 and left no encoder; a collapsed run cannot go on"
    ) as said:
        run.encoder()
    assert "--resume" not in str(said.value)
    result.unlink()
    with pytest.raises(InputError, match=r"has no encoder yet: go on with byolt pretrain .*resolved.yaml --resume"):
        run.encoder()


def test_stl10_is_measured_on_its_official_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.evaluation.linear.MAX_ITERATIONS", 10)  # Noise has no minimum that is soon found.
    folder = write_stl10(tmp_path / "set", monkeypatch, train=40, unlabeled=30, test=20)
    folds = [np.sort(np.random.default_rng(k).permutation(40)[:20]) for k in range(10)]
    (folder / "fold_indices.txt").write_text("".join(" ".join(map(str, fold)) + "\n" for fold in folds))
    data = {"name": "stl10", "root": tmp_path / "set", "image_size_px": 8}
    run = learn(tmp_path, data=data)
    evaluate(run)
    for name in ("encoder", "untrained", "pixels", "colours"):
        metrics = (run.metrics(name) or {})["folds"]
        assert metrics["images"] == [20] * 10
        assert len(set(metrics["linear"]["accuracies"])) > 1
    recipe = run.recipe
    splits = open_splits(recipe.data, recipe.seed)
    assert splits.train is not None
    assert splits.test is not None
    train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
    encoder = run.encoder()
    features, queries = embed_store(encoder, train, recipe), embed_store(encoder, test, recipe)
    assert train.labels is not None
    assert test.labels is not None
    third, _ = evaluate_features(
        LabelledFeatures("", features[folds[3]], train.labels[folds[3]]),
        LabelledFeatures("", queries, test.labels),
        what="",
        classes=10,
        settings=recipe.evaluation,
        seed=0,
    )
    kept = (run.metrics("encoder") or {})["folds"]
    assert kept["knn"]["accuracies"][3] == third["knn"]["accuracy"]
    assert kept["linear"]["accuracies"][3] == third["linear"]["accuracy"]


def test_folds_are_told_by_mean_and_sample_deviation() -> None:
    """A gallery of one class a fold: 1/4, 1/4 and 2/4; mean 1/3, deviation sqrt((2 (1/12)^2 + (1/6)^2) / 2)."""
    train = LabelledFeatures("", torch.eye(3).repeat_interleave(2, 0), np.array([0, 0, 1, 1, 2, 2]))
    test = LabelledFeatures("", torch.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 2]))
    settings = Evaluation(knn_k=2, validation_share=0.4)  # Rounded half up, at least one: one of the two.
    folds = [np.array([2 * k, 2 * k + 1]) for k in range(3)]
    metrics = evaluate_folds(folds, train, test, what="", classes=3, settings=settings, seed=0)
    assert metrics["knn"]["accuracies"] == [0.25, 0.25, 0.5]
    assert metrics["knn"]["mean"] == pytest.approx(1 / 3)
    assert metrics["knn"]["std"] == pytest.approx(((2 / 144 + 1 / 36) / 2) ** 0.5)


def test_collapse_measures_are_of_the_frozen_features(recipe: Recipe) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
    images = ArrayImages(pixels)
    encoder, width = build_encoder(recipe.model, seed=0, image_size_px=16)
    metrics = frozen_collapse(encoder, images, recipe, torch.device("cpu"))
    assert (metrics["images"], metrics["features"]) == (64, width)  # probe_images of the recipe.
    chosen = ArrayImages(pixels[sorted(images.fetched)])
    features = embed(encoder, chosen, mean=recipe.data.mean, std=recipe.data.std, device="cpu")
    assert metrics["rankme"] == pytest.approx(rankme(features), rel=1e-5)
    assert metrics["z_std_ratio"] == pytest.approx(z_std_ratio(features), rel=1e-5)
    assert metrics["uniformity"] == pytest.approx(uniformity(features), rel=1e-5)
    assert 0 < metrics["alignment"] < 4


def test_views_that_do_nothing_align_and_a_constant_encoder_is_a_point(recipe: Recipe) -> None:
    still = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "flip": 0, "jitter": 0, "grey": 0, "blur": 0}
    same = tiny_recipe(views={"view_1": still, "view_2": still | {"solarize": 0}})
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8))
    encoder, _ = build_encoder(recipe.model, seed=0, image_size_px=16)
    device = torch.device("cpu")
    assert frozen_collapse(encoder, images, same, device)["alignment"] == pytest.approx(0, abs=1e-6)
    assert frozen_collapse(encoder, images, recipe, device)["alignment"] > 1e-3

    class Point(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(batch), 8)

    metrics = frozen_collapse(Point(), images, recipe, device)
    assert metrics["rankme"] == pytest.approx(1, abs=1e-3)
    assert metrics["z_std_ratio"] == pytest.approx(0, abs=1e-6)
    assert metrics["uniformity"] == pytest.approx(0, abs=1e-6)


def test_each_share_of_the_labels_has_its_figures_and_the_largest_is_kept(tmp_path: Path) -> None:
    run = learn(tmp_path)
    told = finetune(run, tmp_path / "images", shares=[1.0, 0.5], overrides=["finetune.epochs=1"])
    assert [metrics["train_share"] for metrics in told] == [0.5, 1.0]
    assert told[0]["n_train"] < told[1]["n_train"]
    assert run.metrics("finetune-0.5") == told[0]
    assert run.metrics("finetune") == run.metrics("finetune-1") == told[1]


def test_imagenet_weights_are_fine_tuned_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights come from torchvision's own cache; what lies there are other weights of the same shapes."""
    model = {"backbone": "mobilenet_v3_small", "args": {}, "stem": "plain"}
    run = learn(tmp_path, model=model)
    recipe = run.recipe
    plain = torchvision.models.mobilenet_v3_small(weights=None)
    for norm in [module for module in plain.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        norm.momentum = 1.0  # The first batch's moments: with those of untrained norms the features are nearly 0.
    plain(torch.rand(16, 3, 64, 64))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(plain.state_dict(), cache / Path(torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url).name)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    (told,) = finetune(run, tmp_path / "images", imagenet=True, overrides=["finetune.epochs=1"])
    assert set(told["against"]) == {"probe", "scratch", "imagenet"}
    other = finetune_run._with_imagenet_weights(recipe)
    assert torch.equal(other.features[0][0].weight, plain.features[0][0].weight)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "empty"))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(InputError, match="--imagenet: ImageNet weights of mobilenet_v3_small could not be fetched"):
        finetune_run._with_imagenet_weights(recipe)


def test_the_encoder_is_tested_against_what_no_learning_gives_and_against_another_run(tmp_path: Path) -> None:
    run = learn(tmp_path)
    evaluate(run)
    metrics = {name: run.metrics(name) or {} for name in ("encoder", "untrained", "pixels")}
    for name in ("untrained", "pixels"):
        for probe in ("knn", "linear"):
            test = metrics["encoder"]["against"][name][probe]
            expected = metrics["encoder"][probe]["accuracy"] - metrics[name][probe]["accuracy"]
            assert test["difference"] == pytest.approx(expected)
    assert set(compare(run, run)) == {"knn", "linear"}
    assert compare(run, run)["linear"]["p"] == 1
    kept = run.path / "evaluation" / "predictions.npz"
    with np.load(kept) as arrays:
        other = dict(arrays)
    copied = Run(tmp_path / "copied")
    (copied.path / "evaluation").mkdir(parents=True)
    other["encoder_linear"] = (other["labels"] + 1) % 2  # Never right.
    np.savez_compressed(copied.path / "evaluation" / "predictions.npz", **other)
    found = compare(run, copied)["linear"]
    assert found["difference"] == pytest.approx(metrics["encoder"]["linear"]["accuracy"])
    other["images"] = np.array("others")
    np.savez_compressed(copied.path / "evaluation" / "predictions.npz", **other)
    with pytest.raises(InputError, match="were evaluated on other test images"):
        compare(run, copied)
    kept.write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        compare(run, copied)
    kept.unlink()
    with pytest.raises(InputError, match="has no predictions; make them with: byolt evaluate"):
        compare(run, copied)
