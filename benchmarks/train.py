"""Training throughput of the BYOL step, byolt beside its peers, in one run.

Every candidate gets the same two views in memory, encoder, heads (4096 / 256) and SGD, and is set up as its own
example does it. Each lives in a process of its own; the processes take single steps in turn, so that all see the same
noise. Images are counted once a step. Needs lightly and byol-pytorch (``pip install lightly byol-pytorch``);
what is not installed is left out and said so.

    python benchmarks/train.py --image-size 32 --batch-size 256 --rounds 5
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata

CANDIDATES = ("byolt", "plain", "lightly", "byol-pytorch")
PACKAGES = {"lightly": "lightly", "byol-pytorch": "byol-pytorch"}
HIDDEN, OUT, TAU = 4096, 256, 0.99


def main() -> None:
    """Parse, run the rounds, print the table; with ``--worker`` be one candidate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=CANDIDATES)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Interleave single steps of all candidates and print medians and ratios."""
    import torch

    present = [name for name in CANDIDATES if name not in PACKAGES or installed(PACKAGES[name])]
    print(f"{processor()}, {arguments.threads} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    for name in set(CANDIDATES) - set(present):
        print(f"{name}: not installed, left out")
    options = [f"--{key.replace('_', '-')}={value}" for key, value in vars(arguments).items() if key != "worker"]
    workers = {name: Worker(name, options) for name in present}
    for worker in workers.values():
        worker.step()  # Warm-up: allocations, algorithm choices.
    rounds = [{name: worker.step() for name, worker in workers.items()} for _ in range(arguments.rounds)]
    print(f"\nResNet-18, {arguments.image_size} px, batch {arguments.batch_size}\n")
    print("| candidate | images/s, median | min to max | byolt faster, median of rounds | CPU s a step | peak RSS MB |")
    print("|---|---|---|---|---|---|")
    for name in present:
        speeds = [arguments.batch_size / step[name]["wall_s"] for step in rounds]
        ratio = statistics.median(step[name]["wall_s"] / step["byolt"]["wall_s"] for step in rounds)
        cpu_s = statistics.median(step[name]["cpu_s"] for step in rounds)
        print(
            f"| {name} {version(name)} | {statistics.median(speeds):.1f} | {min(speeds):.1f} to {max(speeds):.1f} "
            f"| {ratio:.2f} x | {cpu_s:.1f} | {rounds[-1][name]['rss_mb']:.0f} |"
        )


class Worker:
    """A candidate in a process of its own, stepped over pipes."""

    def __init__(self, name: str, options: list[str]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, f"--worker={name}", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, float]:
        """Seconds of wall and CPU of one step, and the process's peak resident size."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        measured: dict[str, float] = json.loads(self.process.stdout.readline())
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
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        step()
        cost = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
        cost["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
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


def byolt_step(view_1, view_2):
    """byolt's learner, as ``byolt pretrain`` sets it up."""
    import torch

    from byolt.schema import Recipe
    from byolt.training.learner import Learner
    from byolt.training.loop import configure_torch

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
            "machine": {"threads": torch.get_num_threads()},
        }
    )
    configure_torch(recipe)
    learner = Learner(recipe, torch.device("cpu"), steps=1000, steps_per_epoch=1000)
    view_1, view_2 = (view.contiguous(memory_format=torch.channels_last) for view in (view_1, view_2))
    return lambda: learner.step(1, view_1, view_2)


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


def installed(package: str) -> bool:
    """Whether a distribution is here."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def version(name: str) -> str:
    """Version of a candidate's distribution, or nothing for the plain loop."""
    return "" if name == "plain" else metadata.version(PACKAGES.get(name, name))


def processor() -> str:
    """The processor's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
        )


if __name__ == "__main__":
    main()
