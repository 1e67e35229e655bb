"""Opening and running engines: what is refused before a GPU is looked for, and what a GPU computes."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.export import graphs
from tests.export.engines import CLASSIC, INT8, NO_GPU, RTX, build

from byolt_export.bundle.manifest import Engine
from byolt_export.cuda import MissingGpu
from byolt_export.errors import EngineFault, InputError, MissingPart
from byolt_export.tensorrt.flavour import choose_flavour, resolve_target
from byolt_export.tensorrt.plan import plan_fault
from byolt_export.tensorrt.runner import EngineRunner, open_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine]:
    folder = tmp_path_factory.mktemp("engine")
    return folder, build(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: b"", "its plan has 0 bytes"),
        (lambda plan: plan[:-1], r"its plan has \d+ bytes and should have \d+"),
        (lambda plan: b"ftrt" + plan[4:], "its plan is none of TensorRT for RTX"),
        (lambda plan: plan[:24] + bytes([1, 3, 0, 9]) + plan[28:], r"its plan is of version 1\.3\.0\.9, not"),
        (lambda plan: plan[:27] + bytes([plan[27] ^ 1]) + plan[28:], "its plan is of version .*, not"),
    ],
)
def test_a_damaged_plan_is_refused_before_a_gpu_is_looked_for(
    tmp_path: Path, engine: tuple[Path, Engine], damage: Callable[[bytes], bytes], message: str
) -> None:
    path, plan = tmp_path / engine[1].name, damage((engine[0] / engine[1].name).read_bytes())
    assert re.match(message, plan_fault(plan, RTX))
    path.write_bytes(plan)
    with pytest.raises(InputError, match=message):
        EngineRunner(path, RTX)


def test_a_plan_of_the_other_flavour_is_refused(engine: tuple[Path, Engine]) -> None:
    with pytest.raises(InputError, match=r"is no engine for TensorRT [\d.]+: its plan is one of TensorRT for RTX"):
        EngineRunner(engine[0] / engine[1].name, CLASSIC)
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        EngineRunner(engine[0] / "absent", RTX)


@NO_GPU
def test_without_a_gpu_an_engine_is_not_run(engine: tuple[Path, Engine]) -> None:
    folder, entry = engine
    assert entry.reason.startswith(f"{RTX} runs engines on a GPU, and there is no CUDA driver (libcuda.so.1)")
    with pytest.raises(MissingGpu, match=r"rtx30\.engine is run by TensorRT for RTX .*, and there is no CUDA driver"):
        EngineRunner(folder / entry.name, RTX)
    with pytest.raises(MissingGpu, match="there is no CUDA driver"):
        open_engine(folder, entry)


def test_an_engine_is_opened_as_the_manifest_names_it(engine: tuple[Path, Engine]) -> None:
    folder, entry = engine
    with pytest.raises(InputError, match="SHA-256"):
        open_engine(folder, entry.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(MissingPart, match=r"was built by version 1\.3\.0\.9, and TensorRT for RTX .* is installed"):
        open_engine(folder, entry.model_copy(update={"version": "1.3.0.9"}))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("int8", marks=INT8)])
def test_an_engine_computes_what_onnxruntime_computes(tmp_path: Path, precision: str) -> None:
    from byolt_export.runtime.onnx_runner import OnnxRunner

    flavour = choose_flavour()
    try:
        here = resolve_target(flavour, "here")
    except EngineFault as error:
        pytest.skip(str(error))
    entry = build(tmp_path, precision=precision, flavour=flavour, targets=[here])
    reference = OnnxRunner(tmp_path / entry.onnx)
    images = np.random.default_rng(1).integers(0, 256, (10, graphs.SIZE_PX, graphs.SIZE_PX, 3), np.uint8)
    with open_engine(tmp_path, entry) as run:
        for batch in (1, 3, 10):
            expected = reference(images[:batch])
            tolerance = {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[precision] * np.abs(expected).max()
            np.testing.assert_allclose(run(images[:batch]), expected, rtol=0, atol=tolerance)
        with pytest.raises(InputError, match="takes batches of 1 to 10, got 11"):
            run(np.concatenate([images, images[:1]]))
