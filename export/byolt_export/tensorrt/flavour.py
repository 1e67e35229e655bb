"""Which TensorRT is installed, and for which GPUs it builds: the one place that knows its flavours apart.

- ``tensorrt``: classic TensorRT 10 and 11, for Jetson and data-centre GPUs. It builds for the GPU that it runs on.
- ``tensorrt_rtx``: TensorRT for RTX. It builds for named generations of GPUs ahead of time, on a machine without one.

Both have one Python API, but the numbers behind its flags moved between the generations: no number is written here.
"""

import difflib
import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from byolt_export.cuda import find_gpu
from byolt_export.errors import EngineFault, InputError, MissingPart

FlavourName = Literal["tensorrt", "tensorrt_rtx"]

# A package's own name first; the second is what NVIDIA's wheel without its meta-package installs.
_MODULES: dict[FlavourName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_WORDS: dict[FlavourName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_INSTALL = (
    'pip install "byolt[rtx]" for engines of RTX GPUs, made on any machine, or "byolt[trt]" on the machine '
    "that will run the engine (a Jetson has TensorRT from its JetPack)"
)
_GENERATIONS = {"rtx20": (75,), "rtx30": (86,), "rtx40": (89,), "rtx50": (120,), "rtx": (86, 89, 120)}
_JETSONS = {"nano": 53, "tx2": 62, "xavier": 72, "orin": 87, "thor": 110}
_DATA_CENTRE = {"v100": 70, "h100": 90, "h200": 90, "b200": 100, "b300": 103}
_INT8_SINCE = (1, 7)  # TensorRT for RTX before it fails inside the build of a quantised convolution.


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT; ``trt`` is its Python module."""

    name: FlavourName
    version: str
    trt: Any

    def __str__(self) -> str:
        return f"{_WORDS[self.name]} {self.version}"

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:4])

    @property
    def default_target(self) -> str:
        """What is built when nothing is asked for."""
        return "here" if self.name == "tensorrt" else "rtx"

    @property
    def capabilities(self) -> tuple[int, ...]:
        """Compute capabilities (86 is 8.6) that can be named; none where engines are built for this machine alone."""
        members = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        return tuple(sorted(int(name[2:]) for name in members if re.fullmatch(r"SM\d+", name)))

    def check_precision(self, precision: str) -> None:
        """Refuse what this version is known not to build.

        Raises:
            MissingPart: A later version is needed.
        """
        if precision == "int8" and self.name == "tensorrt_rtx" and self.release < _INT8_SINCE:
            raise MissingPart(
                f"{self} does not build INT8: pip install "
                '"tensorrt-rtx-cu13-bindings>=1.7" "tensorrt-rtx-cu13-libs>=1.7", or leave int8 out'
            )


@dataclass(frozen=True)
class Target:
    """For which GPUs an engine is built: compute capabilities, and the name of the GPU where it is this machine's."""

    name: str
    capabilities: tuple[int, ...]
    gpu: str = ""


def choose_flavour(name: FlavourName | None = None) -> Flavour:
    """The TensorRT asked for, or the first that is there.

    Raises:
        MissingPart: It is not installed, or does not load.
    """
    broken = ""
    for candidate in _MODULES if name is None else (name,):
        found = _load(candidate)
        if isinstance(found, Flavour):
            return found
        broken = broken or found
    if broken:
        raise MissingPart(f"{broken}; {_INSTALL}")
    raise MissingPart(f"{'TensorRT' if name is None else _WORDS[name]} is not installed: {_INSTALL}")


def _load(name: FlavourName) -> Flavour | str:
    """The flavour, or in words why it does not load; empty words when it is not installed."""
    for module in _MODULES[name]:
        try:
            trt = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module:
                continue
            return f"{_WORDS[name]} does not load: {error}"
        except (ImportError, OSError, RuntimeError) as error:  # Its libraries are missing, or of another version.
            return f"{_WORDS[name]} does not load: {(str(error).splitlines() or [''])[0]}"
        if hasattr(trt, "Builder"):
            return Flavour(name, str(trt.__version__), trt)
    return ""


def resolve_target(flavour: Flavour, name: str) -> Target:
    """The GPUs behind a target's name: ``here``, ``rtx``, ``rtx20`` to ``rtx50``, or ``smXX``.

    Raises:
        InputError: The flavour cannot build for it; the message says what can.
        MissingGpu: ``here`` was asked for, and no GPU answers.
        EngineFault: ``here`` is a GPU that the flavour does not build for.
    """
    name = name.lower()
    if name == "here":
        return _here(flavour)
    capabilities = _GENERATIONS.get(name) or _capability(name)
    if capabilities is None:
        raise _refused(flavour, name, None)
    if not set(capabilities) <= set(flavour.capabilities):
        raise _refused(flavour, name, max(capabilities))
    return Target(name, capabilities)


def _here(flavour: Flavour) -> Target:
    gpu = find_gpu(f"{flavour} builds for the GPU of this machine")
    if flavour.name == "tensorrt_rtx" and gpu.capability not in flavour.capabilities:
        raise EngineFault(
            f"{flavour} does not build for this {gpu.name} (SM {gpu.capability}), only for SM "
            f"{_list(flavour.capabilities)}: install classic TensorRT on this machine"
        )
    return Target("here", (gpu.capability,), gpu.name)


def _capability(name: str) -> tuple[int, ...] | None:
    found = re.fullmatch(r"sm_?(\d{2,3})", name)
    number = int(found[1]) if found else (_JETSONS | _DATA_CENTRE).get(name)
    return None if number is None else (number,)


def _refused(flavour: Flavour, name: str, capability: int | None) -> InputError:
    """Why not, and what to do instead."""
    if capability is None:
        known = ["here", *_GENERATIONS, *(f"sm{number}" for number in flavour.capabilities)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return InputError(f"target {name!r} is not known: it is one of {', '.join(known)}{hint}")
    fault = f"{flavour} does not build for {name}" + ("" if name == f"sm{capability}" else f" (SM {capability})")
    if capability in _JETSONS.values():
        return InputError(
            f"{fault}: run `byolt build-engine BUNDLE` on the Jetson itself, with the TensorRT of its JetPack"
        )
    if capability in _DATA_CENTRE.values():
        return InputError(f"{fault}: run `byolt build-engine BUNDLE` with classic TensorRT on the machine of that GPU")
    if flavour.name == "tensorrt":
        return InputError(
            f"{fault}, only for the machine it runs on: use the target `here` there, "
            'or pip install "byolt[rtx]" for engines of RTX GPUs'
        )
    return InputError(f"{fault}, only for SM {_list(flavour.capabilities)}: name one of these, or install a later one")


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
