"""A classifier from few or many labels: linear probe, then all weights, beside training from scratch.

Axes: N training images, B images of a batch, S side in pixels, C classes.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt
from torch import Tensor, nn

from byolt.data.subsets import stratified_subset
from byolt.device import pick_device
from byolt.evaluation.answers import Answers, compared, measured
from byolt.evaluation.evaluate import embed_store
from byolt.evaluation.features import LabelledImages, NonFiniteFeatures
from byolt.evaluation.linear import LinearProbe, linear_probe
from byolt.evaluation.norm_statistics import reestimate
from byolt.networks.convolutions import speed_up_convolutions
from byolt.networks.encoders import save_weights
from byolt.run import Run
from byolt.views import normalise
from byolt_export.errors import TrainingFault

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe

MOMENTUM = 0.9
CROP_MARGIN = 8
"""Light augmentation: the crop moves by up to side / CROP_MARGIN each way (4 px at 32, He et al. 2016, sec. 4.2)."""

PROTOCOL = (
    "linear probe on frozen features, then all weights from that head; scratch: the encoder from random weights, same "
    "images, epochs, schedule and augmentation; each with BatchNorm statistics taken anew from the training images; "
    "last epoch, one look at the test split; against: McNemar's exact test "
    "on the same test images, which covers their draw, not the seed's"
)


class FinetuneMetrics(TypedDict, total=False):
    """What one share of the labels gave; each accuracy, and of two classes ``auc``, with its 95 % interval."""

    probe: dict[str, Any]
    """The linear probe that fine-tuning begins as."""
    finetuned: dict[str, Any]
    """All weights, from the probe on."""
    scratch: dict[str, Any]
    """The same budget from random weights."""
    imagenet: dict[str, Any]
    """The same from ImageNet weights, where they were asked for."""
    against: dict[str, Any]
    """McNemar's test of ``finetuned`` against each other one, on the same images."""
    protocol: str
    train_share: float
    n_train: int
    train_indices: list[int]
    seed: int
    settings: dict[str, Any]
    """The recipe's ``finetune`` section."""
    classes: list[str]
    chance: float
    """Accuracy of naming the most frequent class of the test images every time."""
    data: str
    test: str


class Classifier(nn.Module):
    """An encoder and a linear head on its features: normalised images (B, 3, S, S) to logits (B, C)."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """Logits of each image."""
        logits: Tensor = self.head(self.encoder(images))
        return logits

    @classmethod
    def from_probe(cls, encoder: nn.Module, probe: LinearProbe) -> "Classifier":
        """A copy of ``encoder`` under the probe's head: predicts what the probe predicts."""
        head = nn.Linear(probe.weight.shape[1], probe.weight.shape[0])
        with torch.no_grad():
            head.weight.copy_(probe.weight)
            head.bias.copy_(probe.bias)
        return cls(copy.deepcopy(encoder), head)

    @classmethod
    def from_scratch(cls, encoder: nn.Module, feature_dim: int, classes: int, seed: int) -> "Classifier":
        """A copy of ``encoder`` under a head drawn by ``seed``: normal of std 0.01, zero bias."""
        head = nn.Linear(feature_dim, classes)
        nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.bias)
        return cls(copy.deepcopy(encoder), head)


def save_classifier(run: Run, classifier: Classifier, classes: tuple[str, ...]) -> None:
    """Keep a classifier as the run's ``classifier.safetensors``, with the names of its classes."""
    save_weights(classifier, run.classifier_file, {"classes": json.dumps(classes)})


@dataclass(frozen=True)
class Finetuned:
    """The fine-tuned classifier, and the metrics of it, the probe it began as, and training from scratch."""

    classifier: Classifier
    metrics: dict[str, Any]
    """``FinetuneMetrics``, but for the names of the sets and classes."""
    statistics: dict[str, Any]
    """How the fine-tuned classifier's BatchNorm statistics were taken from the training images, and what it cost."""


def train_classifiers(
    encoder: nn.Module,
    untrained: nn.Module,
    train: LabelledImages,
    test: LabelledImages | None,
    recipe: "Recipe",
    share: float,
    *,
    others: Mapping[str, nn.Module] | None = None,
    on_log: Callable[[str], None] | None = None,
) -> Finetuned:
    """Linear probe, then fine-tuning of all weights, and the same budget from scratch.

    The probe's weights are the head's start (Kumar et al. 2022, arXiv:2202.10054): the first steps then do
    not tear the features apart. The test split is looked at once for each metric, at the end.

    Args:
        encoder: The learned encoder; its weights are left as they are.
        untrained: The same architecture before learning; left likewise.
        train, test: Labelled images of the same classes. Without test images nothing is measured, so nothing is trained
            but the classifier.
        recipe: Its ``finetune`` section is the budget of every training; its seed draws the share, the validation
            split, the data order, the augmentation and scratch's head.
        share: Share of the training labels that is used, stratified by class, in (0, 1].
        others: Encoders of the same architecture by name, with other first weights, probed and fine-tuned likewise.
        on_log: Called with a line after each epoch.

    Raises:
        InputError: too few labels.
        TrainingFault: the loss is not finite, or a trained classifier's outputs are not.
    """
    chosen = stratified_subset(train.labels, share, recipe.seed)
    trainer = _Trainer(train.subset(chosen), recipe, pick_device(recipe.machine.device), on_log)
    start, l2 = trainer.probed(encoder)
    finetuned = copy.deepcopy(start)
    about = {
        "protocol": PROTOCOL,
        "train_share": share,
        "n_train": len(chosen),
        "train_indices": chosen.tolist(),
        "seed": recipe.seed,
        "settings": recipe.finetune.model_dump(),
    }
    if test is None:
        statistics = trainer.train(finetuned, "fine-tune")
        return Finetuned(finetuned, {"against": {}} | about, statistics)
    scratch = Classifier.from_scratch(untrained, start.head.in_features, train.classes, recipe.seed)
    statistics = trainer.train(finetuned, "fine-tune")
    trainer.train(scratch, "from scratch")
    beside = {"probe": start, "scratch": scratch}
    for name, source in (others or {}).items():
        beside[name], _ = trainer.probed(source)
        trainer.train(beside[name], f"fine-tune from {name}")
    metrics = _tested({"finetuned": finetuned, **beside}, test, recipe)
    metrics["probe"]["l2"] = l2
    return Finetuned(finetuned, metrics | about, statistics)


