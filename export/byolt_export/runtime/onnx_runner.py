"""Run a delivered file on arrays: numpy and the backend alone, on whichever machine holds the bundle."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.bundle.contents import check_onnx
from byolt_export.bundle.manifest import CONTRACT_KEY, Contract, Output, Placement
from byolt_export.cuda import MissingGpu, find_gpu
from byolt_export.errors import InputError, MissingPart, first_line, quoted
from byolt_export.runtime.graph_runner import GraphRunner
from byolt_export.runtime.openvino_runner import OPENVINO, OpenVinoRunner
from byolt_export.runtime.signature import Port, check_ports

CPU = "CPUExecutionProvider"
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_ON_INPUTS = ("tensorrt", "openvino")  # Placements with Q/DQ on the inputs of layers alone.
_FATAL = 4  # ONNX Runtime's severity: what is below arrives as an exception, or is chatter about absent GPUs.


class MissingProvider(MissingPart):
    """The execution provider asked for does not work on this machine."""


class OnnxRunner(GraphRunner):
    """An ONNX file of a bundle, as a function from images (B, H, W, C) to float32 outputs (B, D)."""

    def __init__(
        self,
        path: str | Path,
        provider: str = CPU,
        threads: int | None = None,
        placement: Placement | None = None,
        *,
        is_fused: bool = True,
    ) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            provider: ONNX Runtime's execution provider, which must be the one really used.
            threads: CPU threads of one call; left out, one per core.
            placement: The engine that an int8 file is for, as its manifest says.
            is_fused: Whether ONNX Runtime may put several operators into one.

        Raises:
            MissingPart: ONNX Runtime is not installed.
            MissingProvider: The provider does not work on this machine.
            InputError: The file is not an ONNX file of a bundle.
        """
        path = Path(path)
        self.path, self.provider = path, provider
        how: dict[str, Any] = {"as_it_stands": placement in _ON_INPUTS, "is_fused": is_fused}
        self._session = _open(path, provider, threads, str(path), **how)
        used = self._session.get_providers()[0]
        if used != provider:  # ONNX Runtime falls back to the CPU with no more than a log line.
            raise MissingProvider(
                f"ONNX Runtime runs {path.name} on {used}, not on {provider}: "
                f"install what {provider} needs, or ask for {used}"
            )
        inputs, outputs = (
            [Port(port.name, _TYPES.get(port.type, port.type), tuple(port.shape)) for port in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        self.image_shape, self.dtype = check_ports(path, inputs, outputs)
        self.outputs: dict[str, tuple[Any, ...]] = {output.name: output.sides[1:] for output in outputs}
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def _run(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        return list(self._session.run(list(self.outputs), {"images": images}))

    @staticmethod
    def _brief(error: Exception) -> str:
        return _brief(error)


Runner = OnnxRunner | OpenVinoRunner


def proven_on(placement: Placement | None) -> str:
    """What a file is proven on when it is made: ONNX Runtime on the CPU, or OpenVINO where it is placed for that."""
    return OPENVINO if placement == "openvino" else CPU


def open_onnx(
    path: Path, contract: Contract, provider: str, threads: int | None = None, placement: Placement | None = None
) -> Runner:
    """An ONNX file that was made for this contract: classes in another order fool no measure of the outputs.

    ``provider`` is one of ONNX Runtime's, or ``OPENVINO``.

    Raises:
        MissingPart: The runtime is not installed; ``MissingProvider`` where the provider does not work here.
        InputError: The file is damaged, or was made for another contract.
    """
    check_onnx(path)
    run = OpenVinoRunner(path, threads) if provider == OPENVINO else OnnxRunner(path, provider, threads, placement)
    if (
        run.metadata.get(CONTRACT_KEY) != contract.model_dump_json()
        or not _gives(run, contract.output)
        or (run.image_shape, run.dtype) != (contract.input.shape, contract.input.dtype)
    ):
        raise InputError(f"{path} was made for another contract than its manifest states: export it again")
    return run


def _gives(run: Runner, output: Output) -> bool:
    if output.maps:
        return list(run.outputs.items()) == [(features.name, features.shape) for features in output.maps]
    return list(run.outputs) == [output.name] and len(run.outputs[output.name]) == 1


def run_model(
    model: bytes,
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    name: str = "the model",
    placement: Placement | None = None,
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """All outputs of a model (ONNX bytes) on the CPU by name, batch by batch of inputs by name.

    Args:
        model: The bytes.
        batches: Inputs by name.
        name: Of the model, which opens the sentence of an error.
        placement: Which engine an int8 model is placed for.

    Raises:
        MissingPart: ONNX Runtime is not installed.
        InputError: The model cannot be read or run.
    """
    session = _open(model, CPU, None, name, as_it_stands=placement in _ON_INPUTS)
    names = [output.name for output in session.get_outputs()]
    for batch in batches:
        try:
            values = session.run(names, batch)
        except Exception as error:  # ONNX Runtime's errors share no base class of their own.
            raise InputError(f"{name} does not run: {_brief(error)}") from error
        yield dict(zip(names, values, strict=True))


def open_profiled(model: bytes, prefix: Path) -> Any:
    """A session on one thread that writes its profile to a file whose path begins so; ``end_profiling`` names it."""
    return _open(model, CPU, 1, "the model", profile=prefix)


def usable_providers() -> tuple[str, ...]:
    """The execution providers that this machine can use: the CPU, and CUDA where a driver finds a GPU.

    ONNX Runtime lists what it was built with, GPU or no GPU. TensorRT's own engines stand beside the ONNX files, so
    its provider, which builds engines of its own for minutes, is run only when asked for.
    """
    try:
        built_with = _onnxruntime().get_available_providers()
    except MissingPart:
        return (CPU,)
    if "CUDAExecutionProvider" in built_with:
        try:
            find_gpu("ONNX Runtime's CUDA provider runs on a GPU")
        except MissingGpu:
            pass
        else:
            return ("CUDAExecutionProvider", CPU)
    return (CPU,)


def runtime_version() -> str:
    """ONNX Runtime's version, whichever package it came in."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPart('ONNX Runtime is not installed: pip install "byolt[export]"') from error
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def _open(
    model: Path | bytes,
    provider: str,
    threads: int | None,
    name: str,
    *,
    as_it_stands: bool = False,
    is_fused: bool = True,
    profile: Path | None = None,
) -> Any:
    onnxruntime = _onnxruntime()
    if provider not in onnxruntime.get_available_providers():
        raise MissingProvider(
            f"{provider} is not in this ONNX Runtime {onnxruntime.__version__}, which has "
            f"{', '.join(onnxruntime.get_available_providers())}: ask for one of these, or install its build"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if not is_fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if as_it_stands and provider == CPU:
        # Else ONNX Runtime moves Q/DQ about in search of integer kernels, finds none where outputs are not quantised
        # too, and dequantises every constant kernel in every call: 2 to 6 times as slow.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    # TF32 keeps 10 bits of mantissa: with it, fp32 would not be what its name says.
    settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    try:
        return onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own.
        raise InputError(f"{name} cannot be read as ONNX: {_brief(error)}; export it again") from error


def _brief(error: Exception) -> str:
    """The first line of an error, without the code that ONNX Runtime puts in front."""
    return quoted(first_line(error).removeprefix("[ONNXRuntimeError] : ").rstrip(". "))
