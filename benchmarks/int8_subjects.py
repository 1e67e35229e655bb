"""Encoders for int8_networks.py: networks of timm trained on a folder's images, and the encoders of runs."""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from byolt.data.known_splits import open_run_splits
from byolt.delivery.export import bundle_options
from byolt.delivery.proof_images import gather_proof_images
from byolt.run import open_run
from byolt_export import BundleOptions, ProofImages
from byolt_export.arrays import Images, Labels
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.task import knn_predict
from byolt_export.runtime.resize import to_square

SIZE_PX, BATCH, GOLDEN, CALIBRATION, TUNING, ASKED = 64, 64, 128, 2048, 4096, 1000
GALLERY = 3000 - GOLDEN
OPTIONS = BundleOptions(opt_batch=8, max_batch=32)
# Branches behind a layer scale of 1e-5 or so would be drowned by what goes past them, and no error in them be seen.
ARGUMENTS: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {"img_size": SIZE_PX},
    "levit_128s": {"img_size": SIZE_PX},
    "convnext_atto": {"ls_init_value": 1.0},
    "edgenext_xx_small": {"ls_init_value": 1.0},
    "efficientformerv2_s0": {"img_size": SIZE_PX, "layer_scale_init_value": 1.0},
    "fastvit_t8": {"layer_scale_init_value": 1.0},
}

LEARNING_RATE, LEARNING_RATES = 2e-3, {"vit_tiny_patch16_224": 5e-4}


@dataclass(frozen=True)
class Pictures:
    """Images (N, H, W, 3) of a folder's train and test part, with the numbers of their classes.

    Those that INT8 is calibrated and tuned on are of the train part too, but not learned from: a network that learned
    with labels draws the images that it learned from together by their classes, and says nothing of how near new ones
    come.
    """

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels
    calibration: Images
    tuning: Images

    @classmethod
    def of(cls, folder: Path, per_class: int, per_test_class: int) -> "Pictures":
        """So many of each class, in the order of their names."""
        classes = sorted(each.name for each in (folder / "train").iterdir() if each.is_dir())
        unseen = -(-(CALIBRATION + TUNING) // len(classes))
        train, shown, test = [], [], []
        for name in classes:
            found = _read(folder / "train" / name, per_class + unseen)
            train.append(found[:per_class])
            shown.append(found[per_class:])
            test.append(_read(folder / "test" / name, per_test_class))
        labels = [np.repeat(np.arange(len(classes)), [len(each) for each in of]) for of in (train, test)]
        joined = [np.concatenate(each) for each in (train, test, shown)]
        order = np.random.default_rng(2).permutation(len(joined[2]))
        parts = (joined[2][order[:CALIBRATION]], joined[2][order[CALIBRATION:][:TUNING]])
        return cls(joined[0], labels[0], joined[1], labels[1], *parts)


def _read(folder: Path, most: int) -> Images:
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[:most]]
    return np.stack([to_square(frame, SIZE_PX, "crop") for frame in frames])


