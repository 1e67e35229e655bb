"""What only a GPU shows of learning, in one call of ten minutes: how fast, where the time goes, and what is learned.

    python benchmarks/gpu/cifar10_speedrun.py --data data/cifar10-jpeg --out OUT
    python benchmarks/gpu/cifar10_speedrun.py --data DIR --wheels DIR --out OUT     # wheels of packages missing here

The folder of `--data` holds train/CLASS/*.jpg (or .png) and test/CLASS/*.jpg, or torchvision's files of CIFAR-10.
Nothing is fetched, and byolt need not be installed. Steps:

- the machine, and how fast it multiplies matrices;
- byolt's step with the paper's views whole: images/s, and the share of that peak which the networks' operations make;
- where a step's time goes, and how often it makes the host wait;
- lightly's own loop beside it, where lightly is installed;
- `recipes/cifar10-gpu.yaml` for as many epochs as fit into the minutes left, up to 200, with kNN on the way;
- the encoder in fp16, in parts that are easily carried, and its evaluation if there is time.

A step that fails is noted and the next is taken. OUT gets one JSON file a step, the run's own files, the parts and
`summary.md`. On a CPU the metrics that need a GPU are absent. `--tiny` shrinks every size, to see that all of it runs.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from steps import Steps

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = CHECKOUT / "recipes" / "cifar10-gpu.yaml"
READINGS = Path(__file__).with_name("readings.py")
KEPT_S, HEADROOM = 40.0, 0.85
"""Seconds kept for what follows learning; share of the others that its steps may take, beside its evaluations."""
PAPERS_VIEWS = ("views.view_1.blur=1.0", "views.view_2.blur=0.1")
TINY = (
    *("model.backbone=timm/resnet18", "model.args={layers: [1, 1, 1, 1], channels: [16, 16, 16, 16]}"),
    *("model.projector={hidden_dim: 16, out_dim: 8}", "model.predictor={hidden_dim: 16, out_dim: 8}"),
    *("optim.batch_size=16", "schedule.epochs=2", "schedule.warmup_epochs=0", "machine.threads=1"),
    *("evaluation.every_epochs=1", "evaluation.probe_images=64", "evaluation.knn_k=5", "machine.log_every_steps=1"),
)
OF_RUN = ("metrics.jsonl", "recipe.resolved.yaml", "environment.json", "result.json", "train.log", "evaluation")


def main() -> int:
    """Take the steps; 0 when none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of CIFAR-10's images.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for what was found.")
    parser.add_argument("--wheels", type=Path, help="Folder of wheels to take packages from that are missing here.")
    parser.add_argument("--minutes", type=float, default=10.0, help="Of all steps together.")
    parser.add_argument("--epochs", type=int, default=200, help="Most epochs.")
    parser.add_argument("--matrix", type=int, default=8192, help="Side of the matrices whose product is the peak.")
    parser.add_argument("--steps", type=int, default=200, help="Timed steps of a reading.")
    parser.add_argument("--lightly-seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Of lightly's DataLoader.")
    parser.add_argument("--part-mb", type=float, default=15.0, help="Largest part of the encoder's file.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="A key of the recipe.")
    parser.add_argument("--tiny", action="store_true", help="A small encoder and two epochs.")
    arguments = parser.parse_args()
    steps = Steps(arguments.out, arguments.minutes)
    with tempfile.TemporaryDirectory() as folder:
        find_packages(arguments.wheels, Path(folder) / "packages")
        places = (f"data.cache_dir={folder}/cache", f"machine.runs_dir={folder}/runs")
        keys = (*data_keys(arguments.data), *places, *(TINY if arguments.tiny else ()), *arguments.set)
        found = take_readings(steps, arguments, keys)
        run = learn(steps, arguments, keys, found)
        if run is not None:
            keep(steps, arguments, run)
    return steps.end(figures_table(found), learned_table(arguments.out / "run" / "metrics.jsonl"))


def find_packages(wheels: Path | None, into: Path) -> None:
    """Let this process's children find byolt in this checkout, and in ``wheels`` what is not installed here."""
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        with zipfile.ZipFile(wheel) as archive:  # A zip of what belongs beside the other packages.
            archive.extractall(into)
    places = (CHECKOUT / "toolchain", CHECKOUT / "export", *sys.path[1:], into)
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, places))


def data_keys(folder: Path) -> tuple[str, ...]:
    """Keys of the recipe for the images in ``folder``: sub-folders train and test, or torchvision's files."""
    folder = folder.resolve()
    if (folder / "train").is_dir():
        return ("data.name=folder", f"data.root={folder / 'train'}", f"data.test_root={folder / 'test'}")
    if any(folder.glob("cifar-10-*")):
        return ("data.name=cifar10", f"data.root={folder}")
    sys.exit(f"--data: {folder} holds neither train/ and test/ nor cifar-10-batches-py or its archive")


def sets(keys: tuple[str, ...]) -> list[str]:
    """Keys as words of a command."""
    return [word for key in keys for word in ("--set", key)]


