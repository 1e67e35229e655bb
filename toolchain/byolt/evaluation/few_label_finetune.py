"""Fine-tuning of all weights with 10 to 200 labels: counted in steps, with a choice of rate, norms and length.

The 20 epochs of ``finetune`` are 20 to 80 steps of so few images. Here a setting has a number of steps, and
cross-validation chooses it, which is an early stop that no image is held out for in the end. With few images the batch
statistics of BatchNorm are noise, so keeping the encoder's own is one of the choices. The head begins as the linear
probe of the same labels. AdamW, since encoders differ in the length of their features: with SGD the gradient of the
head grows with its square, and ImageNet's (length 40) went to one point within 8 steps at a rate of 0.003, which others
bore. Every start, random weights too, has the same grid. Axes: N images, S side, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from byolt.data.source import Labels
from byolt.device import pick_device
from byolt.evaluation.evaluate import embed_store
from byolt.evaluation.features import Images, LabelledImages
from byolt.evaluation.few_labels import Choice, choose
from byolt.evaluation.finetune import Classifier, cosine_rate, decayed, shift_and_flip, train_step
from byolt.evaluation.linear import fit_path
from byolt.evaluation.norm_statistics import reestimate
from byolt.evaluation.variance_components import Measure
from byolt.networks.convolutions import speed_up_convolutions
from byolt.views import normalise
from byolt_export.errors import TrainingFault

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe

BATCH = 16
BRIGHTNESS = 0.2
"""Contrast is scaled by up to this share, and brightness shifted by as many standard deviations."""
WEIGHT_DECAY = 0.01


class Setting(NamedTuple):
    """One way to train."""

    rate: float
    """Peak of AdamW's learning rate."""
    frozen_norms: bool
    """BatchNorm keeps the encoder's statistics; else it takes those of each batch, and in the end of the images."""
    steps: int

    def __str__(self) -> str:
        return f"rate={self.rate:g} norms={'frozen' if self.frozen_norms else 'learned'} steps={self.steps}"


GRID = (
    Setting(1e-4, True, 40),
    Setting(4e-4, True, 40),
    Setting(4e-4, True, 160),
    Setting(2e-3, False, 160),
)
"""The gentlest first: of equals it is chosen."""


@dataclass(frozen=True)
class FewLabelTrainer:
    """An encoder, and the images that labels are drawn from."""

    encoder: nn.Module
    train: LabelledImages
    recipe: "Recipe"
    on_step: Callable[[], None] = lambda: None
    """Called before each step; what it raises ends the training."""

    def chosen(self, draws: list[Labels], l2: float, measure: Measure) -> Choice:
        """The setting of ``GRID`` that is best in cross-validation inside these draws, after a probe with this l2."""

        def fit(kept: Labels, out: Labels) -> Iterator[Float[Tensor, "H C"]]:
            return (self._held_out(kept, out, setting, l2) for setting in GRID)

        return choose(len(GRID), draws, self.train.labels, measure, fit)

    def _held_out(self, kept: Labels, out: Labels, setting: Setting, l2: float) -> Float[Tensor, "H C"]:
        """Logits of images held out; NaN of a rate that is too high for this start, so that another is chosen."""
        try:
            return self.logits(self.trained(kept, setting, l2, seed=0), self.train.subset(out).images)
        except TrainingFault:
            return torch.full((len(out), self.train.classes), torch.nan)

    def trained(self, drawn: Labels, setting: Setting, l2: float, *, seed: int) -> Classifier:
        """A classifier of the drawn images and their labels, which alone are looked at; the encoder stays as it is.

        Raises:
            TrainingFault: The loss or an output is not finite.
        """
        few, data, device = self.train.subset(drawn), self.recipe.data, pick_device(self.recipe.machine.device)
        features = embed_store(self.encoder, few.images, self.recipe)
        (probe,) = fit_path(features, few.labels, classes=few.classes, l2s=[l2])
        classifier = Classifier.from_probe(self.encoder, probe).to(device)
        optimizer = torch.optim.AdamW(decayed(classifier, WEIGHT_DECAY), lr=0.0)
        speed_up_convolutions(classifier, device)
        classifier.train(not setting.frozen_norms)  # Dropout is 0 in every encoder: the norms alone differ.
        rng, labels = np.random.default_rng([seed, len(drawn)]), torch.from_numpy(few.labels)
        for step, rows in enumerate(_batches(len(drawn), setting.steps, rng)):
            self.on_step()
            batch = torch.from_numpy(few.images.batch(rows)).to(device)
            batch = shift_and_flip(batch, rng, flip=self.recipe.views.view_1.flip)
            batch = turned(
                normalise(batch, data.mean, data.std, data.white), rng, self.recipe.views.view_1.quarter_turn
            )
            batch = relit(batch, rng)
            rate = cosine_rate(step, setting.steps, setting.rate)
            if not train_step(classifier, optimizer, batch, labels[rows].to(device), rate):
                raise TrainingFault(f"fine-tuning with few labels: the loss is not finite at step {step + 1}")
        classifier.eval()
        if not setting.frozen_norms:
            reestimate(classifier, few.images, mean=data.mean, std=data.std, white=data.white, seed=seed, device=device)
        return classifier

    def logits(self, classifier: Classifier, images: Images) -> Float[Tensor, "N C"]:
        """Of each image.

        Raises:
            NonFiniteFeatures: One is not finite.
        """
        return embed_store(classifier, images, self.recipe)


def turned(images: Float[Tensor, "B 3 S S"], rng: np.random.Generator, share: float) -> Float[Tensor, "B 3 S S"]:
    """Each image turned by 90, 180 or 270 degrees, each as likely, with probability ``share``; 0 draws nothing."""
    if share == 0:
        return images
    turns = np.where(rng.random(len(images)) < share, rng.integers(1, 4, len(images)), 0)
    made = [torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)]
    return torch.stack(made).contiguous(memory_format=torch.channels_last)


def relit(images: Float[Tensor, "B 3 S S"], rng: np.random.Generator) -> Float[Tensor, "B 3 S S"]:
    """Normalised images with another contrast and brightness each, as another lamp would give: no colour is faked."""
    contrast, brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS, (2, len(images), 1, 1, 1)).astype(np.float32)
    mean = images.mean((1, 2, 3), keepdim=True)
    scaled = (images - mean) * torch.from_numpy(1 + contrast).to(images.device) + mean
    return scaled + torch.from_numpy(brightness).to(images.device)


def _batches(images: int, steps: int, rng: np.random.Generator) -> Iterator[Labels]:
    """``steps`` batches of at most ``BATCH``; each image once before one comes again."""
    waiting = np.empty(0, np.int64)
    size = min(BATCH, images)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = np.append(waiting, rng.permutation(images))
        yield waiting[:size]
        waiting = waiting[size:]
