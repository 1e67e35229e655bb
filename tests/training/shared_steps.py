"""What a process of a test's run does: twenty steps of each method on its part of the batches, weights to a file.

torchrun --nproc-per-node=2 -m tests.training.shared_steps OUT [METHOD]...
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.conftest import tiny_recipe

from byolt.data.sampler import BatchSampler, LabelledImages
from byolt.distributed.process_group import destroy_distributed, init_distributed, is_rank_zero
from byolt.recipe.schema import Recipe
from byolt.training.step import Learner, gathered

STEPS, IMAGES, BATCH, CLASSES = 20, 80, 16, 3
METHODS: dict[str, dict[str, Any]] = {
    "byol": {},
    "byol negatives": {"beta": 0.5},
    "byol batch norm": {"normalisation": "batch"},
    "byol whole copy": {"target": "copy", "stop_gradient": False, "beta": 0.5, "tau_base": 0.9},
    "byol accumulated": {},
    "simclr": {"name": "simclr"},
    "simsiam": {"name": "simsiam"},
    "moco v2": {"name": "moco_v2", "queue_size": 64, "norm_groups": 4},
    "moco v2 unshuffled": {"name": "moco_v2", "queue_size": 64, "norm_groups": 4, "shuffle": False},
    "moco v3": {"name": "moco_v3", "temperature": 0.2},
    "mean teacher": {"name": "mean_teacher", "labelled_share": 0.5, "tau": 0.9, "rampup_share": 0.0},
}


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    init_distributed("cpu")
    for name in names:
        learned = learn(name)
        if is_rank_zero():
            torch.save(learned, out / f"{name}.pt")
    destroy_distributed()
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    assert "pt_gloo_runloop" not in threads  # Alive while the interpreter ends, one may abort the process.


def learn(name: str) -> dict[str, Any]:
    """Weights and statistics, the last step's outcome over the global batch, and the images of each step here."""
    recipe = recipe_of(name)
    learner = Learner(recipe, torch.device("cpu"), steps=STEPS, steps_per_epoch=IMAGES // BATCH, classes=CLASSES)
    labelled = LabelledImages(np.arange(30), np.arange(30) % CLASSES, 6) if name == "mean teacher" else None
    epochs, parts = STEPS * BATCH // IMAGES, recipe.optim.accumulate
    sampler = BatchSampler(IMAGES, BATCH, epochs, seed=3, labelled=labelled, parts=parts)
    view_1, view_2 = torch.randn(2, IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = []
    for step, batch in enumerate(sampler):
        chosen = torch.from_numpy(batch.indices)
        labels = () if batch.labels is None else (torch.from_numpy(batch.labels),)
        outcome = gathered(learner.step(step, view_1[chosen], 2 * view_2[chosen] + 1, *labels))
        seen.append(chosen)
    return {"weights": learner.method.state_dict(), "outcome": (outcome.loss, *outcome.z, outcome.q), "seen": seen}


def recipe_of(name: str) -> Recipe:
    accumulate = 2 if name.endswith("accumulated") else 1
    narrow = {"backbone": "timm/resnetv2_18", "args": {"layers": [1, 1], "channels": [16, 16], "stem_chs": 16}}
    return tiny_recipe(
        model=narrow, method=METHODS[name], optim={"momentum": 0.9, "accumulate": accumulate, "base_lr": 1.0}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(METHODS))