def _tested(classifiers: Mapping[str, Classifier], test: LabelledImages, recipe: "Recipe") -> dict[str, Any]:
    """What is measured of each on the test images, and ``against``: the fine-tuned one against each other."""
    answers = {name: _answers(name, one, test, recipe) for name, one in classifiers.items()}
    metrics: dict[str, Any] = {name: measured(answer, test.labels) for name, answer in answers.items()}
    finetuned = answers.pop("finetuned")
    metrics["against"] = {name: compared(finetuned, answer, test.labels) for name, answer in answers.items()}
    return metrics


def _answers(name: str, classifier: Classifier, test: LabelledImages, recipe: "Recipe") -> Answers:
    try:
        return Answers.of([embed_store(classifier, test.images, recipe)])
    except NonFiniteFeatures as error:
        raise NonFiniteFeatures(f"{name}: {error}") from error


@dataclass(frozen=True)
class _Trainer:
    """The images and the budget that fine-tuning and training from scratch share."""

    train_images: LabelledImages
    recipe: "Recipe"
    device: torch.device
    on_log: Callable[[str], None] | None

    def probed(self, encoder: nn.Module) -> tuple[Classifier, float]:
        """A copy of ``encoder`` under a linear probe's head, and the probe's l2."""
        few, share = self.train_images, self.recipe.evaluation.validation_share
        features = embed_store(encoder, few.images, self.recipe)
        probe = linear_probe(features, few.labels, classes=few.classes, validation_share=share, seed=self.recipe.seed)
        return Classifier.from_probe(encoder, probe), probe.l2

    def train(self, classifier: Classifier, what: str) -> dict[str, Any]:
        """SGD with momentum and a cosine learning rate to 0, in place; the same seed gives the same weights.

        BatchNorm statistics are then those of the training images: what ``reestimate`` says of it.
        """
        settings, data = self.recipe.finetune, self.recipe.data
        images, labels = self.train_images.images, torch.from_numpy(self.train_images.labels)
        steps_per_epoch = math.ceil(len(images) / settings.batch_size)
        steps = settings.epochs * steps_per_epoch
        classifier.to(self.device)
        optimizer = sgd(classifier, settings.weight_decay)
        speed_up_convolutions(classifier, self.device)
        classifier.train()
        step = 0
        for epoch in range(settings.epochs):
            rng = np.random.default_rng([self.recipe.seed, epoch])
            # Parts of near-equal size: a last batch of one image would break BatchNorm.
            for indices in np.array_split(rng.permutation(len(images)), steps_per_epoch):
                batch = torch.from_numpy(images.batch(indices)).to(self.device)
                batch = normalise(shift_and_flip(batch, rng), data.mean, data.std, data.white)
                rate = cosine_rate(step, steps, settings.base_lr * settings.batch_size / 256)
                if not train_step(classifier, optimizer, batch, labels[indices].to(self.device), rate):
                    raise TrainingFault(f"{what}: the loss is not finite in epoch {epoch + 1}; lower finetune.base_lr")
                step += 1
            if self.on_log is not None:
                self.on_log(f"{what}: epoch {epoch + 1}/{settings.epochs}")
        classifier.eval()
        how: dict[str, Any] = {"mean": data.mean, "std": data.std, "white": data.white, "seed": self.recipe.seed}
        return reestimate(classifier, images, **how, device=self.device)


def train_step(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Float[Tensor, "B 3 S S"],
    labels: Int64[Tensor, "B"],
    rate: float,
) -> bool:
    """One step at a learning rate; False, and no step, where the loss is not finite."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(classifier(images), labels)
    if not torch.isfinite(loss):
        return False
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return True


def cosine_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of ``step`` in 0 .. steps - 1: peak (1 + cos(pi step / steps)) / 2."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def shift_and_flip(
    images: UInt[Tensor, "B S S C"], rng: np.random.Generator, flip: float = 0.5
) -> UInt[Tensor, "B S S C"]:
    """Each image moved by up to S / 8 px in both directions, edges mirrored, and flipped with probability ``flip``."""
    count, side = images.shape[0], images.shape[1]
    margin = side // CROP_MARGIN
    flips = torch.from_numpy(rng.random(count) < flip)
    offsets = torch.from_numpy(rng.integers(-margin, margin, (2, count, 1), endpoint=True))
    rows, columns = _mirrored(torch.arange(side) + offsets, side)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    picked = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    return images[tuple(index.to(images.device) for index in picked)]


def _mirrored(positions: Int64[Tensor, "..."], side: int) -> Int64[Tensor, "..."]:
    """Positions beyond an edge reflected at the edge's pixel, as in reflection padding."""
    return side - 1 - (side - 1 - positions.abs()).abs()


def sgd(classifier: nn.Module, weight_decay: float) -> torch.optim.SGD:
    """SGD that decays weights, and leaves biases and normalisation parameters alone."""
    return torch.optim.SGD(decayed(classifier, weight_decay), lr=0.0, momentum=MOMENTUM)


def decayed(classifier: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that learn, in two groups: weights, which decay, and biases and norms, which do not."""
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
