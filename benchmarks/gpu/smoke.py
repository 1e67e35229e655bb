"""Is it right? One step on the CPU against the GPU, captured steps against ordinary ones, resume under replay.

Generated images, so that nothing has to be unpacked before; fp32 without TF32 where two devices are compared. Bounds
are relative, and far above rounding and far below what a wrong formula gives.
"""

import io
from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.gpu.settings import Settings
from torch import Tensor, nn

import byolt.views.batched as views
from byolt.data.sampler import Batch
from byolt.training.cuda_graph import Stepper
from byolt.training.loader import batch_stream, make_views
from byolt.training.prepare import Parts, prepare
from byolt.training.step import Learner

CPU = torch.device("cpu")
STEPS, SAVED_AT, THE_STEP = 8, 6, 3
RATES = {"lars": 0.1, "sgd": 0.1, "adamw": 1e-3}
METHODS: dict[str, tuple[str, ...]] = {
    "byol": (),
    "simclr": ("method={name: simclr}",),
    "moco_v2": ("method={name: moco_v2, queue_size: 512, norm_groups: 2}", "optim.name=sgd", "optim.base_lr=0.03"),
    "moco_v3": ("method={name: moco_v3}",),
    "simsiam": ("method={name: simsiam}", "optim.name=sgd", "optim.base_lr=0.03"),
}
# Four steps an epoch, three epochs: a captured step sees more than one.
BATCH, BATCHES, TINY_BATCH = 64, 4, 16
BOUNDS = {"views": 1e-4, "gradients": 2e-2, "weights": 1e-3, "statistics": 1e-3, "loss": 1e-4}


def against_cpu(settings: Settings, optimizer: str) -> dict[str, Any]:
    """One fp32 step with ``optimizer`` from the same weights and images on both: what differs, relative."""
    device = settings.gpu()
    keys = ("machine.device=cpu", "machine.precision=fp32", f"optim.name={optimizer}")
    recipe = settings.recipe(*small(settings), *keys, f"optim.base_lr={RATES[optimizer]}")
    parts = prepare(recipe)
    plain(tf32=False)
    batch = next(batch_stream(parts.sampler, parts.store, recipe, CPU))
    here, there = learner_of(parts, CPU, rates=False), learner_of(parts, device, rates=True)
    each, views._resize_each = views._resize_each, views.resize  # The same arithmetic on both.
    try:
        views_here = make_views(batch, recipe)
        views_there = make_views(batch.to(device), recipe, torch.zeros((), dtype=torch.int64, device=device))
    finally:
        views._resize_each = each
    losses = [here.step(THE_STEP, *views_here).loss, there.step(THE_STEP, *views_there).loss]
    found: dict[str, Any] = {
        "views": max(relative(y, x) for x, y in zip(views_here, views_there, strict=True)),
        "gradients": worst(gradients(there.method), gradients(here.method)),
        "weights": worst(matrices(there.method), matrices(here.method)),
        "statistics": worst(statistics(there.method), statistics(here.method)),
        "loss": relative(losses[1], losses[0]),
    }
    ok = all(found[name] < bound for name, bound in BOUNDS.items())
    return found | {"bounds": BOUNDS, "ok": ok, "rehearsed": device == CPU}


def captured(settings: Settings, method: str) -> dict[str, Any]:
    """Steps of ``method`` by single kernels and as a CUDA graph, from the same weights: losses, and weights after."""
    device = settings.gpu()
    recipe = settings.recipe(*small(settings), f"machine.device={device.type}", *METHODS[method])
    parts = prepare(recipe)
    plain(tf32=True)  # `prepare` lets cuDNN search, and then two runs may take two algorithms.
    losses, learners = [], []
    for graph in (False, True):
        learner = learner_of(parts, device, rates=graph)
        stepper = Stepper(learner, recipe, captured=graph)
        outcomes = [stepper.step(step, batch).loss.clone() for step, batch in batches(parts, device, STEPS)]
        losses.append([float(loss) for loss in outcomes])
        learners.append(learner)
    differs = max(abs(b - a) / max(abs(a), 1e-6) for a, b in zip(*losses, strict=True))
    weights = worst(matrices(learners[1].method), matrices(learners[0].method))
    found = {"steps": STEPS, "loss": differs, "weights": weights, "losses": losses[1]}
    return found | {"ok": differs < 2e-2 and weights < 5e-2, "rehearsed": device == CPU}


def resume(settings: Settings) -> dict[str, Any]:
    """A captured run that goes on from a checkpoint taken after replays, against the one that was never interrupted."""
    device = settings.gpu()
    recipe = settings.recipe(*small(settings), f"machine.device={device.type}")
    parts = prepare(recipe)
    plain(tf32=True)
    whole, kept = learner_of(parts, device, rates=True), io.BytesIO()
    stepper, last = Stepper(whole, recipe, captured=True), SAVED_AT + 5  # Three steps of warm-up, then replays again.
    for step, batch in batches(parts, device, last):
        if step == SAVED_AT:
            torch.save(whole.state(), kept)
        stepper.step(step, batch)
    kept.seek(0)
    resumed = learner_of(parts, device, rates=True)
    resumed.restore(torch.load(kept, map_location="cpu", weights_only=True))
    stepper = Stepper(resumed, recipe, captured=True)
    for step, batch in batches(parts, device, last):
        if step >= SAVED_AT:
            stepper.step(step, batch)
    weights = worst(matrices(resumed.method), matrices(whole.method))
    bound = 1e-2 if device.type == "cuda" else 1e-6
    return {"weights": weights, "bound": bound, "ok": weights < bound, "rehearsed": device == CPU}


def small(settings: Settings) -> tuple[str, ...]:
    """Keys of a run of few and small steps on generated images."""
    batch = TINY_BATCH if settings.tiny else BATCH
    sizes = (f"optim.batch_size={batch}", f"data.synthetic_images={BATCHES * batch}")
    return (*settings.generated(), *sizes, "schedule.epochs=3", "schedule.warmup_epochs=1")


def plain(*, tf32: bool) -> None:
    """Algorithms that do not change from one run to the next, and products of fp32 in fp32 unless ``tf32``."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def learner_of(parts: Parts, device: torch.device, *, rates: bool) -> Learner:
    """A learner of the parts' recipe from its first weights, on ``device``."""
    lengths: dict[str, int] = {"steps": parts.sampler.steps, "steps_per_epoch": parts.sampler.steps_per_epoch}
    return Learner(parts.recipe, device, classes=len(parts.store.classes), device_rates=rates, **lengths)


def batches(parts: Parts, device: torch.device, steps: int) -> Iterator[tuple[int, Batch]]:
    """The first ``steps`` batches, numbered."""
    stream = batch_stream(parts.sampler, parts.store, parts.recipe, device)
    return zip(range(steps), stream, strict=False)


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in float64; infinite where it is no number."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    share = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return share if share == share else float("inf")


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest ``relative`` of tensors side by side."""
    return max(relative(a, b) for a, b in zip(found, expected, strict=True))


def matrices(method: nn.Module) -> list[Tensor]:
    """Kernels and matrices: a bias before a BatchNorm has a gradient of rounding alone."""
    return [weight for weight in method.parameters() if weight.ndim > 1]


def gradients(method: nn.Module) -> list[Tensor]:
    """Of the kernels and matrices that are learned."""
    return [weight.grad for weight in matrices(method) if weight.grad is not None]


def statistics(method: nn.Module) -> list[Tensor]:
    """Running statistics."""
    return [buffer for buffer in method.buffers() if buffer.is_floating_point()]
