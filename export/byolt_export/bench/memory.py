"""Peak memory of a function from images to outputs, measured in a process of its own."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from byolt_export.arrays import Function, Images
from byolt_export.runtime.timing import filled

MEMORY_IS = "peak resident memory of a fresh process that opens it and runs the batch; memory of a GPU is not counted"


def peak_memory_mib(open_run: Callable[[], Function], images: Images, batches: Sequence[int]) -> list[float | None]:
    """See ``MEMORY_IS``: one value per batch size; ``None`` where the system does not say, or that process fails.

    ``open_run`` goes to the other process and must be picklable; batches run from the smallest to the largest there,
    since a peak never falls.
    """
    ascending = sorted(batches)
    try:
        task = pickle.dumps((open_run, images, ascending))
    except (pickle.PicklingError, AttributeError, TypeError):  # A function within a function, for one.
        return [None] * len(batches)
    # Not `multiprocessing`, which would run the caller's own script again in the new process.
    program = f"from {__name__} import _measure; _measure()"
    places = os.pathsep.join(place or os.curdir for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=task,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": places},
        check=False,
    )
    if done.returncode != 0:
        return [None] * len(batches)
    peaks = dict(zip(ascending, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return [peaks[batch] for batch in batches]


def _measure() -> None:
    """What the other process does: peaks in MiB as JSON, the last line of its output."""
    open_run, images, batches = pickle.load(sys.stdin.buffer)  # Of the process that started this one.
    run, peaks = open_run(), []
    for batch in batches:
        run(filled(images, batch))
        peaks.append(_peak_mib())
    sys.stdout.write(f"\n{json.dumps(peaks)}\n")


def _peak_mib() -> float | None:
    """Peak resident memory of this process. Not ``getrusage``, whose peak a process inherits from its parent."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
