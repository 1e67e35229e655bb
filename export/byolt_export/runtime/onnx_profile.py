"""How long ONNX Runtime takes over each node of a model, by its own profile, on one thread of this CPU."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy.typing as npt

from byolt_export.runtime.onnx_runner import open_profiled

CALLS, WARM_UP_CALLS = 25, 5
_KERNEL = "_kernel_time"


def node_times_us(model: bytes, feed: Mapping[str, npt.NDArray[Any]]) -> dict[tuple[str, str], float]:
    """Median microseconds of one call's nodes, by name and operator as ONNX Runtime has them after its own changes.

    Args:
        model: ONNX bytes.
        feed: Inputs by name.

    Raises:
        MissingPart: ONNX Runtime is not installed.
        InputError: The model cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_profiled(model, Path(folder) / "profile")
        for _ in range(WARM_UP_CALLS + CALLS):
            session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            taken[event["name"].removesuffix(_KERNEL), event["args"]["op_name"]].append(event["dur"])
    return {node: median(times[WARM_UP_CALLS:]) for node, times in taken.items()}
