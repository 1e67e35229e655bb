"""What a process of a test's run does: twenty steps of each method on its part of the batches, weights to a file.

torchrun --nproc-per-node=2 -m tests.training.shared_steps OUT [METHOD]...
"""

import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.conftest import tiny_recipe

from byolt.data.sampler import BatchSampler, LabelledImages
from byolt.distributed.process_group import destroy_distributed, init_distributed, is_rank_zero
from byolt.networks.encoders import build_encoder
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
    "byol frozen norms": {},
    "moco v2 frozen norms": {"name": "moco_v2", "queue_size": 64, "norm_groups": 4},
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
    how: dict[str, Any] = {"optim": {"momentum": 0.9, "accumulate": accumulate, "base_lr": 1.0}}
    if name.endswith("frozen norms"):
        narrow |= {"init": "file", "init_file": _initial_file(narrow), "frozen_norms": True}
    return tiny_recipe(model=narrow, method=METHODS[name], **how)


def _initial_file(narrow: dict[str, Any]) -> Path:
    """The encoder's weights with 0.5 for every mean and variance; each process writes its own."""
    encoder, _ = build_encoder(tiny_recipe(model=narrow).model, seed=0, image_size_px=8)
    weights = {name: value.float() for name, value in encoder.state_dict().items()}
    for name, value in weights.items():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(0.5)
    file = Path(mkdtemp(), "initial.safetensors")
    save_file(weights, file)
    return file


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(METHODS))
