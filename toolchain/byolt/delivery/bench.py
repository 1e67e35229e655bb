"""Speed of a bundle's files beside the PyTorch model that they were made from."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from byolt.environment import environment
from byolt.preflight import refuse_too_many
from byolt.run import Run, open_run
from byolt_export.arrays import Function, Outputs
from byolt_export.bench.candidates import BenchSetup, accuracy_of, bundle_candidates, choose_batches
from byolt_export.bench.memory import MEMORY_IS
from byolt_export.bench.run import BenchResult, Candidate, pareto_front, time_candidates
from byolt_export.bundle.image_input import Input
from byolt_export.errors import InputError, MissingPart, ParityFault
from byolt_export.proof.gates import GATES, faults
from byolt_export.proof.measures import measure
from byolt_export.runtime.timing import ROUNDS, WARM_UP_CALLS, WARM_UP_S

TORCH = "fp32 in PyTorch"


def bench(
    bundle: str | Path,
    run: Run | str | Path | None = None,
    *,
    batches: Sequence[int] = (),
    threads: int | None = None,
    seconds: float = 1.0,
    compiled: bool = False,
    providers: Sequence[str] = (),
    on_log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Every backend's speed, memory and file size with its accuracy, and how all of it was measured.

    Args:
        bundle: The bundle's folder, which must pass on this machine.
        run: Whose PyTorch model is timed too; left out, the run that the bundle lies in.
        batches: Batch sizes; left out, those of 1, 8 and 32 that the bundle takes.
        threads: CPU threads of one call; left out, each library's own choice.
        seconds: Timed seconds per candidate and batch size.
        compiled: Time the model through ``torch.compile`` too.
        providers: ONNX Runtime's execution providers, and ``OpenVINO``; left out, those that this machine can use.
        on_log: Called with a line on what is being done.

    Raises:
        InputError: The bundle is damaged, a batch does not fit it, or the run is not the one it was made from.
        ParityFault: A file of the bundle does not pass.
    """
    bundle, say = Path(bundle), on_log or (lambda line: None)
    refuse_too_many("--threads", threads or 1, "threads")
    run = _run_of(bundle) if run is None else open_run(run)
    say(f"proving {bundle} on this machine")
    setup = bundle_candidates(bundle, providers=providers, threads=threads)
    sizes = choose_batches(batches, setup.manifest.contract.input.max_batch)
    candidates = setup.candidates
    if run is None:
        say("PyTorch is not timed: the bundle lies in no run's folder; name its run with --run")
    else:
        candidates = [*_torch_candidates(run, setup, compiled=compiled, threads=threads), *candidates]
    rows = time_candidates(candidates, setup.images, sizes, baseline=setup.baseline, seconds=seconds, on_log=say)
    made = environment()
    return {
        "bundle": str(bundle),
        "machine": {key: made[key] for key in ("processor", "cores", "python", "packages", "byolt", "commit")},
        "threads": threads,
        "rounds": ROUNDS,
        "seconds": seconds,
        "warm_up": f"{WARM_UP_CALLS} calls and {WARM_UP_S} s at least, and the first call of each slice",
        "memory": MEMORY_IS,
        "agreement": "top-1" if setup.manifest.contract.output.name == "logits" else "overlap@1",
        "baseline": setup.baseline,
        "rows": [row.to_json() for row in rows],
        "front": front_of(rows),
    }


def _run_of(bundle: Path) -> Run | None:
    """The run that a bundle lies in; ``None`` where it was copied away."""
    folder = bundle.absolute().parent
    return Run(folder) if (folder / "recipe.resolved.yaml").is_file() else None


def front_of(rows: Sequence[BenchResult]) -> list[int]:
    """Which rows no other beats in both images/s and agreement, the slowest first."""
    able = [
        (k, row.images_per_s, row.accuracy.agreement) for k, row in enumerate(rows) if row.images_per_s and row.accuracy
    ]
    return [able[k][0] for k in pareto_front([(speed, agreement) for _, speed, agreement in able])]


def _torch_candidates(run: Run, setup: BenchSetup, *, compiled: bool, threads: int | None) -> list[Candidate]:
    """The run's model on each device that torch finds, each after its outputs were compared with the bundle's own."""
    if find_spec("torch") is None:
        return [Candidate(TORCH, "fp32", _without_torch)]
    import torch

    contract = setup.manifest.contract
    how = (run.path, contract.output.name, contract.input, contract.output.normalized, threads)
    candidates: list[Candidate] = []
    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        for compiles in (False, *((True,) if compiled else ())):
            name, opened = (
                f"{'compiled' if compiles else 'eager'}, {device.upper()}",
                partial(open_torch, *how, device, compiles),
            )
            found = measure(setup.reference, _outputs(opened(), setup), logits=contract.output.name == "logits")
            broken = faults(found, GATES["fp32"])
            if broken and not candidates:
                raise InputError(
                    f"{run.path} is not the run that the bundle was made from ({broken[0]}): give another --run"
                )
            if broken:
                raise ParityFault(
                    f"{run.path} in PyTorch, {name}, does not compute what it does on the CPU: {broken[0]}"
                )
            candidates.append(Candidate(f"{TORCH}, {name}", "fp32", opened, accuracy=accuracy_of(found)))
    return candidates


def open_torch(
    path: Path,
    output: str,
    pixels: Input,
    normalize: bool,
    threads: int | None,
    device: str = "cpu",
    compiled: bool = False,
) -> Function:
    """A run's encoder, map or classifier as a function from images to outputs; ``threads`` holds for the process.

    Raises:
        InputError: The run has not finished, or nothing was fine-tuned.
    """
    import torch

    from byolt.evaluation.finetune_run import load_classifier
    from byolt.networks.feature_map import FeatureMap
    from byolt_export.onnx.reference import torch_function

    if threads is not None:
        torch.set_num_threads(threads)
    run = Run(path)
    module = load_classifier(run)[0] if output == "logits" else run.encoder()
    if output == "features":
        module = FeatureMap(module, pixels.size_px)
    return torch_function(module, pixels=pixels, normalize=normalize, device=device, compiled=compiled)


def _outputs(function: Function, setup: BenchSetup) -> Outputs:
    step = setup.manifest.contract.input.max_batch
    images = setup.images
    outputs = np.concatenate([function(images[k : k + step]) for k in range(0, len(images), step)])
    if outputs.shape != setup.reference.shape:
        widths = f"{outputs.shape[1]} wide, the bundle's {setup.reference.shape[1]}"
        raise InputError(f"the run's outputs are {widths}: give another --run")
    return outputs


def _without_torch() -> Function:
    raise MissingPart('torch is not installed: pip install "byolt[train]"')
