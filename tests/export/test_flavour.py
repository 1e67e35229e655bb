"""Which TensorRT, for which GPUs, and what its log says."""

import sys
from pathlib import Path

import pytest
from tests.export.engines import CLASSIC, NO_GPU, RTX

from byolt_export.cuda import MissingGpu
from byolt_export.errors import InputError, MissingPart
from byolt_export.tensorrt.flavour import Flavour, Target, choose_flavour, resolve_target
from byolt_export.tensorrt.log import plain


def test_targets_by_name() -> None:
    assert resolve_target(RTX, "rtx40") == Target("rtx40", (89,))
    assert resolve_target(RTX, "RTX") == Target("rtx", (86, 89, 120))
    assert resolve_target(RTX, "sm75") == Target("sm75", (75,))
    assert {75, 80, 86, 89, 120} <= set(RTX.capabilities)
    assert (121 in RTX.capabilities) == (RTX.release >= (1, 5))
    assert (RTX.default_target, CLASSIC.default_target) == ("rtx", "here")


JETSON = "run `byolt build-engine BUNDLE` on the Jetson itself"


DATA_CENTRE = "run `byolt build-engine BUNDLE` with classic TensorRT on the machine of that GPU"


REFUSED = [
    (RTX, "orin", r"TensorRT for RTX [\d.]+ does not build for orin \(SM 87\): " + JETSON),
    (RTX, "sm87", r"does not build for sm87: " + JETSON),
    (RTX, "thor", r"does not build for thor \(SM 110\): " + JETSON),
    (RTX, "sm110", r"does not build for sm110: " + JETSON),
    (RTX, "xavier", r"does not build for xavier \(SM 72\): " + JETSON),
    (RTX, "h100", r"does not build for h100 \(SM 90\): " + DATA_CENTRE),
    (RTX, "h200", r"does not build for h200 \(SM 90\): " + DATA_CENTRE),
    (RTX, "sm100", r"does not build for sm100: " + DATA_CENTRE),
    (RTX, "sm99", r"does not build for sm99, only for SM 75, 80, 86, 89, 120.*: name one of these"),
    (RTX, "rtx41", r"target 'rtx41' is not known: it is one of here, rtx20, .*; did you mean 'rtx40'"),
    (RTX, "../../x", r"target '../../x' is not known"),
    (Flavour("tensorrt", "10.3.0", None), "rtx40", r"TensorRT 10\.3\.0 does not build for rtx40 \(SM 89\), only for "
     r"the machine it runs on: use the target `here` there, or pip install \"byolt\[rtx\]\""),
    (Flavour("tensorrt", "10.3.0", None), "orin", r"does not build for orin \(SM 87\): " + JETSON),
]  # fmt: skip


@pytest.mark.parametrize(("flavour", "name", "message"), REFUSED)
def test_targets_that_are_refused(flavour: Flavour, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        resolve_target(flavour, name)
    assert "\n" not in str(refused.value)


@NO_GPU
@pytest.mark.parametrize("flavour", [RTX, CLASSIC])
def test_here_needs_a_gpu(flavour: Flavour) -> None:
    with pytest.raises(MissingGpu, match=r"builds for the GPU of this machine, and there is no CUDA driver"):
        resolve_target(flavour, "here")


def test_no_flavour_is_told_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPart, match=r'TensorRT is not installed: pip install "byolt\[rtx\]" for engines of RTX'):
        choose_flavour()
    with pytest.raises(MissingPart, match=r"TensorRT for RTX is not installed"):
        choose_flavour("tensorrt_rtx")


def test_a_flavour_that_does_not_load_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert choose_flavour().name == "tensorrt_rtx"
    with pytest.raises(MissingPart, match=r"TensorRT does not load: libnvinfer\.so\.10: cannot open .*; pip install"):
        choose_flavour("tensorrt")


def test_log_lines_without_their_places() -> None:
    assert plain(
        "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one output. "
        "In validate at /_src/optimizer/api/network.cpp:3810)"
    ) == "Network must have at least one output"  # fmt: skip
    assert plain("Error reading CUDA GPU properties (cudaError 35: CUDA driver version is insufficient)") == ""
    assert plain("[x.cpp::catchCudaError::229] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:229)") == ""
