"""What a run's frozen encoder makes of its images: neighbours, a map, a spectrum, and where a linear probe errs.

Axes: N images, D features, K neighbours, C classes.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byolt.data import Splits
from byolt.data.known_splits import open_run_splits
from byolt.data.source import Labels
from byolt.data.subsets import spread
from byolt.evaluation.dynamics import spectrum
from byolt.evaluation.evaluate import embed_store, evaluation_store, labelled
from byolt.evaluation.features import Subset
from byolt.evaluation.linear import linear_probe
from byolt.evaluation.statistics import chance_on_test_set
from byolt.networks.encoders import untrained_encoder
from byolt.recipe.schema import Recipe
from byolt.reporting.charts import GREY, MARKS, PALETTE, Chart, canvas, shortened, svg_of
from byolt.reporting.curves import spectra_chart
from byolt.reporting.page import HtmlTable, number
from byolt.reporting.pictures import square, thumbnail_map
from byolt.run import Run
from byolt.working import working
from byolt_export.arrays import as_rgb
from byolt_export.errors import InputError

GALLERY_IMAGES = 2000
"""Images of the learning set that neighbours are looked for in."""
QUERIES, NEIGHBOURS = 8, 6
MAP_IMAGES = 1000
PROBE_IMAGES, TEST_IMAGES = 5000, 10_000
"""At most; so few keep a report a matter of seconds, and its captions say how many they were."""
MOST_CLASSES = len(PALETTE) * len(MARKS)
"""Classes that colours and marks can tell apart."""
CONFUSED_PAIRS = 8


@dataclass(frozen=True)
class Gallery:
    """Some of the images that a run learned from, and what its encoder makes of them."""

    encoder: nn.Module
    splits: Splits
    images: Subset
    features: Tensor
    """(N, D)."""
    labels: Labels
    """(N,), -1 where not known."""
    changed: bool
    """Whether the images are others than those learned from."""
    white: int = 255
    """The value of a pixel that is 1."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; empty without labels."""
        return () if self.splits.train is None else self.splits.train.classes

    @property
    def chance(self) -> float | None:
        """Share of the most frequent class of the test images; None without labels."""
        labels = None if self.splits.test is None else self.splits.test.labels
        return None if labels is None else chance_on_test_set(labels)


def open_gallery(run: Run, recipe: Recipe) -> Gallery:
    """Embed images evenly spread over those learned from.

    Raises:
        InputError: The run has no encoder, its images are gone, or there are too few.
    """
    encoder = run.encoder()
    splits = open_run_splits(run, recipe)
    store = evaluation_store(splits.learn, recipe)
    chosen = spread(len(store), GALLERY_IMAGES)
    if len(chosen) < 4:
        raise InputError(f"{splits.learn.name}: {len(chosen)} images are too few to compare")
    images = Subset(store, chosen)
    return Gallery(
        encoder,
        splits,
        images,
        embed_store(encoder, images, recipe),
        np.full(len(chosen), -1) if splits.train is None or store.labels is None else store.labels[chosen],
        store.fingerprint != run.environment.get("images"),
        recipe.data.white,
    )


def embedding_sections(gallery: Gallery, recipe: Recipe) -> dict[str, Any]:
    """Neighbours, map and spectrum, as the page shows them."""
    cosines, order = nearest(gallery.features, min(NEIGHBOURS, len(gallery.images) - 1))
    known = (gallery.labels[:, None] >= 0) & (gallery.labels[order] >= 0)  # STL-10, for one, has some labels.
    same = (gallery.labels[:, None] == gallery.labels[order])[known]
    mapped = spread(len(gallery.images), MAP_IMAGES)
    points = embedding_map(gallery.features[torch.from_numpy(mapped)], recipe.seed)
    return {
        "images": len(gallery.images),
        "k": order.shape[1],
        "changed": gallery.changed,
        "neighbours": [
            _neighbour_cells(gallery, np.array([query, *order[query]]), cosines[query])
            for query in spread(len(gallery.images), QUERIES)
        ],
        "same_class": number(float(same.mean()), ".1%") if same.size else None,
        "charts": [_map_chart(points, gallery.labels[mapped], gallery.classes), *_spectrum_charts(gallery, recipe)],
        "map": thumbnail_map(as_rgb(gallery.images.batch(mapped), gallery.white), points),
        "mapped": len(mapped),
    }


