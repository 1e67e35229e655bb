"""Online evaluation: what is measured of a step at each log line, and of the encoder at each evaluation."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from byolt.data import ImageStore, Splits, store_of
from byolt.data.subsets import spread, stratified_subset
from byolt.evaluation.baselines import colour_features, pixel_features
from byolt.evaluation.collapse import CollapseMonitor, alignment, rankme, uniformity, z_std_ratio
from byolt.evaluation.dynamics import dynamics, spectrum
from byolt.evaluation.features import Images, Subset, embed
from byolt.evaluation.knn import knn_predict
from byolt.evaluation.norm_statistics import reestimated
from byolt.evaluation.statistics import difference_on_test_set
from byolt.methods.base import Method, Outcome
from byolt.networks.encoders import untrained_encoder
from byolt.recipe.schema import Recipe
from byolt.training.step import Learner

# Enough for a metric to steer by; the final evaluation uses every image.
GALLERY_IMAGES = 10_000
QUERY_IMAGES = 1_000

Encoding = Callable[[Images], torch.Tensor]


class OnlineEvaluator:
    """The fixed images that a run is measured on, and the verdict's memory."""

    def __init__(self, recipe: Recipe, splits: Splits, store: ImageStore) -> None:
        """Pick the probe set and, where there are labels enough, a gallery and queries from the training images."""
        self.recipe, self.store = recipe, store
        self.monitor = CollapseMonitor(warmup_epochs=recipe.schedule.warmup_epochs)
        self.metrics: dict[str, Any] = {}
        self.learned = Squares(store, recipe.data.image_size_px)
        self.probe = Subset(self.learned, spread(len(store), recipe.evaluation.probe_images))
        self.gallery: Subset | None = None
        if splits.train is not None:
            self._split_labelled(splits, recipe)

    def _split_labelled(self, splits: Splits, recipe: Recipe) -> None:
        data = recipe.data
        assert splits.train is not None
        labelled = store_of(splits.train, data, data.image_size_px)
        labels = labelled.labels
        assert labels is not None
        held_out = stratified_subset(labels, recipe.evaluation.validation_share, recipe.seed)
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        if len(rest) == 0:
            return  # One image a class: with the queries taken none is left to compare with, and there is no figure.
        gallery, queries = rest[spread(len(rest), GALLERY_IMAGES)], held_out[spread(len(held_out), QUERY_IMAGES)]
        self.gallery, self.gallery_labels = Subset(labelled, gallery), labels[gallery]
        self.queries, self.query_labels = Subset(labelled, queries), labels[queries]
        self.classes = len(labelled.classes)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: the verdict's memory and the metrics of the last look."""
        return {"monitor": self.monitor.state(), "figures": dict(self.metrics)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the ``state()`` of an interrupted run."""
        self.monitor.restore(state["monitor"])
        self.metrics = dict(state["figures"])

    def step_metrics(self, outcome: Outcome, method: Method) -> dict[str, Any]:
        """Loss, spread of the projections, alignment and uniformity of the two views, and ``dynamics``.

        From what the step computed anyway; but it waits for the device, and uniformity looks at each pair of the batch.
        """
        z_1, z_2 = (z.cpu() for z in outcome.z)
        return {
            "loss": round(float(outcome.loss), 6),
            "z_std_ratio": round(z_std_ratio(z_1), 4),
            "alignment": round(alignment(z_1, z_2), 4),
            "uniformity": round(uniformity(z_1), 4),
            **dynamics(outcome, method),
        }

    @contextmanager
    def reestimated(self, learner: Learner) -> Iterator[dict[str, Any]]:
        """The encoder with BatchNorm statistics of the learning images; what learning goes on with is as it was after.

        Gives what ``norm_statistics.reestimate`` says of it.
        """
        data, encoder = self.recipe.data, learner.method.eval_encoder
        how: dict[str, Any] = {"mean": data.mean, "std": data.std, "white": data.white, "device": learner.device}
        how["seed"] = self.recipe.seed
        with reestimated(encoder, self.learned, **how) as done:
            yield done

    def evaluate(self, learner: Learner, outcome: Outcome, epoch: int) -> dict[str, Any]:
        """RankMe on the probe set, kNN on queries of the validation split where there is a gallery, and the verdict.

        Raises:
            NonFiniteFeatures: Nothing can be measured, and the metrics of the look before stay.
        """
        metrics = self.step_metrics(outcome, learner.method)
        both = torch.cat(outcome.z).cpu()
        metrics["spectrum"] = [float(f"{value:.3g}") for value in spectrum(both).tolist()]
        with self.reestimated(learner):
            encode = self._encoding(learner.method.eval_encoder, learner.device)
            probe = encode(self.probe)
            metrics["rankme"] = round(rankme(probe), 2)
            metrics["features"] = probe.shape[1]
            if self.gallery is not None:
                metrics["knn"] = round(float(self._right(encode).mean()), 4)
        metrics["verdict"] = self.monitor.update(epoch, *self._reading(metrics)).state
        self.metrics = metrics
        return metrics

    def conclude(self, learner: Learner) -> dict[str, Any]:
        """Of a run's end: the last reading judged, and the encoder beside what no learning gives, on the same images.

        What it writes into the metrics of the last evaluation, JSON-able: ``verdict``, and ``beside``, see
        ``outcome.sentence_of``.

        Raises:
            NonFiniteFeatures: The encoder gives NaN or infinity for an image.
        """
        self.monitor.judge_last(*self._reading(self.metrics))
        untrained = untrained_encoder(self.recipe).to(learner.device)
        encodings = {
            "untrained": self._encoding(untrained, learner.device),
        }
        encodings["pixels"] = partial(pixel_features, white=self.recipe.data.white)
        encodings["colours"] = partial(colour_features, white=self.recipe.data.white)
        encode = self._encoding(learner.method.eval_encoder, learner.device)
        beside: dict[str, Any] = {"rankme": {"untrained": round(rankme(encodings["untrained"](self.probe)), 2)}}
        beside["rankme"]["encoder"] = self.metrics["rankme"]
        if self.gallery is not None:
            right = {name: self._right(encoding) for name, encoding in ({"encoder": encode} | encodings).items()}
            beside["images"] = len(self.query_labels)
            beside["knn"] = {name: round(float(answers.mean()), 4) for name, answers in right.items()}
            beside["against"] = {
                name: difference_on_test_set(right["encoder"], right[name])._asdict() for name in encodings
            }
        self.metrics |= {"verdict": self.monitor.verdict.state, "beside": beside}
        return self.metrics

    def _reading(self, metrics: dict[str, Any]) -> tuple[float, float, int, int, float]:
        """What ``CollapseMonitor`` judges of the metrics of an evaluation."""
        images, features = len(self.probe), metrics["features"]
        return metrics["z_std_ratio"], metrics["rankme"], images, features, metrics.get("projection_rank", math.inf)

    def _encoding(self, encoder: nn.Module, device: torch.device) -> Encoding:
        """The features of images by an encoder that lies on ``device``."""
        data = self.recipe.data
        return partial(embed, encoder, mean=data.mean, std=data.std, white=data.white, device=device)

    def _right(self, encode: Encoding) -> npt.NDArray[np.bool_]:
        """Which queries the gallery's nearest neighbours answer right."""
        assert self.gallery is not None
        knn = self.recipe.evaluation
        predicted = knn_predict(
            encode(self.gallery),
            self.gallery_labels,
            encode(self.queries),
            classes=self.classes,
            k=min(knn.knn_k, len(self.gallery)),
            temperature=knn.knn_temperature,
        )
        right: npt.NDArray[np.bool_] = predicted == self.query_labels
        return right

    def write_grid(self, path: Path) -> None:
        """A picture of sample images and their views, for the eye at the start of a run."""
        from byolt.views.grid import write_view_grid

        write_view_grid(path, self.store, self.recipe)


class Squares:
    """Images of the store at the size that evaluation and the device see."""

    def __init__(self, store: ImageStore, size_px: int) -> None:
        self.store, self.size_px = store, size_px

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, indices: np.ndarray, /) -> np.ndarray:
        """Images (B, S, S, C) at ``indices``."""
        images = self.store.batch(indices)
        if images.shape[1] == self.size_px:
            return images
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        size = (self.size_px, self.size_px)
        if pixels.dtype == torch.uint8:
            scaled = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        else:  # torch's own takes no uint16.
            scaled = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True).round().to(pixels.dtype)
        pixels_last: np.ndarray = scaled.permute(0, 2, 3, 1).numpy()
        return pixels_last