def take_readings(steps: Steps, arguments: argparse.Namespace, keys: tuple[str, ...]) -> dict[str, Any]:
    """What was found of the machine and of single steps, by name; what was not found is left out."""
    of_step = [RECIPE, *sets((*keys, *PAPERS_VIEWS))]
    timed, counted = ("--steps", arguments.steps), ("--steps", max(1, arguments.steps // 10))
    looped = ("--seconds", arguments.lightly_seconds, "--workers", arguments.workers)
    tenth_s = 60 * arguments.minutes / 10  # One that hangs leaves time for the others.
    in_two = {"limit_s": 2 * tenth_s}
    found = {
        "doctor": steps.byolt("doctor", "doctor", limit_s=tenth_s),
        "peak": steps.take("peak", READINGS, "peak", "--size", arguments.matrix, limit_s=tenth_s),
        "speed": steps.take("speed", READINGS, "speed", *of_step, *timed, **in_two),
        "profile": steps.byolt("profile", "pretrain", *of_step, "--profile", **in_two),
        "waits": steps.take("waits", READINGS, "waits", *of_step, *counted, **in_two),
        "lightly": steps.take("lightly", READINGS, "lightly", *of_step, *looped, **in_two),
    }
    return {name: metrics for name, metrics in found.items() if metrics}


def learn(steps: Steps, arguments: argparse.Namespace, keys: tuple[str, ...], found: dict[str, Any]) -> Path | None:
    """The real command for as many epochs as fit; the run's folder, or None."""
    rate = found.get("speed") or found.get("profile")
    if rate is None:
        steps.note("pretrain", 1, 0.0, "left out: without a speed nobody knows how many epochs fit")
        return None
    free_s = HEADROOM * (steps.left_s() - KEPT_S)
    epochs = min(arguments.epochs, int(free_s * rate["images_per_s"] / rate["images"]))
    if arguments.tiny:
        epochs = min(epochs, 2)
    if epochs < 1:
        steps.note("pretrain", 1, 0.0, f"left out: not one epoch fits into {free_s:.0f} s")
        return None
    warmup = epochs / 20  # As 10 of 200.
    schedule = (f"schedule.epochs={epochs}", f"schedule.warmup_epochs={warmup:g}")
    learned = steps.byolt(
        "pretrain", "pretrain", RECIPE, *sets((*keys, *schedule)), limit_s=max(1.0, steps.left_s() - KEPT_S)
    )
    return Path(learned["run"]) if learned else None


def keep(steps: Steps, arguments: argparse.Namespace, run: Path) -> None:
    """The encoder in parts and the run's evaluation, and the files that tell what was learned."""
    to = ("--out", arguments.out, "--part-mb", arguments.part_mb)
    steps.take("parts", READINGS, "parts", run, *to)
    steps.byolt("evaluate", "evaluate", run)
    for name in OF_RUN:
        path, beside = run / name, arguments.out / "run" / name
        beside.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, beside, dirs_exist_ok=True)
        elif path.exists():
            shutil.copyfile(path, beside)


def figures_table(found: dict[str, Any]) -> list[str]:
    """A row a figure; none for one that was not found."""
    peak, speed, lightly = (found.get(name, {}) for name in ("peak", "speed", "lightly"))
    rows: dict[str, str] = {}
    if peak:
        rows["machine"] = f"{peak.get('gpu', peak['processor'])}, torch {peak['packages'].get('torch')}"
        what = f"matrix peak, {peak['dtype']}, {peak['size']} x {peak['size']}"
        rows[what] = f"{peak['tflops']:.4g} TFLOP/s"
    if speed:
        achieved = speed["flops_per_image"] * speed["images_per_s"]
        rows["step, the paper's views included"] = f"{speed['images_per_s']:,.0f} images/s"
        rows["networks' operations"] = f"{speed['flops_per_image'] / 1e9:.4g} GFLOP an image"
        if peak:
            rows["utilisation, of the matrix peak"] = f"{achieved / (peak['tflops'] * 1e12):.1%}"
        rows["peak memory"] = f"{speed['peak_memory_mb']:,.0f} MB"
    for phase, share in found.get("profile", {}).get("shares", {}).items():
        rows[f"time, {phase}"] = f"{share:.1%}"
    for wait, times in found.get("waits", {}).get("waits_per_step", {}).items():
        rows[f"{wait} a step"] = f"{times:.2f}"
    if lightly:
        rows[f"lightly's loop, {lightly['workers']} workers"] = f"{lightly['images_per_s']:,.0f} images/s"
        rows["lightly's step, views in memory"] = f"{lightly['step_alone_images_per_s']:,.0f} images/s"
    if speed and lightly:
        rows["byolt over lightly's loop"] = f"{speed['images_per_s'] / lightly['images_per_s']:.1f} x"
    return ["| figure | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def learned_table(metrics: Path) -> list[str]:
    """A row an evaluation on the way."""
    if not metrics.exists():
        return ["nothing was learned"]
    lines = ["| epoch | kNN, validation | RankMe | seconds | images/s | verdict |", "|---|---|---|---|---|---|"]
    clock: dict[str, Any] = {}
    for record in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
        if "elapsed_s" in record:
            clock = record
        if "rankme" in record:
            knn = f"{record['knn']:.1%}" if "knn" in record else "-"
            cells = (
                record["epoch"],
                knn,
                record["rankme"],
                clock.get("elapsed_s", "-"),
                clock.get("images_per_s", "-"),
            )
            lines.append(f"| {' | '.join(map(str, cells))} | {record['verdict']} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
