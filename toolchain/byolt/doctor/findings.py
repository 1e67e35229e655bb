"""What this machine can do, which parts do not fit one another, and the line that mends each."""

import re
from typing import Any, NamedTuple

from byolt.doctor.step_speeds import measured_here
from byolt.doctor.survey import MachineFacts, survey
from byolt_export.cuda import Gpu


class Finding(NamedTuple):
    """One thing that was looked at; a misfit is two parts that do not go together."""

    what: str
    state: str
    mend: str = ""


Rule = tuple[bool, str, str]
"""Whether two parts do not go together here, which, and the line that mends it."""

OLDEST_TENSORRT = "10.3"
_PARTS = {
    "learning": (("torch", "torchvision", "timm", "albumentations"), 'pip install "byolt[train]"'),
    "export": (("onnx", "onnxscript"), 'pip install "byolt[export]"'),
    "TensorBoard": (("tensorboard",), 'pip install "byolt[tensorboard]"'),
}
_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime")
# Each flavour's distributions: the wheels count without the package that only asks for them.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
_RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
_JETSON_CAPABILITIES = (53, 62, 72, 87, 110)
_DRIVERS = {12: "525", 13: "580"}  # The first driver branch that serves a CUDA major version on Linux.
_JETPACK = "sudo apt install python3-libnvinfer"


def examine(machine: MachineFacts | None = None) -> list[Finding]:
    """Every finding on a machine, left out this one, in a person's order: what is here, then what does not fit."""
    speeds = measured_here() if machine is None else {}
    machine = machine or survey()
    here = f"{machine.byolt}, Python {machine.python}, {machine.system}, {machine.cores} cores"
    found = [Finding("byolt", here), _gpu(machine)]
    found += [Finding(what, line) for what, line in speeds.items()]
    for part, (names, mend) in _PARTS.items():
        missing = [name for name in names if name not in machine.packages]
        state = machine.installed(*names) or "nothing"
        found.append(Finding(part, f"{state}; missing {', '.join(missing)}", mend) if missing else Finding(part, state))
    found += [_onnxruntime(machine), _openvino(machine), *_tensorrt(machine)]
    return found + [Finding("misfit", state, mend) for misfit, state, mend in _rules(machine) if misfit]


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """JSON-able."""
    return {"findings": [finding._asdict() for finding in findings]}


def to_text(findings: list[Finding]) -> str:
    """A line per finding, and under it the line that mends it."""
    return "\n".join(
        f"{what:<14} {state}" + (f"\n{'':<14} -> {mend}" if mend else "") for what, state, mend in findings
    )


def _gpu(machine: MachineFacts) -> Finding:
    if machine.driver_cuda is None:
        return Finding("GPU", "no CUDA driver: learning and ONNX Runtime run on the CPU")
    driver = f"driver for CUDA {_dotted(machine.driver_cuda)}"
    if not machine.gpus:
        return Finding("GPU", f"{driver}, but no GPU answers it", "nvidia-smi")
    return Finding("GPU", f"{', '.join(map(_named, machine.gpus))}; {driver}")


def _onnxruntime(machine: MachineFacts) -> Finding:
    state = machine.installed(*_ONNXRUNTIME)
    if not state:
        return Finding("ONNX Runtime", "missing", 'pip install "byolt[export]"')
    if machine.onnxruntime_fault:
        state = f"{state} does not import: {machine.onnxruntime_fault}"
        return Finding("ONNX Runtime", state, f"pip install --force-reinstall {machine.first(*_ONNXRUNTIME)}")
    cuda = "" if machine.onnxruntime_cuda is None else f" (CUDA {machine.onnxruntime_cuda})"
    built, usable = (
        ", ".join(providers).replace("ExecutionProvider", "")
        for providers in (machine.built_providers, machine.usable_providers)
    )
    return Finding("ONNX Runtime", f"{state}, built with {built}{cuda}; usable here: {usable}")


def _openvino(machine: MachineFacts) -> Finding:
    if state := machine.installed("openvino"):
        return Finding("OpenVINO", f"{state}, on the CPU; byolt keeps it from reporting its use")
    missing = "missing; needed by `export --openvino` alone, and often the fastest on a CPU: byolt[openvino]"
    return Finding("OpenVINO", missing)


def _tensorrt(machine: MachineFacts) -> list[Finding]:
    flavours = {"TensorRT": machine.first(*_TENSORRT), "TensorRT for RTX": machine.first(*_RTX)}
    found = []
    for words, name in flavours.items():
        if name:
            licence = machine.licences.get(name, "proprietary")
            found.append(Finding("TensorRT", f"{words} {machine.packages[name]} ({name}); NVIDIA's licence: {licence}"))
    if found:
        return found
    if machine.jetson:
        return [Finding("TensorRT", "missing; needed for engines alone", _JETPACK)]
    words = "missing; needed for engines alone: byolt[trt] for this machine's GPU, byolt[rtx] for RTX GPUs elsewhere"
    return [Finding("TensorRT", words, 'pip install "byolt[rtx]"')]


