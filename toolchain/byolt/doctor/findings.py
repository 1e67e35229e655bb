"""What this machine can do, which parts do not fit one another, and the line that mends each."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from byolt.doctor.survey import Gpu, MachineFacts, survey


class Finding(NamedTuple):
    """One thing that was looked at; a misfit is two parts that do not go together."""

    what: str
    state: str
    mend: str = ""


_PARTS = {
    "learning": (("torch", "torchvision", "timm", "albumentations"), 'pip install "byolt[train]"'),
    "export": (("onnx", "onnxscript"), 'pip install "byolt[export]"'),
    "TensorBoard": (("tensorboard",), 'pip install "byolt[tensorboard]"'),
}
# Each flavour's distributions: the wheels count without the package that only asks for them.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
_RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
_JETSON_CAPABILITIES = (53, 62, 72, 87, 110)
_DRIVERS = {12: "525", 13: "580"}  # The first driver branch that serves a CUDA major version on Linux.
_LEAST = {"torch": (2, 9), "tensorrt": (10, 3), "rtx int8": (1, 7), "onnxruntime for tensorrt 11": (1, 27)}
_RTX_INSTALL = 'pip install -U "tensorrt-rtx-cu13-bindings>=1.7" "tensorrt-rtx-cu13-libs>=1.7"'


def examine(machine: MachineFacts | None = None) -> list[Finding]:
    """Every finding on a machine, left out this one, in a person's order: what is here, then what does not fit."""
    machine = machine or survey()
    here = f"{machine.byolt}, Python {machine.python}, {machine.system}, {machine.cores} cores"
    found = [Finding("byolt", here), _gpu(machine)]
    for part, (packages, mend) in _PARTS.items():
        missing = [name for name in packages if name not in machine.packages]
        state = ", ".join(f"{name} {machine.packages[name]}" for name in packages if name not in missing)
        state = f"{state or 'nothing'}{'; missing ' + ', '.join(missing) if missing else ''}"
        found.append(Finding(part, state, mend if missing else ""))
    found.append(_onnxruntime(machine))
    found += _tensorrt(machine)
    for misfits in (_learning_misfits, _onnxruntime_misfits, _tensorrt_misfits, _rtx_misfits):
        found += [Finding("misfit", state, mend) for state, mend in misfits(machine)]
    return found


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """JSON-able."""
    return {"findings": [finding._asdict() for finding in findings]}


