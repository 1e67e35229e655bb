"""A classifier from few or many labels: linear probe, then all weights, beside training from scratch.

Axes: N training images, B images of a batch, S side in pixels, C classes.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from byolt.data.subsets import stratified_subset
from byolt.evaluation.features import Images, Rgb, Subset, embed
from byolt.evaluation.figures import accuracy_figure
from byolt.evaluation.linear import LinearProbe, linear_probe
from byolt.evaluation.statistics import mcnemar
from byolt.networks.convolutions import speed_up_convolutions
from byolt.networks.encoders import save_weights
from byolt.run import Run
from byolt.views import normalise
from byolt_export.errors import TrainingFault

if TYPE_CHECKING:
    from byolt.recipe.evaluation import Finetune

MOMENTUM = 0.9
CROP_MARGIN = 8
"""Light augmentation: the crop moves by up to side / CROP_MARGIN each way (4 px at 32, He et al. 2016, sec. 4.2)."""

Labels = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]


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
    """The fine-tuned classifier, and the figures of it, the probe it began as, and training from scratch."""

    classifier: Classifier
    figures: dict[str, Any]
    """JSON-able: ``probe``, ``finetuned``, ``scratch`` and others with accuracy and interval; ``against``, McNemar's
    test of the fine-tuned classifier against each on the same images; the protocol."""


def finetune(
    encoder: nn.Module,
    untrained: nn.Module,
    train: Images,
    train_labels: Labels,
    test: Images,
    test_labels: Labels,
    *,
    classes: int,
    settings: "Finetune",
    share: float,
    validation_share: float,
    seed: int,
    mean: Rgb,
    std: Rgb,
    device: torch.device | str,
    others: Mapping[str, nn.Module] | None = None,
    progress: Progress | None = None,
) -> Finetuned:
    """Linear probe, then fine-tuning of all weights, and the same budget from scratch.

    The probe's weights are the head's start (Kumar et al. 2022, arXiv:2202.10054): the first steps then do
    not tear the features apart. The test split is looked at once for each figure, at the end.

    Args:
        encoder: The learned encoder, on ``device``; left as it is.
        untrained: The same architecture before learning, on ``device``; left as it is.
        train, train_labels: Labelled training images.
        test, test_labels: Labelled test images.
        classes: Number of classes.
        settings: Epochs, batch size, learning rate and weight decay of both trainings.
        share: Share of the training labels that is used, stratified by class, in (0, 1].
        validation_share: Share of those that the probe's regularisation is chosen on.
        seed: Draws the share, the validation split, the data order, the augmentation and scratch's head.
        mean, std: Channel statistics for pixels in 0 to 1.
        device: Where the encoders lie.
        others: Encoders of the same architecture by name, with other first weights, probed and fine-tuned likewise.
        progress: Called with what is trained, epochs done, and epochs in all.

    Raises:
        InputError: too few labels.
        TrainingFault: the loss is not finite.
    """
    chosen = stratified_subset(train_labels, share, seed)
    images, labels = Subset(train, chosen), train_labels[chosen]
    trainer = _Trainer(images, labels, settings, seed, mean, std, device, progress)

    def probed(source: nn.Module) -> tuple[Classifier, float]:
        features = embed(source, images, mean=mean, std=std, device=device)
        probe = linear_probe(features, labels, classes=classes, validation_share=validation_share, seed=seed)
        return Classifier.from_probe(source, probe).to(device), probe.l2

    start, l2 = probed(encoder)
    finetuned = copy.deepcopy(start)
    scratch = Classifier.from_scratch(untrained, start.head.in_features, classes, seed).to(device)
    trainer.train(finetuned, "fine-tune")
    trainer.train(scratch, "from scratch")
    beside = {"probe": start, "scratch": scratch}
    for name, source in (others or {}).items():
        beside[name], _ = probed(source)
        trainer.train(beside[name], f"fine-tune from {name}")

    def predicted(classifier: Classifier) -> Labels:
        return embed(classifier, test, mean=mean, std=std, device=device).argmax(1).numpy()

    answers = {name: predicted(classifier) for name, classifier in {"finetuned": finetuned, **beside}.items()}
    figures: dict[str, Any] = {name: accuracy_figure(answer, test_labels) for name, answer in answers.items()}
    figures["probe"]["l2"] = l2
    right = answers["finetuned"] == test_labels
    figures["against"] = {name: mcnemar(right, answers[name] == test_labels)._asdict() for name in beside}
    return Finetuned(
        finetuned,
        figures
        | {
            "protocol": "linear probe on frozen features, then all weights from that head; scratch: the encoder "
            "from random weights, same images, epochs, schedule and augmentation; last epoch, one look at the test "
            "split; against: McNemar's exact test on the same test images, which covers their draw, not the seed's",
            "train_share": share,
            "n_train": len(chosen),
            "train_indices": chosen.tolist(),
            "seed": seed,
            "settings": settings.model_dump(),
        },
    )


@dataclass(frozen=True)
class _Trainer:
    """The budget that fine-tuning and training from scratch share."""

    images: Images
    labels: Labels
    settings: "Finetune"
    seed: int
    mean: Rgb
    std: Rgb
    device: torch.device | str
    progress: Progress | None

    def train(self, classifier: Classifier, what: str) -> None:
        """SGD with momentum and a cosine learning rate to 0, in place; the same seed gives the same weights."""
        settings, labels = self.settings, torch.from_numpy(self.labels)
        steps_per_epoch = math.ceil(len(self.images) / settings.batch_size)
        steps = settings.epochs * steps_per_epoch
        optimizer = sgd(classifier, settings.weight_decay)
        speed_up_convolutions(classifier, torch.device(self.device))
        classifier.train()
        step = 0
        for epoch in range(settings.epochs):
            rng = np.random.default_rng([self.seed, epoch])
            # Parts of near-equal size: a last batch of one image would break BatchNorm.
            for indices in np.array_split(rng.permutation(len(self.images)), steps_per_epoch):
                batch = torch.from_numpy(self.images.batch(indices)).to(self.device)
                batch = normalise(shift_and_flip(batch, rng), self.mean, self.std)
                for group in optimizer.param_groups:
                    group["lr"] = cosine_rate(step, steps, settings.base_lr * settings.batch_size / 256)
                loss = F.cross_entropy(classifier(batch), labels[indices].to(self.device))
                if not torch.isfinite(loss):
                    raise TrainingFault(f"{what}: the loss is not finite in epoch {epoch + 1}; lower finetune.base_lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
            if self.progress is not None:
                self.progress(what, epoch + 1, settings.epochs)
        classifier.eval()


def cosine_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of ``step`` in 0 .. steps - 1: peak (1 + cos(pi step / steps)) / 2."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def shift_and_flip(images: UInt8[Tensor, "B S S 3"], rng: np.random.Generator) -> UInt8[Tensor, "B S S 3"]:
    """Each image moved by up to S / 8 px in both directions, edges mirrored, and flipped in half of the cases."""
    count, side = images.shape[0], images.shape[1]
    margin = side // CROP_MARGIN
    flips = torch.from_numpy(rng.random(count) < 0.5)
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
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        momentum=MOMENTUM,
    )
