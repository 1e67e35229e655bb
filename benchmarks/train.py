"""Training throughput of the BYOL step, byolt beside its peers, in one run.

Every candidate gets the same two views in memory, encoder, heads (4096 / 256) and SGD, and is set up as its own
example does it. Each lives in a process of its own; the processes take single steps in turn, so that all see the same
noise, after one step each as warm-up. Images are counted once a step. Needs lightly and byol-pytorch (``pip install
lightly byol-pytorch``); what is not installed is left out and said so.

solo-learn is a folder, version 1.0.2 unpacked (``pip download solo-learn --no-deps``), with lightning-bolts, einops and
``setuptools<81`` beside it. Its BYOL runs its own training step, loss, optimizer and momentum updater, channels-last,
on the encoder of the others. Left out, as for lightly: Lightning's Trainer and its logging.

    python benchmarks/train.py --image-size 32 --batch-size 256 --rounds 5
    python benchmarks/train.py --candidates byolt,solo-learn --solo solo-learn-1.0.2
    python benchmarks/train.py --candidates byolt,byolt-bf16,lightly    # on a CPU with units for bf16
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from byolt import __version__
from byolt.environment import environment, package_version

FP32 = ("byolt", "plain", "lightly", "byol-pytorch", "solo-learn")
CANDIDATES = (*FP32, "byolt-bf16")
OURS = ("byolt", "byolt-bf16", "plain")
HIDDEN, OUT, TAU = 4096, 256, 0.99


def main() -> None:
    """Parse, run the rounds, print the table; with ``--worker`` be one candidate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--candidates", default=",".join(FP32), help="Names with commas between them.")
    parser.add_argument("--solo", default="", help="The folder that holds solo-learn's package `solo`.")
    parser.add_argument("--worker", choices=CANDIDATES)
    arguments = parser.parse_args()
    if arguments.solo:
        sys.path.append(arguments.solo)
    if arguments.worker:
        work(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Interleave single steps of all candidates and print medians and ratios."""
    import torch

    asked = arguments.candidates.split(",")
    if unknown := set(asked) - set(CANDIDATES):
        sys.exit(f"--candidates: {', '.join(sorted(unknown))} is none of {', '.join(CANDIDATES)}")
    present = [name for name in asked if name in OURS or package_version(name)]
    print(f"{environment()['processor']}, {arguments.threads} threads, torch {torch.__version__}", end=", ")
    print(f"{arguments.rounds} rounds")
    for name in asked:
        if name not in present:
            print(f"{name}: not installed, left out")
    options = [f"--{key.replace('_', '-')}={value}" for key, value in vars(arguments).items() if key != "worker"]
    workers = {name: Worker(name, options) for name in present}
    for worker in workers.values():
        worker.step()  # Warm-up: allocations, algorithm choices.
    rounds = [{name: worker.step() for name, worker in workers.items()} for _ in range(arguments.rounds)]
    print(f"\nResNet-18, {arguments.image_size} px, batch {arguments.batch_size}\n")
    print_table(rounds, present, arguments.batch_size)


def print_table(rounds: list[dict[str, dict[str, float]]], present: list[str], batch_size: int) -> None:
    """A row a candidate; ratios are to byolt, or to the first where byolt is not asked for."""
    versions = {"byolt": __version__, "byolt-bf16": __version__, "plain": "loop"}
    base = "byolt" if "byolt" in present else present[0]
    print(f"| candidate | images/s, median | min to max | {base} faster, median of rounds ", end="")
    print("| CPU s a step | minor page faults a step | peak RSS MB |")
    print("|---|---|---|---|---|---|---|")
    for name in present:
        speeds = [batch_size / step[name]["wall_s"] for step in rounds]
        ratio = statistics.median(step[name]["wall_s"] / step[base]["wall_s"] for step in rounds)
        cpu_s, faults = (statistics.median(step[name][key] for step in rounds) for key in ("cpu_s", "faults"))
        print(
            f"| {name} {versions.get(name) or package_version(name)} | {statistics.median(speeds):.1f} "
            f"| {min(speeds):.1f} to {max(speeds):.1f} | {ratio:.2f} x | {cpu_s:.1f} | {faults:,.0f} "
            f"| {rounds[-1][name]['rss_mb']:.0f} |"
        )


class Worker:
    """A candidate in a process of its own, stepped over pipes."""

    def __init__(self, name: str, options: list[str]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, f"--worker={name}", *options]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, float]:
        """Seconds of wall and CPU and minor page faults of one step, and the process's peak resident size."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended; what it said is above, and --candidates can leave it out")
        measured: dict[str, float] = json.loads(line)
        return measured


def work(arguments: argparse.Namespace) -> None:
    """Answer each line of stdin with the cost of one step."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (2, arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    view_1, view_2 = torch.randn(shape)
    build: Callable[..., Callable[[], None]] = globals()[f"{arguments.worker.replace('-', '_')}_step"]
    step = build(view_1, view_2)
    for _ in sys.stdin:
        wall_s, cpu_s, before = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
        step()
        cost = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
        after = resource.getrusage(resource.RUSAGE_SELF)
        cost |= {"faults": after.ru_minflt - before.ru_minflt, "rss_mb": after.ru_maxrss / 1024}
        print(json.dumps(cost), flush=True)


def encoder(image_size_px: int):  # torch is imported in workers alone.
    """Torchvision's ResNet-18 without classifier, with the small stem up to 64 px."""
    from torch import nn
    from torchvision.models import resnet18

    net = resnet18()
    net.fc = nn.Identity()
    if image_size_px <= 64:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def byolt_step(view_1, view_2, precision="fp32"):
    """byolt's learner, as ``byolt pretrain`` sets it up."""
    import torch

    from byolt.recipe.schema import Recipe
    from byolt.training.prepare import configure_torch
    from byolt.training.step import Learner

    size_px = view_1.shape[-1]
    head = {"hidden_dim": HIDDEN, "out_dim": OUT}
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "data": {"name": "synthetic", "image_size_px": size_px},
            "model": {"stem": "small" if size_px <= 64 else "plain", "projector": head, "predictor": head},
            "method": {"tau_base": TAU, "tau_schedule": "constant"},
            "optim": {"name": "sgd", "batch_size": len(view_1), "base_lr": 0.06},
            "schedule": {"epochs": 1, "warmup_epochs": 0},
            "machine": {"threads": torch.get_num_threads(), "precision": precision},
        }
    )
    configure_torch(recipe)
    learner = Learner(recipe, torch.device("cpu"), steps=1000, steps_per_epoch=1000)
    view_1, view_2 = (view.contiguous(memory_format=torch.channels_last) for view in (view_1, view_2))
    return lambda: learner.step(1, view_1, view_2)


