"""What the card multiplies at most, a step's operations, lightly's own loop, and a run's encoder in parts."""

import copy
import hashlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.items import ABSENT
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from byolt.environment import environment
from byolt.methods.build import build_method
from byolt.networks.encoders import build_encoder
from byolt.recipe.schema import Recipe
from byolt.training.prepare import prepare

COUNTED_IMAGES = 4


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finish() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(size: int) -> dict[str, Any]:
    """The machine, and the fastest that it multiplies matrices of ``size``, bf16 on a GPU, median of 20."""
    kind = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    left, right = (torch.randn(size, size, device=device()).to(kind) for _ in range(2))
    took_s = []
    for _ in range(25):
        finish()
        started_s = time.perf_counter()
        left @ right
        finish()
        took_s.append(time.perf_counter() - started_s)
    tflops = 2 * size**3 / statistics.median(took_s[5:]) / 1e12  # The first five choose and load a kernel.
    found = {"device": device().type, "dtype": str(kind).removeprefix("torch."), "size": size, "tflops": tflops}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_memory_gb": gpu.total_memory / 1e9, "cuda": torch.version.cuda}
    return environment() | found


def flops_per_image(recipe: Recipe) -> float:
    """Multiplications and additions of a step by torch's own counter: convolutions and matrices, no view, no optimizer.

    Of the method by itself, not of a learner's: on a CPU that one takes some gradients in another way, and recomputes
    where the recipe says so. Counted there and on a few images: neither changes the number, and no graph hides one.
    """
    method = build_method(recipe)
    views = torch.randn(2, COUNTED_IMAGES, 3, recipe.view_size_px, recipe.view_size_px)
    with FlopCounterMode(display=False) as counter:
        for term in method.terms(*views):
            term.loss.backward()
    return float(counter.get_total_flops() / COUNTED_IMAGES)


def on_cpu(recipe: Recipe) -> Recipe:
    """The same on the CPU, nothing of it on a GPU."""
    plain = {"device": "cpu", "precision": "fp32", "compile": False}
    return recipe.model_copy(update={"machine": recipe.machine.model_copy(update=plain)})


class Pictures(Dataset[Any]):
    """The recipe's images as torchvision's own set gives them: PIL images through a transform."""

    def __init__(self, store: Any, transform: Callable[[Image.Image], Any]) -> None:
        self.store, self.transform = store, transform

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.store[index]))


def lightly(recipe: Recipe, seconds: float, workers: int) -> dict[str, Any]:
    """lightly's BYOL as its example has it, for ``seconds``: its transforms, its modules, DataLoader and SGD.

    Encoder, heads, batch and images are the recipe's. bf16 and channels-last, which its example leaves out, are given
    to it on a GPU; byolt's store, read in place of files, is too. Beside it the same step on views that lie there.

    Raises:
        SystemExit: With code 5: lightly is not installed.
    """
    if importlib.util.find_spec("lightly") is None:
        sys.exit(ABSENT)
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    size_px, batch_size = recipe.view_size_px, recipe.optim.batch_size
    transform = BYOLTransform(  # As its example does for CIFAR-10.
        BYOLView1Transform(input_size=size_px, gaussian_blur=0.0),
        BYOLView2Transform(input_size=size_px, gaussian_blur=0.0),
    )
    pictures = Pictures(prepare(on_cpu(recipe)).store, transform)
    loader = DataLoader(
        pictures,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    step, taken, started_s = lightly_step(recipe), 0, 0.0
    while not started_s or time.perf_counter() - started_s < seconds:
        for views in loader:
            step(*views)
            if not started_s:  # The first step is the warm-up.
                finish()
                started_s = time.perf_counter()
                continue
            taken += 1
            if time.perf_counter() - started_s >= seconds:
                break
    finish()
    looped = taken * batch_size / (time.perf_counter() - started_s)
    alone = timed(lambda: step(*views), 20) / batch_size
    return {"images_per_s": looped, "step_alone_images_per_s": 1 / alone, "workers": workers, "steps": taken}


def lightly_step(recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Its building blocks in the order of its example."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    head, to = recipe.model.projector, {"device": device(), "memory_format": torch.channels_last}
    encoder, width = build_encoder(recipe.model, seed=0, image_size_px=recipe.view_size_px)
    backbone = encoder.to(**to)
    projection = BYOLProjectionHead(width, head.hidden_dim, head.out_dim).to(device())
    prediction = BYOLPredictionHead(head.out_dim, head.hidden_dim, head.out_dim).to(device())
    slow_backbone, slow_projection = copy.deepcopy(backbone), copy.deepcopy(projection)
    deactivate_requires_grad(slow_backbone)
    deactivate_requires_grad(slow_projection)
    criterion = NegativeCosineSimilarity()
    learned = [*backbone.parameters(), *projection.parameters(), *prediction.parameters()]
    optimizer = torch.optim.SGD(learned, lr=0.06)

    def step(view_1: torch.Tensor, view_2: torch.Tensor) -> None:
        update_momentum(backbone, slow_backbone, m=0.99)
        update_momentum(projection, slow_projection, m=0.99)
        views = [view.to(non_blocking=True, **to) for view in (view_1, view_2)]
        with torch.autocast(device().type, torch.bfloat16, enabled=torch.cuda.is_available()):
            p_1, p_2 = (prediction(projection(backbone(view).flatten(start_dim=1))) for view in views)
            z_1, z_2 = (slow_projection(slow_backbone(view).flatten(start_dim=1)).detach() for view in views)
            loss = 0.5 * (criterion(p_1, z_2) + criterion(p_2, z_1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], object], times: int) -> float:
    """Seconds of one of ``times`` calls, the GPU's work included."""
    finish()
    started_s = time.perf_counter()
    for _ in range(times):
        step()
    finish()
    return (time.perf_counter() - started_s) / times


def parts(run: Path, out: Path, largest_bytes: int) -> dict[str, Any]:
    """A run's encoder with its matrices and kernels in fp16, cut into files of at most ``largest_bytes``.

    Biases and statistics stay fp32: they are few, and a variance can leave fp16's range.
    """
    from safetensors.torch import load_file, save

    weights = load_file(run / "encoder.safetensors")
    whole = save({name: value.half() if value.ndim > 1 else value for name, value in weights.items()})
    pieces = [whole[start : start + largest_bytes] for start in range(0, len(whole), largest_bytes)]
    names = [f"encoder.fp16.safetensors.part{number}" for number in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        (out / name).write_bytes(piece)
    joined = f"cat {' '.join(names)} > encoder.fp16.safetensors"
    return {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "parts": names, "join": joined}
