"""What is learned in the time that is left: the images, the run by its recipe, its encoder, and a linear probe."""

import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import measure, readings
from benchmarks.gpu.settings import VARIANTS, Settings, images_folder
from torch import nn

from byolt.data import store_of
from byolt.data.splits import open_splits
from byolt.environment import environment
from byolt.evaluation.features import embed
from byolt.evaluation.knn import knn_predict
from byolt.evaluation.linear import linear_probe
from byolt.networks.encoders import load_snippet, save_weights, untrained_encoder
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.training.checkpoint import load_checkpoint
from byolt.training.logger import LogRecord
from byolt.training.loop import pretrain
from byolt_export.errors import Stopped

TENTHS = 10
HEADROOM, START_S, EVALUATION_S = 0.92, 25.0, 2.0
"""Share of the time that steps may take; seconds until the first step and of an evaluation, beside it."""
TINY_IMAGES = {"train": 32, "test": 8}
"""Images of a class that a tiny run unpacks."""
PART_BYTES = 15_000_000
TELL_EVERY_S = 5.0


def images(settings: Settings) -> dict[str, Any]:
    """Unpack the archive and decode its images into the cache that every later step reads."""
    started_s = time.perf_counter()
    folder = images_folder(settings)
    if not folder.exists():
        unpack(Path(settings.archive), folder, tiny=settings.tiny)
    unpacked_s = time.perf_counter() - started_s
    recipe = settings.recipe(*settings.real(), "machine.device=cpu")
    splits = open_splits(recipe.data, recipe.seed)
    counts = {
        name: len(store_of(source, recipe.data, recipe.data.image_size_px))
        for name, source in (("learn", splits.learn), ("test", splits.test))
        if source is not None
    }
    settings.images_are_ready.touch()
    return {"unpacked_s": unpacked_s, "decoded_s": time.perf_counter() - started_s - unpacked_s, "images": counts}


def unpack(archive: Path, folder: Path, *, tiny: bool) -> None:
    """Unpack into ``folder``, which appears when it is whole; of a tiny run the first images of each class."""
    beside = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as packed:
        members = _few(packed) if tiny else packed
        packed.extractall(beside, members=members, filter="data")
    inner = next((path for path in (beside, *beside.iterdir()) if (path / "train").is_dir()), beside)
    inner.rename(folder)