def byolt_bf16_step(view_1, view_2):
    """The same with forward and backward in bf16."""
    return byolt_step(view_1, view_2, precision="bf16")


def plain_step(view_1, view_2):
    """A hand-written loop, channels-last, foreach target update, glibc told to keep freed memory."""
    import copy
    import ctypes

    import torch
    from torch import nn
    from torch.nn.functional import cosine_similarity

    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD

    def mlp(in_dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(in_dim, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(True), nn.Linear(HIDDEN, OUT))

    online = nn.Sequential(encoder(view_1.shape[-1]), mlp(512)).to(memory_format=torch.channels_last)
    target, predictor = copy.deepcopy(online).requires_grad_(False), mlp(OUT)
    optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.06, momentum=0.9, foreach=True)
    view_1, view_2 = (view.contiguous(memory_format=torch.channels_last) for view in (view_1, view_2))

    def step() -> None:
        with torch.no_grad():
            z_1, z_2 = target(view_1), target(view_2)
        q_1, q_2 = predictor(online(view_1)), predictor(online(view_2))
        loss = -2 * (cosine_similarity(q_1, z_2).mean() + cosine_similarity(q_2, z_1).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - TAU)

    return step


def lightly_step(view_1, view_2):
    """lightly's building blocks in the order of its BYOL example."""
    import copy

    import torch
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    backbone, projection = encoder(view_1.shape[-1]), BYOLProjectionHead(512, HIDDEN, OUT)
    prediction = BYOLPredictionHead(OUT, HIDDEN, OUT)
    backbone_momentum, projection_momentum = copy.deepcopy(backbone), copy.deepcopy(projection)
    deactivate_requires_grad(backbone_momentum)
    deactivate_requires_grad(projection_momentum)
    criterion = NegativeCosineSimilarity()
    learned = [*backbone.parameters(), *projection.parameters(), *prediction.parameters()]
    optimizer = torch.optim.SGD(learned, lr=0.06)

    def online(view: torch.Tensor) -> torch.Tensor:
        return prediction(projection(backbone(view).flatten(start_dim=1)))

    def momentum(view: torch.Tensor) -> torch.Tensor:
        return projection_momentum(backbone_momentum(view).flatten(start_dim=1)).detach()

    def step() -> None:
        update_momentum(backbone, backbone_momentum, m=TAU)
        update_momentum(projection, projection_momentum, m=TAU)
        p_1, z_1, p_2, z_2 = online(view_1), momentum(view_1), online(view_2), momentum(view_2)
        loss = 0.5 * (criterion(p_1, z_2) + criterion(p_2, z_1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def byol_pytorch_step(view_1, view_2):
    """byol-pytorch's class, with its non-BYOL default (simplicial embeddings) off and the views given."""
    import torch
    from byol_pytorch import BYOL

    learner = BYOL(
        encoder(view_1.shape[-1]),
        image_size=view_1.shape[-1],
        hidden_layer="avgpool",
        projection_size=OUT,
        projection_hidden_size=HIDDEN,
        moving_average_decay=TAU,
        use_simplicial_embeddings=False,
        augment_fn=lambda images: view_1[: len(images)],
        augment_fn2=lambda images: view_2[: len(images)],
    )
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.06)

    def step() -> None:
        loss = learner(view_1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.update_moving_average()

    return step


def solo_learn_step(view_1, view_2):
    """solo-learn's BYOL class in the order in which Lightning's Trainer calls it."""
    import copy

    import torch
    from solo.methods.byol import BYOL

    networks = {"encoder": "resnet18", "backbone_args": {}, "num_classes": 10}
    heads = {"proj_output_dim": OUT, "proj_hidden_dim": HIDDEN, "pred_hidden_dim": HIDDEN}
    target = {"base_tau_momentum": TAU, "final_tau_momentum": 1.0, "momentum_classifier": False}
    rates = {"lr": 0.06, "classifier_lr": 0.06, "min_lr": 0.0, "warmup_start_lr": 0.0, "warmup_epochs": 0}
    sgd = {"optimizer": "sgd", "extra_optimizer_args": {"momentum": 0.9}, "weight_decay": 0.0, "scheduler": "none"}
    no_lars = {"lars": False, "exclude_bias_n_norm": False}
    length = {"max_epochs": 1, "batch_size": len(view_1), "accumulate_grad_batches": 1}
    crops = {"num_large_crops": 2, "num_small_crops": 0}
    learner = BYOL(**networks, **heads, **target, **rates, **sgd, **no_lars, **length, **crops)
    learner.encoder = encoder(view_1.shape[-1])
    learner.momentum_encoder = copy.deepcopy(learner.encoder).requires_grad_(False)
    learner.to(memory_format=torch.channels_last)
    learner.log_dict = lambda *_, **__: None  # The Trainer's.
    optimizer = learner.configure_optimizers()
    views = [view.contiguous(memory_format=torch.channels_last) for view in (view_1, view_2)]
    batch = (torch.arange(len(view_1)), views, torch.zeros(len(view_1), dtype=torch.long))

    def step() -> None:
        loss = learner.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for pair in learner.momentum_pairs:
            learner.momentum_updater.update(*pair)

    return step


if __name__ == "__main__":
    main()