def network(name: str) -> nn.Module:
    """The encoder by timm's name, with random weights."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=0, **ARGUMENTS.get(name, {}))
    return model


def train(model: nn.Module, pictures: Pictures, minutes: float, learning_rate: float) -> float:
    """Train with labels for so long: AdamW, mirrored and shifted images; the seconds that it took."""
    pixels = OPTIONS.input_of(SIZE_PX)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (pixels.mean, pixels.std))

    def ready(images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std

    images, labels = torch.from_numpy(pictures.train), torch.from_numpy(pictures.train_labels)
    with torch.no_grad():
        dim = model.eval()(ready(images[:2])).shape[1]
    head = nn.Linear(dim, int(labels.max()) + 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=learning_rate, weight_decay=0.02)
    model.train()
    started = time.perf_counter()
    step = 0
    while (passed := (time.perf_counter() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, step / 30) * (1 - passed) + 1e-5
        drawn = torch.randint(len(images), (BATCH,))
        batch = ready(images[drawn])
        batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
        batch = torch.roll(batch, [int(shift) for shift in torch.randint(-6, 7, (2,))], (2, 3))
        loss = F.cross_entropy(head(model(batch)), labels[drawn], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    model.eval()
    return time.perf_counter() - started


def trained(model: nn.Module, pictures: Pictures, minutes: float, learning_rate: float, kept: Path | None) -> float:
    """Train, or take the weights that were kept; the seconds that it took."""
    if kept is not None and kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["weights"])
        model.eval()
        return float(state["trained_s"])
    seconds = train(model, pictures, minutes, learning_rate)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": model.state_dict(), "trained_s": seconds}, kept)
    return seconds


def knn_accuracy(model: nn.Module, pictures: Pictures) -> float:
    """Of test images among four times as many training images."""
    pixels = OPTIONS.input_of(SIZE_PX)
    rng = np.random.default_rng(1)
    some = rng.permutation(len(pictures.train))[: 4 * ASKED]
    asked = rng.permutation(len(pictures.test))[:ASKED]
    gallery, queries = (
        torch_outputs(model.eval(), images, pixels=pixels, normalize=False)
        for images in (pictures.train[some], pictures.test[asked])
    )
    found = knn_predict(gallery, pictures.train_labels[some], queries)
    return float((found == pictures.test_labels[asked]).mean())


def proof_images(pictures: Pictures) -> ProofImages:
    """Golden images and gallery of the test part, calibration and tuning of the train part."""
    order = np.random.default_rng(0).permutation(len(pictures.test))
    golden, gallery = pictures.test[order[:GOLDEN]], pictures.test[order[GOLDEN:]]
    return ProofImages(
        golden,
        "dataset",
        gallery=gallery,
        calibration=pictures.calibration,
        calibration_source="train",
        tuning=pictures.tuning,
    )


@dataclass(frozen=True)
class Subject:
    """An encoder and the images that its files are proven on; its kNN where it is known."""

    name: str
    model: nn.Module
    images: ProofImages
    options: BundleOptions
    size_px: int
    knn_untrained: float | None
    knn: float | None
    trained_s: float | None


def of_timm(name: str, given: argparse.Namespace) -> Subject:
    """Trained here."""
    pictures = Pictures.of(given.images, given.per_class, given.per_test_class)
    model = network(name)
    before = knn_accuracy(model, pictures)
    kept, learning_rate = given.trained and given.trained / f"{name}.pt", LEARNING_RATES.get(name, LEARNING_RATE)
    trained_s = trained(model, pictures, given.minutes, learning_rate, kept)
    model = reparameterize_model(model).eval()
    after = knn_accuracy(model, pictures)
    print(f"{name}: kNN {before:.1%} untrained, {after:.1%} after {trained_s:.0f} s", flush=True)
    found = (round(before, 4), round(after, 4), round(trained_s))
    return Subject(name, model, proof_images(pictures), OPTIONS, SIZE_PX, *found)


def of_run(path: Path) -> Subject:
    """As it was learned; of the images that neighbours are looked for in as many as of the others."""
    run = open_run(path)
    recipe = run.recipe
    recipe = recipe.model_copy(update={"export": recipe.export.model_copy(update={"gallery_images": GALLERY})})
    options = replace(bundle_options(recipe), opt_batch=OPTIONS.opt_batch, max_batch=OPTIONS.max_batch)
    size_px = recipe.data.image_size_px
    how = {"splits": open_run_splits(run, recipe), "precisions": ("fp16", "int8"), "tuned": True, "labelled": True}
    images = gather_proof_images(recipe, options.input_of(size_px), **how)
    before, after = (
        metrics and round(metrics["knn"]["accuracy"], 4) for metrics in map(run.metrics, ("untrained", "encoder"))
    )
    return Subject(f"{recipe.name}, {size_px} px", run.encoder(), images, options, size_px, before, after, None)
