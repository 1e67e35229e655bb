"""What several tests share: a recipe small enough for two cores."""

import signal
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from byolt.recipe.schema import Recipe

torch.set_num_threads(1)
# Started in the background of a shell, pytest and whatever it starts would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A machine with a GPU may have its image's packages alone: its own tests are collected there, and these are not.
collect_ignore = (
    []
    if find_spec("albumentations")
    else [f"views/test_{name}.py" for name in ("albumentations_backend", "distributions")]
)


def tiny_recipe(**sections: Any) -> Recipe:
    """A ResNet of 16 channels at 16 px on a few synthetic images; ``sections`` replaces or adds keys a section."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "synthetic", "image_size_px": 16, "synthetic_images": 64},
        "model": {
            "backbone": "timm/resnet18",
            "args": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]},
            "stem": "small",
            "projector": {"hidden_dim": 16, "out_dim": 8},
            "predictor": {"hidden_dim": 16, "out_dim": 8},
        },
        "optim": {"name": "sgd", "batch_size": 16, "base_lr": 0.4, "momentum": 0.0, "weight_decay": 0.0},
        "schedule": {"epochs": 2, "warmup_epochs": 0},
        "evaluation": {"probe_images": 64},
    }
    for section, keys in sections.items():
        tree[section] = tree.get(section, {}) | keys if isinstance(keys, dict) else keys
    return Recipe.model_validate(tree)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is `long` runs where it is asked for by that name alone: `make test-long`."""
    if "long" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _same_draws_every_time() -> None:
    """Weights and images that a test draws without a seed of its own are those of the last time too."""
    torch.manual_seed(0)


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe as it stands."""
    return tiny_recipe()
