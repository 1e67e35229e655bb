"""How quick a step is by threads and by precision: measured in turn, since machines are shared.

``python -m byolt.doctor.step_speeds`` measures a small convolutional step and prints its lines as JSON.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from byolt.cores import usable_cores

ROUNDS, MOST_S = 3, 10.0
_WORTH = 1.1
"""How much quicker another setting has to be to be told: less is this measure's own scatter."""
_STEP = (32, 16, 48)  # Images, channels and side in px of the step that the doctor takes.
S = TypeVar("S")


def default_threads() -> int:
    """Threads of torch where the recipe names none: its own choice, within the cores that this process may use."""
    import torch

    return min(torch.get_num_threads(), usable_cores())


def speeds_in_turn(
    settings: list[S], choose: Callable[[S], object], step: Callable[[], object], images: int
) -> dict[S, float]:
    """Images a second of a step of ``images`` by setting, in the order that they are given.

    Each setting has its turn in each round, so that other work on the machine meets all; the median of the rounds.

    Args:
        settings: What is measured.
        choose: Makes the steps that follow use a setting.
        step: One step.
        images: Of a step.
    """
    spent: dict[S, list[float]] = {setting: [] for setting in settings}
    started_s = time.monotonic()
    for turn in range(ROUNDS + 1):
        for setting, seconds in spent.items():
            choose(setting)
            start_s = time.monotonic()
            step()
            if turn:  # The first starts threads and chooses kernels.
                seconds.append(time.monotonic() - start_s)
        if turn and time.monotonic() - started_s > MOST_S:
            break
    return {setting: images / statistics.median(seconds) for setting, seconds in spent.items()}


def speed_by_threads(step: Callable[[], object], images: int) -> dict[int, float]:
    """Images a second of a step of ``images``, by the number of threads: one, those that torch has now, and all cores.

    Torch's number of threads is as before when it is done.
    """
    import torch

    before = torch.get_num_threads()
    try:
        return speeds_in_turn(sorted({1, before, usable_cores()}), torch.set_num_threads, step, images)
    finally:
        torch.set_num_threads(before)


def quickest(speeds: Mapping[S, float]) -> S:
    """The setting to take: of speeds that are nearly the same the first."""
    best = max(speeds.values(), default=math.nan)
    return next(setting for setting, speed in speeds.items() if speed * _WORTH >= best)


def told(speeds: Mapping[S, float], taken: S, key: str) -> str:
    """``1: 111 images/s, 2: 12 images/s``, and the key to set where another setting than the one taken is quicker."""
    line = ", ".join(f"{setting}: {speed:,.0f} images/s" for setting, speed in speeds.items())
    best = quickest(speeds)
    slower = speeds.get(taken, math.inf) * _WORTH < speeds[best]
    return f"{line}; quicker with --set {key}={best}" if slower else line


def measured_here() -> dict[str, str]:
    """Lines of the doctor's step, measured in a process of its own; none where there is no torch to measure."""
    try:
        line = [sys.executable, "-m", "byolt.doctor.step_speeds"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _measure() -> dict[str, str]:
    import torch
    from torch import nn

    from byolt.device import has_bf16_units

    images, channels, side_px = _STEP
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        *(layer for _ in range(4) for layer in (nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3))),
    )
    batch, bf16 = torch.rand(images, 3, side_px, side_px), False

    def step() -> None:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = network(batch).float().square().mean()
            loss.backward()

    def compute_in(precision: str) -> None:
        nonlocal bf16
        bf16 = precision == "bf16"

    threads = default_threads()
    torch.set_num_threads(threads)
    lines = {"threads": told(speed_by_threads(step, 2 * images), threads, "machine.threads")}
    if has_bf16_units(torch.device("cpu")):
        speeds = speeds_in_turn(["fp32", "bf16"], compute_in, step, 2 * images)
        lines["precision"] = told(speeds, "fp32", "machine.precision")
    return lines


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure()))
