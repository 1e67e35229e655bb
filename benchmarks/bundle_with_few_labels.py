"""Is a bundle's file as good with few labels as the PyTorch encoder? Linear probes on the outputs of both.

    python benchmarks/bundle_with_few_labels.py RUN [--precision int8] [--labels 10,50,100] [--draws 20]

For a run whose images are labelled: the same draws of labels, the same l2 (chosen on the PyTorch encoder's outputs by
cross-validation inside other draws), the same test images; a probe is trained on the file's own outputs, as a user of
the device would. Prints the mean over draws of the measure for both, and the difference with the standard deviation of
the paired differences. Writes nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byolt.data import open_splits
from byolt.data.source import Labels
from byolt.evaluation.evaluate import embed_store, evaluation_store, labelled
from byolt.evaluation.features import Images
from byolt.evaluation.few_labels import L2_GRID, choose_l2, draw_of_labels, measure_of, metric_of, scores_of
from byolt.evaluation.linear import fit_path
from byolt.run import Run
from byolt.studies.starts_measure import TUNING_DRAWS
from byolt_export import Encoder


def main() -> None:
    """Print a line for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--labels", default="10,20,50,100,200")
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    run = Run(given.run)
    recipe = run.recipe
    splits = open_splits(recipe.data, recipe.seed)
    assert splits.train is not None
    assert splits.test is not None
    train, test = (labelled(evaluation_store(part, recipe)) for part in (splits.train, splits.test))
    network = run.encoder()
    bundle = Encoder(given.run / "export", precision=given.precision, runtime="cpu", allow_unproven=True)
    features = {
        "PyTorch": [embed_store(network, part.images, recipe) for part in (train, test)],
        bundle.file: [outputs(bundle, part.images) for part in (train, test)],
    }
    measure = measure_of(train.labels)
    for budget in map(int, given.labels.split(",")):
        tuning = [draw_of_labels(train.labels, budget, (recipe.seed, n, 1)) for n in range(TUNING_DRAWS["linear"])]
        l2 = L2_GRID[choose_l2(features["PyTorch"][0], train.labels, tuning, train.classes, measure).number]
        found = {name: [] for name in features}
        for draw in range(given.draws):
            drawn: Labels = draw_of_labels(train.labels, budget, (recipe.seed, draw, 0))
            for name, (of_train, of_test) in features.items():
                (probe,) = fit_path(of_train[drawn], train.labels[drawn], classes=train.classes, l2s=[l2])
                scores = scores_of(probe.logits(of_test), test.labels, measure)
                found[name].append(100 * metric_of(scores, test.labels, measure))
        ours, theirs = (np.array(values) for values in found.values())
        told = f"PyTorch {ours.mean():.2f}, {bundle.file} {theirs.mean():.2f}"
        gap = theirs - ours
        print(f"{budget} labels: {measure} {told}, difference {gap.mean():+.2f} (deviation over draws {gap.std():.2f})")


def outputs(bundle: Encoder, images: Images) -> Tensor:
    """(N, D) of N images, 64 at a time."""
    made = []
    for start in range(0, len(images), 64):
        squares = images.batch(np.arange(start, min(start + 64, len(images))))
        made.append(bundle(np.repeat(squares, 3 // squares.shape[3], axis=3)))
    return torch.from_numpy(np.concatenate(made))


if __name__ == "__main__":
    main()
