"""How quick a step is with one thread and with all: two are not always quicker than one on a machine that is shared.

``python -m byolt.doctor.threads`` measures a small convolutional step and prints the line as JSON.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from byolt.cores import usable_cores

ROUNDS, MOST_S = 3, 10.0
_WORTH = 1.1
"""How much quicker another number has to be to be told: less is this measure's own scatter."""
_STEP = (32, 16, 48)  # Images, channels and side in px of the step that the doctor takes.


def default_threads() -> int:
    """Threads of torch where the recipe names none: its own choice, within the cores that this process may use."""
    import torch

    return min(torch.get_num_threads(), usable_cores())


def speed_by_threads(step: Callable[[], object], images: int) -> dict[int, float]:
    """Images a second of a step of ``images``, by the number of threads: one, those that torch has now, and all cores.

    Each number has its turn in each round, so that other work on the machine meets both; the median of the rounds.
    Torch's number of threads is as before when it is done.
    """
    import torch

    before = torch.get_num_threads()
    spent: dict[int, list[float]] = {number: [] for number in sorted({1, before, usable_cores()})}
    started_s = time.monotonic()
    try:
        for turn in range(ROUNDS + 1):
            for number, seconds in spent.items():
                torch.set_num_threads(number)
                start_s = time.monotonic()
                step()
                if turn:  # The first starts threads and chooses kernels.
                    seconds.append(time.monotonic() - start_s)
            if turn and time.monotonic() - started_s > MOST_S:
                break
    finally:
        torch.set_num_threads(before)
    return {number: images / statistics.median(seconds) for number, seconds in spent.items()}


def quickest(speeds: Mapping[int, float]) -> int:
    """The number of threads to take: of speeds that are nearly the same the fewest threads."""
    best = max(speeds.values(), default=math.nan)
    return next(number for number, speed in sorted(speeds.items()) if speed * _WORTH >= best)


def told(speeds: Mapping[int, float], taken: int) -> str:
    """``1: 111 images/s, 2: 12 images/s``, and the key to set where another number than the one taken is quicker."""
    line = ", ".join(f"{number}: {speed:,.0f} images/s" for number, speed in sorted(speeds.items()))
    best = quickest(speeds)
    slower = speeds.get(taken, math.inf) * _WORTH < speeds[best]
    return f"{line}; quicker with --set machine.threads={best}" if slower else line


def measured_here() -> str:
    """The line of the doctor's step, measured in a process of its own; empty where there is no torch to measure."""
    try:
        line = [sys.executable, "-m", "byolt.doctor.threads"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
        return str(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def _measure() -> str:
    import torch
    from torch import nn

    images, channels, side_px = _STEP
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        *(layer for _ in range(4) for layer in (nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3))),
    )
    batch = torch.rand(images, 3, side_px, side_px)

    def step() -> None:
        for _ in range(2):
            network(batch).square().mean().backward()

    threads = default_threads()
    torch.set_num_threads(threads)
    return told(speed_by_threads(step, 2 * images), threads)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure()))