def _has_gpu_wheel(machine: MachineFacts) -> bool:
    """Whether onnxruntime-gpu has a wheel: for aarch64 since 1.29, for Python 3.11 and later and CUDA 13."""
    if machine.system == "Linux aarch64":
        return not _older(machine.python, "3.11") and (machine.driver_cuda or (0, 0)) >= (13, 0)
    return machine.system == "Linux x86_64"


def _rules(machine: MachineFacts) -> list[Rule]:
    """Every rule for this machine; the sentence of one that is kept is not read."""
    packages = machine.packages
    torch, tensorrt, rtx = (packages.get(machine.first(*names), "") for names in (("torch",), _TENSORRT, _RTX))
    runtime = machine.first(*_ONNXRUNTIME)
    version = packages.get(runtime, "")
    gpu = next(map(_named, machine.gpus), "")
    wheel = machine.first(*_TENSORRT[1:])
    base = wheel.removesuffix("-bindings")
    return [
        (
            _older(torch, "2.9"),
            f"torch {torch} is older than 2.9, the oldest that byolt works with",
            'pip install -U "torch>=2.9"',
        ),
        _driver_rule(machine, f"torch {torch}", machine.torch_cuda if torch else None),
        (
            packages.keys() >= set(_ONNXRUNTIME),
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        ),
        (
            runtime == "onnxruntime" and gpu != "" and _has_gpu_wheel(machine),
            f"onnxruntime {version} runs on the CPU alone, and {gpu} is here",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        ),
        _driver_rule(machine, f"{runtime} {version}", machine.onnxruntime_cuda if "gpu" in runtime else None),
        (
            _older(tensorrt, OLDEST_TENSORRT),
            f"TensorRT {tensorrt} is older than {OLDEST_TENSORRT}: it builds no strongly typed engine of these files",
            "update JetPack to 6.1 or later" if machine.jetson else f'pip install -U "tensorrt>={OLDEST_TENSORRT}"',
        ),
        (
            tensorrt != "" and not _older(tensorrt, "11") and _older(version, "1.27"),
            f"{runtime} {version} does not know TensorRT {tensorrt}: its TensorRT provider does not load",
            f'pip install -U "{runtime}>=1.27"',
        ),
        (
            machine.jetson and wheel != "",
            f"{wheel} {packages.get(wheel)} is for data-centre GPUs; a Jetson has TensorRT from its JetPack",
            f"pip uninstall -y tensorrt {base} {base}-bindings {base}-libs && {_JETPACK}",
        ),
        (
            _older(rtx, "1.7"),
            f"TensorRT for RTX {rtx} builds fp32 and fp16, but no INT8",
            'pip install -U "tensorrt-rtx-cu13-bindings>=1.7" "tensorrt-rtx-cu13-libs>=1.7"',
        ),
        *(_libraries_rule(machine, f"tensorrt-rtx-{cuda}") for cuda in ("cu13", "cu12")),
        *(_rtx_gpu_rule(machine, one) for one in machine.gpus if rtx),
    ]


def _driver_rule(machine: MachineFacts, what: str, cuda: int | None) -> Rule:
    """A driver serves what was built for its CUDA and for earlier ones."""
    served = machine.driver_cuda or (99, 0)  # Without a driver nothing has to fit one.
    branch = f" (branch {_DRIVERS[cuda]} or later)" if cuda in _DRIVERS else ""
    return (
        cuda is not None and cuda > served[0],
        f"{what} is built for CUDA {cuda}, and the driver serves CUDA {_dotted(served)} at most: it finds no GPU",
        f"install an NVIDIA driver for CUDA {cuda}{branch}",
    )


def _libraries_rule(machine: MachineFacts, name: str) -> Rule:
    bindings, libraries = (machine.packages.get(f"{name}-{part}") for part in ("bindings", "libs"))
    there = "there is none" if libraries is None else f"{libraries} is installed"
    return (
        bindings is not None and bindings != libraries,
        f"{name}-bindings {bindings} needs {name}-libs {bindings}, and {there}",
        f'pip install "{name}-libs=={bindings}"',
    )


def _rtx_gpu_rule(machine: MachineFacts, gpu: Gpu) -> Rule:
    jetson = machine.jetson or gpu.capability in _JETSON_CAPABILITIES
    return (
        gpu.capability not in _RTX_CAPABILITIES,
        f"TensorRT for RTX does not serve {_named(gpu)}: engines that it builds here run elsewhere",
        _JETPACK if jetson else 'pip install "byolt[trt]"',
    )


def _named(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.capability // 10}.{gpu.capability % 10})"


def _older(version: str, least: str) -> bool:
    """By major and minor number; what is not installed is not old."""
    release, oldest = ([int(number) for number in re.findall(r"\d+", one)[:2]] for one in (version, least))
    return bool(release) and release < oldest


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
