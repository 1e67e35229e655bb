"""How fast the files that passed are on this machine, beside fp32: in turn, well under a second a file."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from byolt_export.arrays import Function, Images
from byolt_export.bundle.manifest import Speed, SpeedRuntime
from byolt_export.errors import ByoltError
from byolt_export.proof.report import FileReport
from byolt_export.runtime.onnx_runner import CPU
from byolt_export.runtime.openvino_runner import OPENVINO
from byolt_export.runtime.processor import cpu_name, cpu_threads, gpu_names
from byolt_export.runtime.timing import filled, relative_speeds, time_in_turn
from byolt_export.tensorrt.runner import EngineRunner

_RUNTIMES: Mapping[str, SpeedRuntime] = {CPU: "cpu", "CUDAExecutionProvider": "cuda", OPENVINO: "openvino"}
_ON_CPU = ("cpu", "openvino")
_SECONDS, _WARM_UP_S = 0.1, 0.02  # A file and batch size.
_SLOW_S = 0.05  # A call that takes longer is timed in fewer rounds: whoever exports waits for it.


def time_files(
    reports: Sequence[FileReport],
    open_run: Callable[[FileReport], Function],
    images: Images,
    *,
    opt_batch: int,
    threads: int | None = None,
) -> tuple[FileReport, ...]:
    """The reports, those that passed with their speeds at batch 1 and at ``opt_batch``.

    A single one has nothing to be compared with, and is not timed; nor are wrong outputs.

    Args:
        reports: Of a bundle's files on this machine.
        open_run: Opens the file of a report, once more.
        images: (N, H, W, C), repeated to fill a batch.
        opt_batch: The batch size that the bundle is tuned for.
        threads: CPU threads of one call, as ``open_run`` takes them; left out, one per core.
    """
    passed = [file for file in reports if file.parity.verdict == "passed" and runtime_of(file) is not None]
    if len(passed) < 2:
        return tuple(reports)
    found: dict[str, list[Speed]] = {_key(file): [] for file in passed}
    with ExitStack() as opened:
        runs = {_key(file): run for file in passed if (run := _opened(file, open_run, opened)) is not None}
        for batch in sorted({1, opt_batch}):
            taken = _in_turn(runs, filled(images, batch))
            for file in passed:
                if (key := _key(file)) in taken:
                    baseline = taken.get(_baseline(passed, file))
                    found[key].append(_speed(file, batch, taken[key], baseline, cpu_threads(threads)))
    return tuple(replace(file, speeds=tuple(found.get(_key(file), ()))) for file in reports)


def runtime_of(file: FileReport) -> SpeedRuntime | None:
    """What ran a file, as its speeds name it; none of ONNX Runtime's other providers is chosen by its speed."""
    return "tensorrt" if file.is_engine else _RUNTIMES.get(file.provider)


def _key(file: FileReport) -> str:
    return f"{file.name} {file.provider}"


def _opened(file: FileReport, open_run: Callable[[FileReport], Function], stack: ExitStack) -> Function | None:
    try:
        run = open_run(file)
    except ByoltError:  # It ran before; what became of it meanwhile is told by the next proof.
        return None
    if isinstance(run, EngineRunner):
        stack.callback(run.close)
    return run


def _in_turn(runs: Mapping[str, Function], images: Images) -> dict[str, list[list[float]]]:
    """Seconds of each call, a list a round, by key."""
    # One call finds out what to spend, after one in which a runtime may prepare itself for the batch size.
    once, _ = time_in_turn(runs, images, seconds=0, rounds=1, calls=1, warm_up_s=0)
    slow = any(turn[0] > _SLOW_S for (turn,) in once.values())
    rounds, calls = (3, 1) if slow else (5, 2)
    return time_in_turn(runs, images, seconds=_SECONDS, rounds=rounds, calls=calls, warm_up_s=_WARM_UP_S)[0]


def _baseline(passed: Sequence[FileReport], file: FileReport) -> str:
    """Key of fp32 in ONNX Runtime on the same processor; of a GPU without that, of its fp32 engine."""
    wanted = ("cpu",) if runtime_of(file) in _ON_CPU else ("cuda", "tensorrt")
    for runtime in wanted:
        for other in passed:
            if other.precision == "fp32" and runtime_of(other) == runtime:
                return _key(other)
    return ""


def _speed(
    file: FileReport, batch: int, taken: list[list[float]], baseline: list[list[float]] | None, threads: int
) -> Speed:
    runtime = runtime_of(file)
    assert runtime is not None
    processor = cpu_name() if runtime in _ON_CPU else (gpu_names() or ("unknown",))[0]
    ratio = None if baseline is None else _rounded(median(relative_speeds(taken, baseline)))
    call_s = median(second for turn in taken for second in turn)
    return Speed(
        file=file.name,
        runtime=runtime,
        processor=processor,
        threads=threads,
        batch=batch,
        images_per_s=_rounded(batch / call_s),
        times_fp32=ratio,
    )


def _rounded(value: float) -> float:
    """To four digits: the rest is noise."""
    return float(f"{value:.4g}")
