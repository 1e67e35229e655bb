"""The process that takes steps: ``python -m benchmarks.gpu.items SETTINGS STEP...``, a line of JSON for each event.

A step is a function of ``ITEMS`` and its arguments, ``speed:captured:1024``. What it returns is what was found; its
``ok`` decides whether it passed. After a failed step the process ends where the GPU no longer answers: another one
takes the steps that are left.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import NeedsGpu, Settings

Found = dict[str, Any]
ABSENT = 5  # The code of what ends for want of a package.
LINES = 12


def items() -> dict[str, Callable[..., Found]]:
    """Every step by name; imported here, so that a fault of an import is a step's and not the process's."""
    from benchmarks.gpu import learn, measure, smoke

    return {
        "machine": measure.machine,
        "images": learn.images,
        "operations": measure.operations,
        "warm": measure.warm,
        "against_cpu": smoke.against_cpu,
        "captured": smoke.captured,
        "resume": smoke.resume,
        "ceilings": measure.ceilings,
        "speed": measure.speed,
        "no_waits": measure.no_waits,
        "kernels": measure.kernels,
        "lightly": measure.lightlys_loop,
        "learn": learn.learn,
        "encoder": learn.encoder,
        "probe": learn.probe,
    }


class Channel:
    """Lines of JSON on what was the standard output; what libraries print goes to the log."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: str, **more: Any) -> None:
        """One event."""
        self._pipe.write(json.dumps({"event": event, **more}, default=str) + "\n")


def main() -> int:
    """Take the steps; 1 where the GPU is broken after one."""
    channel, settings = Channel(), Settings.read(Path(sys.argv[1]))
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    for step in sys.argv[2:]:
        channel.say("begin", step=step)
        state, found = take(step, settings, lambda found: channel.say("tell", found=found))
        channel.say("end", state=state, found=found)
        if state == "failed" and not _gpu_answers():
            return 1
    return 0


def take(step: str, settings: Settings, tell: Callable[[Found], None]) -> tuple[str, Found]:
    """How a step ends, and what it finds; a fault's last lines where it fails."""
    name, *arguments = step.split(":")
    try:
        function = items()[name]
        found = function(settings, *arguments, tell) if name == "learn" else function(settings, *arguments)
        state = found.pop("state", "passed") if found.pop("ok", True) else "failed"
        rehearsed = found.pop("rehearsed", False)
    except NeedsGpu:
        return "needs a GPU", {}
    except SystemExit as left:
        return ("not installed", {}) if left.code == ABSENT else ("failed", {"told": [str(left.code)]})
    except Exception:  # noqa: BLE001 - whatever it is, it is told.
        print(traceback.format_exc(), file=sys.stderr)
        lines = traceback.format_exc().strip().splitlines()
        return "failed", {"told": [line[:400] for line in lines[-LINES:]]}
    return ("rehearsed" if state == "passed" and rehearsed else state), found


def _gpu_answers() -> bool:
    """Whether the GPU still computes: after some faults nothing of the same process does."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        return bool(torch.ones(2, device="cuda").sum().item() == 2)
    except RuntimeError:
        return False


def _end_with_the_parent(parent: int) -> None:
    """A killed parent kills no child: this one looks, and ends its whole group."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