def nearest(features: Tensor, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Cosines and numbers of the ``count`` rows nearest to each, descending, without itself; equals by number."""
    unit = F.normalize(features.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-math.inf).numpy()
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(cosines, order, 1), order


def _neighbour_cells(
    gallery: Gallery, members: npt.NDArray[np.int64], cosines: npt.NDArray[np.float64]
) -> list[dict[str, Any]]:
    """The query, then its neighbours: an image, what class it is, whether that is the query's, and how near."""
    labels, images = gallery.labels[members], as_rgb(gallery.images.batch(members), gallery.white)
    return [
        {
            "source": square(image),
            "name": gallery.classes[label] if label >= 0 else "",
            "same": label >= 0 and label == labels[0],
            "cosine": number(float(cosine), ".2f"),
        }
        for image, label, cosine in zip(images, labels, [1.0, *cosines], strict=True)
    ]


def embedding_map(features: Tensor, seed: int) -> npt.NDArray[np.float64]:
    """t-SNE (N, 2) of unit features, from their principal axes; equal runs give equal maps."""
    from sklearn.manifold import TSNE

    unit = F.normalize(features, dim=1).double().numpy()
    start = "pca" if unit.std(0).max() > 1e-9 else "random"  # Of equal features there are no axes.
    tsne = TSNE(2, perplexity=min(30.0, (len(unit) - 1) / 3), init=start, random_state=seed, n_jobs=1)
    with working(f"map of {len(unit):,} embeddings"):
        return np.asarray(tsne.fit_transform(unit), np.float64)


def _map_chart(points: npt.NDArray[np.float64], labels: Labels, classes: tuple[str, ...]) -> Chart:
    counts = np.bincount(labels[labels >= 0])
    shown = np.sort(np.argsort(-counts, kind="stable")[: min(MOST_CLASSES, np.count_nonzero(counts))])
    names = [f"\u200a{shortened(classes[one])}" for one in shown]  # A name that starts with _ would be left out.
    columns = 4 if max(map(len, names), default=0) <= 12 else 2
    reading = (
        f"t-SNE of {len(points):,} images of the learning set: images with near embeddings stand near each other; "
        "distances between far groups, sizes and directions mean nothing."
    )
    if np.count_nonzero(counts) > len(shown):
        reading += f" Colours and marks are the {MOST_CLASSES} most frequent classes; the others are grey."
    elif len(shown):
        reading += " Colours and marks are the classes, which the encoder was never shown."
    with canvas(height_in=3.7 + 0.19 * math.ceil(len(shown) / columns)) as (figure, (axes,)):
        rest = points[~np.isin(labels, shown)]
        axes.scatter(rest[:, 0], rest[:, 1], s=7, color=GREY if len(shown) else PALETTE[0], alpha=0.7, linewidths=0)
        for place, (label, name) in enumerate(zip(shown, names, strict=True)):
            mark = MARKS[place // len(PALETTE)]
            x, y = points[labels == label].T
            axes.scatter(x, y, s=9, color=f"C{place}", marker=mark, linewidths=0, label=name)
        axes.set(xticks=[], yticks=[], xlabel="first t-SNE axis, no unit", ylabel="second t-SNE axis, no unit")
        if names:
            figure.legend(loc="outside lower center", ncols=columns, handletextpad=0.2, columnspacing=1)
        return Chart("Map of the embeddings", svg_of(figure), reading)


def _spectrum_charts(gallery: Gallery, recipe: Recipe) -> list[Chart]:
    before = embed_store(untrained_encoder(recipe), gallery.images, recipe)
    return spectra_chart(
        "Spectrum of the encoder's features",
        f"Variance along each axis of the covariance of {len(gallery.images):,} images' features, as a share of their "
        "energy. A flatter line uses more of the features; the dashed one is the same network before learning.",
        [spectrum(gallery.features).tolist(), spectrum(before).tolist()],
        [{"label": "learned encoder"}, {"label": "untrained encoder", "linestyle": "dashed"}],
    )


def confusion_section(gallery: Gallery, recipe: Recipe) -> dict[str, Any] | None:
    """Where a linear probe of the features errs on held-out images; None without labels.

    Raises:
        InputError: The images are gone.
    """
    splits = gallery.splits
    if splits.train is None or splits.test is None:
        return None
    train, test = (labelled(evaluation_store(split, recipe)) for split in (splits.train, splits.test))
    train = train.subset(spread(len(train.labels), PROBE_IMAGES))
    test = test.subset(spread(len(test.labels), TEST_IMAGES))
    features, held_out = (embed_store(gallery.encoder, part.images, recipe) for part in (train, test))
    how: dict[str, Any] = {"validation_share": recipe.evaluation.validation_share, "seed": recipe.seed}
    with working("linear probe"):
        predicted = linear_probe(features, train.labels, classes=train.classes, **how).predict(held_out)
    counts = np.zeros((train.classes, train.classes), np.int64)
    np.add.at(counts, (test.labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    most_confused = sorted(np.argwhere(wrong).tolist(), key=lambda pair: -wrong[tuple(pair)])[:CONFUSED_PAIRS]
    rows = [
        {
            "true": gallery.classes[true],
            "said": gallery.classes[said],
            "images": number(int(wrong[true, said]), "d"),
            "of the class": number(float(shares[true, said]), ".1%"),
        }
        for true, said in most_confused
    ]
    reading = (
        f"Row: true class, column: what the probe said, in % of the row; a good encoder fills the diagonal. The probe "
        f"was fitted for this picture on {len(train.labels):,} labelled training images, spread evenly, and tested on "
        f"{len(test.labels):,} test images: {(predicted == test.labels).mean():.1%} correct. The table of accuracies "
        "has the probe on all of them."
    )
    return {
        "chart": Chart("Where the linear probe errs", _matrix(shares, gallery.classes), reading),
        "pairs": HtmlTable(rows, caption="Most frequent confusions"),
    }


def _matrix(shares: npt.NDArray[np.float64], classes: tuple[str, ...]) -> str:
    """The darker, the larger the share; with its percentages where they have room."""
    count = len(classes)
    with canvas(height_in=4.4) as (figure, (axes,)):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=2, interpolation="none", aspect="auto")
        if count <= 30:
            names = [shortened(name) for name in classes]
            axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(count), names)
        if count <= 12:
            for row, column in np.argwhere(shares >= 0.005):
                axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=9)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(False)
        return svg_of(figure)
