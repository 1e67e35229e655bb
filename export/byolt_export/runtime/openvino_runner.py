"""Run a delivered ONNX file with OpenVINO on the CPU: numpy and OpenVINO alone."""

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.errors import InputError, MissingPart, quoted
from byolt_export.runtime.graph_runner import GraphRunner
from byolt_export.runtime.signature import Port, check_ports

OPENVINO = "OpenVINO"
"""What stands for it where ONNX Runtime's execution providers stand."""

_TELEMETRY = "openvino_telemetry"


class OpenVinoRunner(GraphRunner):
    """An ONNX file of a bundle, as a function from images (B, H, W, C) to float32 outputs (B, D)."""

    provider = OPENVINO

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        """Open the file.

        Args:
            path: The ONNX file, after ``check_onnx``.
            threads: CPU threads of one call; left out, one per core.

        Raises:
            MissingPart: OpenVINO is not installed.
            InputError: The file is not an ONNX file of a bundle.
        """
        self.path = path = Path(path)
        core = _core(require_openvino())
        # On a CPU with AMX it would compute fp32 in bf16 without being asked, which keeps 8 bits of mantissa.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO's errors share no base class of their own.
            raise InputError(f"{path} cannot be read as ONNX by OpenVINO: {_brief(error)}; export it again") from error
        inputs, outputs = ([_port(port) for port in ports] for ports in (model.inputs, model.outputs))
        self.image_shape, self.dtype = check_ports(path, inputs, outputs)
        self.outputs: dict[str, tuple[Any, ...]] = {output.name: output.sides[1:] for output in outputs}
        self.metadata = _metadata(model)

    def _run(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        return list(self._compiled([images]).values())

    @staticmethod
    def _brief(error: Exception) -> str:
        return _brief(error)


def has_openvino() -> bool:
    """Whether OpenVINO is installed; nothing is loaded."""
    return find_spec("openvino") is not None


def require_openvino() -> Any:
    """OpenVINO's package.

    Raises:
        MissingPart: It is not installed.
    """
    # Loaded, OpenVINO's Python package reports to Google Analytics and keeps an identifier in the home folder, and no
    # setting of the environment stops it: it does so through a package that it can do without.
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingPart('OpenVINO is not installed: pip install "byolt[openvino]"') from error
    return openvino


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO's core, one for the process and as long as it.

    Each one that compiles for a CPU takes the thread's alternate signal stack for its own and gives the one before back
    when it goes. Of two, the first to go leaves the other to give back memory that is unmapped by then (2026.4.1), and
    the next signal, be it Ctrl-C or the end of a child, ends the process with a segmentation fault.
    """
    return openvino.Core()


def _port(port: Any) -> Port:
    sides = tuple(None if side.is_dynamic else int(side.get_length()) for side in port.partial_shape)
    return Port(port.any_name, np.dtype(port.element_type.to_dtype()).name, sides)


def _metadata(model: Any) -> dict[str, str]:
    """What the ONNX file carries in its ``metadata_props``."""
    known = model.get_rt_info()
    if "framework" not in known:
        return {}
    return {key: value.astype(str) for key, value in known["framework"].items()}


def _brief(error: Exception) -> str:
    """The last line of an error that says something: those before it name files of OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception from")]
    return quoted((told or lines or [type(error).__name__])[0].rstrip(". "))