def _few(packed: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    seen: dict[str, int] = {}
    for member in packed:
        folder = str(Path(member.name).parent)
        part = next((part for part in TINY_IMAGES if part in Path(member.name).parts), "")
        seen[folder] = seen.get(folder, 0) + member.isfile()
        if not member.isfile() or not part or seen[folder] <= TINY_IMAGES[part]:
            yield member


def epochs_that_fit(free_s: float, images_per_s: float, images_count: int, most: int) -> int:
    """Epochs for ``free_s`` seconds, evaluations included: whole tenths from ten on, at least one."""
    steps_s = HEADROOM * (free_s - START_S - TENTHS * EVALUATION_S)
    epochs = max(1, min(most, int(steps_s * images_per_s / images_count)))
    return epochs - epochs % TENTHS if epochs > TENTHS else epochs


def learn(
    settings: Settings,
    variant: str,
    batch: str,
    rate: str,
    epochs: str,
    attempt: str,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Learn for as many epochs as fit until ``settings.learn_until``.

    Args:
        settings: Of the whole.
        variant, batch: How a step is taken; images a step, empty for the recipe's.
        rate: Images/s that were measured; empty where none was, and then it is measured first.
        epochs: Epochs of an attempt before this one, which goes on from its checkpoint; empty for a new one.
        attempt: Its number.
        tell: Given where the run is.
    """
    measured = float(rate) if rate else measure.speed(settings, variant, batch)["images_per_s"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sized = measure.sized(batch)
    first = settings.recipe(*settings.real(), *sized)
    count = len(open_splits(first.data, first.seed).learn)
    free_s = settings.learn_until - time.monotonic()
    fit = int(epochs) if epochs else epochs_that_fit(free_s, measured, count, settings.epochs)
    schedule = [f"schedule.epochs={fit}", f"evaluation.every_epochs={max(1, fit // TENTHS)}"]
    if not settings.tiny:
        schedule.append(f"schedule.warmup_epochs={fit / 20:g}")  # As 10 of 200.
    recipe = settings.recipe(*settings.real(), *sized, *schedule, *VARIANTS[variant], measure.on(device))
    shape = {
        "attempt": int(attempt),
        "variant": variant,
        "batch_size": recipe.optim.batch_size,
        "epochs": fit,
        "planned_images_per_s": measured,
    }
    tell(shape | {"commit": environment()["commit"]})
    try:
        run = pretrain(recipe, resume="auto", on_log=_Teller(tell, recipe))
    except Stopped as stopped:
        return shape | {"stopped": str(stopped).partition(";")[0], "state": "stopped by the clock"}
    return shape | {"result": run.result}


class _Teller:
    """Tells of each evaluation, and every few seconds where the run is."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], recipe: Recipe) -> None:
        self.tell, self.recipe, self.told_s = tell, recipe, 0.0

    def __call__(self, record: LogRecord) -> None:
        where = {"step": record.step, "steps": record.steps, "epoch": record.epoch, "epochs": record.epochs}
        evaluated = {name: record.metrics[name] for name in ("knn", "rankme", "verdict") if name in record.metrics}
        if evaluated:
            self.tell({"evaluation": where | evaluated})
        elif time.monotonic() - self.told_s > TELL_EVERY_S:
            self.told_s = time.monotonic()
            self.tell({"progress": where | {"images_per_s": record.images_per_s, "loss": record.metrics["loss"]}})


def run_of_learning(settings: Settings) -> Run:
    """The run that was begun last.

    Raises:
        FileNotFoundError: There is none.
    """
    begun = list((settings.place / "runs").glob("*/checkpoints/last.pt"))
    if not begun:
        raise FileNotFoundError("no run has a checkpoint")
    return Run(max(begun, key=lambda path: path.stat().st_mtime).parents[1])


def learned_encoder(run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """A run's encoder, in eval mode on the CPU, and of which step: the last checkpoint's where it has not ended."""
    if run.encoder_file.exists():
        result = run.result or {}
        return run.encoder(), {"step": result.get("step"), "from": "the finished run"}
    state = load_checkpoint(run.checkpoints)
    encoder = untrained_encoder(run.recipe)
    own = "encoder."
    encoder.load_state_dict({k.removeprefix(own): v for k, v in state["method"].items() if k.startswith(own)})
    return encoder.eval(), {"step": state["step"], "from": "a checkpoint, whose BatchNorm has moving averages"}


def encoder(settings: Settings, number: str) -> dict[str, Any]:
    """The encoder of the run in fp16, in parts that are easily carried; ``number`` tells apart how often it is kept."""
    run = run_of_learning(settings)
    module, of = learned_encoder(run)
    folder = settings.place / "encoders" / number
    folder.mkdir(parents=True)
    save_weights(module, folder / "encoder.safetensors", {"load": load_snippet(run.recipe.model)})
    return of | readings.parts(folder, folder, PART_BYTES) | {"folder": str(folder), "run": str(run.path)}


def probe(settings: Settings) -> dict[str, Any]:
    """KNN and linear probe of test images, on frozen features of all training images; on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = run_of_learning(settings)
    recipe = run.recipe
    module, of = learned_encoder(run)
    module = module.to(device)
    splits, data = open_splits(recipe.data, recipe.seed), recipe.data
    assert splits.train is not None
    assert splits.test is not None
    stores = [store_of(source, data, data.image_size_px) for source in (splits.train, splits.test)]
    how: dict[str, Any] = {"mean": data.mean, "std": data.std, "white": data.white, "device": device}
    train, test = (embed(module, store, **how) for store in stores)
    labels, expected = (store.labels for store in stores)
    assert labels is not None
    assert expected is not None
    classes, evaluation = len(stores[0].classes), recipe.evaluation
    neighbours = {"k": min(evaluation.knn_k, len(train)), "temperature": evaluation.knn_temperature}
    knn = float((knn_predict(train, labels, test, classes=classes, **neighbours) == expected).mean())
    found: dict[str, Any] = of | {"knn": knn, "k": neighbours["k"], "images": [len(train), len(test)]}
    started_s = time.perf_counter()
    fitted = linear_probe(
        train.to(device), labels, classes=classes, validation_share=evaluation.validation_share, seed=recipe.seed
    )
    right = float((fitted.predict(test.to(device)) == expected).mean())
    took_s = time.perf_counter() - started_s
    return found | {"linear": right, "l2": fitted.l2, "device": device.type, "linear_s": took_s}