def to_text(findings: list[Finding]) -> str:
    """A line a finding, and under it the line that mends it."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:<14} {finding.state}")
        if finding.mend:
            lines.append(f"{'':<14} -> {finding.mend}")
    return "\n".join(lines)


def _gpu(machine: MachineFacts) -> Finding:
    if machine.driver_cuda is None:
        return Finding("GPU", "no CUDA driver: learning and ONNX Runtime run on the CPU")
    driver = f"driver for CUDA {_dotted(machine.driver_cuda)}"
    if not machine.gpus:
        return Finding("GPU", f"{driver}, but no GPU answers it", "nvidia-smi")
    return Finding("GPU", f"{', '.join(map(_named, machine.gpus))}; {driver}")


def _onnxruntime(machine: MachineFacts) -> Finding:
    names = [name for name in ("onnxruntime-gpu", "onnxruntime") if name in machine.packages]
    if not names:
        return Finding("ONNX Runtime", "missing", 'pip install "byolt[export]"')
    state = ", ".join(f"{name} {machine.packages[name]}" for name in names)
    if machine.onnxruntime_fault:
        mend = f"pip install --force-reinstall {names[0]}"
        return Finding("ONNX Runtime", f"{state} does not import: {machine.onnxruntime_fault}", mend)
    cuda = "" if machine.onnxruntime_cuda is None else f" (CUDA {machine.onnxruntime_cuda})"
    built, usable = (
        ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
        for providers in (machine.built_providers, machine.usable_providers)
    )
    return Finding("ONNX Runtime", f"{state}, built with {built}{cuda}; usable here: {usable}")


def _tensorrt(machine: MachineFacts) -> list[Finding]:
    found = []
    for names, words in ((_TENSORRT, "TensorRT"), (_RTX, "TensorRT for RTX")):
        name = next((name for name in names if name in machine.packages), None)
        if name is not None:
            licence = machine.licences.get(name, "proprietary")
            found.append(Finding("TensorRT", f"{words} {machine.packages[name]} ({name}); NVIDIA's licence: {licence}"))
    if found:
        return found
    if machine.jetson:
        return [Finding("TensorRT", "missing; needed for engines alone", "sudo apt install python3-libnvinfer")]
    words = "missing; needed for engines alone: byolt[trt] for this machine's GPU, byolt[rtx] for RTX GPUs elsewhere"
    return [Finding("TensorRT", words, 'pip install "byolt[rtx]"')]


def _learning_misfits(machine: MachineFacts) -> Iterator[tuple[str, str]]:
    torch = machine.version("torch")
    if torch is None:
        return
    if _release(torch) < _LEAST["torch"]:
        least = _dotted(_LEAST["torch"])
        yield (
            f"torch {torch} is older than {least}, the oldest that byolt works with",
            f'pip install -U "torch>={least}"',
        )
    if _beyond_driver(machine, machine.torch_cuda):
        yield _needs_driver(machine, f"torch {torch}", machine.torch_cuda)


def _onnxruntime_misfits(machine: MachineFacts) -> Iterator[tuple[str, str]]:
    if {"onnxruntime", "onnxruntime-gpu"} <= machine.packages.keys():
        yield (
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    elif "onnxruntime" in machine.packages and machine.gpus and machine.system == "Linux x86_64":
        version, gpu = machine.packages["onnxruntime"], _named(machine.gpus[0])
        yield (
            f"onnxruntime {version} runs on the CPU alone, and {gpu} is here",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        )
    if "onnxruntime-gpu" in machine.packages and _beyond_driver(machine, machine.onnxruntime_cuda):
        what = f"onnxruntime-gpu {machine.packages['onnxruntime-gpu']}"
        yield _needs_driver(machine, what, machine.onnxruntime_cuda)


def _tensorrt_misfits(machine: MachineFacts) -> Iterator[tuple[str, str]]:
    tensorrt = machine.version(*_TENSORRT)
    if tensorrt is None:
        return
    if _release(tensorrt) < _LEAST["tensorrt"]:
        least = _dotted(_LEAST["tensorrt"])
        mend = "update JetPack to 6.1 or later" if machine.jetson else f'pip install -U "tensorrt>={least}"'
        yield f"TensorRT {tensorrt} is older than {least}: it builds no strongly typed engine of these files", mend
    runtime, knows_11 = machine.version("onnxruntime-gpu", "onnxruntime"), _LEAST["onnxruntime for tensorrt 11"]
    if runtime is not None and _release(tensorrt) >= (11, 0) and _release(runtime) < knows_11:
        name = "onnxruntime-gpu" if "onnxruntime-gpu" in machine.packages else "onnxruntime"
        yield (
            f"{name} {runtime} does not know TensorRT {tensorrt}: its TensorRT provider does not load",
            f'pip install -U "{name}>={_dotted(knows_11)}"',
        )
    wheel = next((name for name in _TENSORRT[1:] if name in machine.packages), None)
    if machine.jetson and wheel is not None:
        base = wheel.removesuffix("-bindings")
        yield (
            f"{wheel} {machine.packages[wheel]} is for data-centre GPUs; a Jetson has TensorRT from its JetPack",
            f"pip uninstall -y tensorrt {base} {base}-bindings {base}-libs && sudo apt install python3-libnvinfer",
        )


def _rtx_misfits(machine: MachineFacts) -> Iterator[tuple[str, str]]:
    rtx = machine.version(*_RTX)
    if rtx is None:
        return
    if _release(rtx) < _LEAST["rtx int8"]:
        yield f"TensorRT for RTX {rtx} builds fp32 and fp16, but no INT8", _RTX_INSTALL
    for cuda in ("cu13", "cu12"):
        bindings, libs = (machine.packages.get(f"tensorrt-rtx-{cuda}-{part}") for part in ("bindings", "libs"))
        if bindings is not None and bindings != libs:
            yield (
                f"tensorrt-rtx-{cuda}-bindings {bindings} needs tensorrt-rtx-{cuda}-libs {bindings}, "
                f"and {'there is none' if libs is None else f'{libs} is installed'}",
                f'pip install "tensorrt-rtx-{cuda}-libs=={bindings}"',
            )
    for gpu in machine.gpus:
        if gpu.capability not in _RTX_CAPABILITIES:
            jetson = machine.jetson or gpu.capability in _JETSON_CAPABILITIES
            yield (
                f"TensorRT for RTX does not serve {_named(gpu)}: engines that it builds here run elsewhere",
                "sudo apt install python3-libnvinfer" if jetson else 'pip install "byolt[trt]"',
            )


def _beyond_driver(machine: MachineFacts, cuda: int | None) -> bool:
    """Built for a later CUDA than the driver serves; a later driver serves earlier ones."""
    return machine.driver_cuda is not None and cuda is not None and cuda > machine.driver_cuda[0]


def _needs_driver(machine: MachineFacts, what: str, cuda: int | None) -> tuple[str, str]:
    assert machine.driver_cuda is not None
    assert cuda is not None
    branch = f" (branch {_DRIVERS[cuda]} or later)" if cuda in _DRIVERS else ""
    state = f"{what} is built for CUDA {cuda}, and the driver serves CUDA {_dotted(machine.driver_cuda)} at most"
    return f"{state}: it finds no GPU", f"install an NVIDIA driver for CUDA {cuda}{branch}"


def _named(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.capability // 10}.{gpu.capability % 10})"


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
