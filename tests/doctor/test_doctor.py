"""The doctor's judgement on machines that are described, and its look at this one."""

from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest

from byolt.doctor.findings import Finding, examine, to_json, to_text
from byolt.doctor.survey import MachineFacts, survey, torch_cuda
from byolt_export.cuda import Gpu

HEALTHY = MachineFacts(
    byolt="0.1.0",
    python="3.11.7",
    system="Linux x86_64",
    cores=8,
    packages={
        "torch": "2.10.0",
        "torchvision": "0.25.0",
        "timm": "1.0.20",
        "albumentations": "2.0.8",
        "onnx": "1.20.0",
        "onnxscript": "0.6.0",
        "onnxruntime-gpu": "1.27.0",
        "tensorboard": "2.20.0",
        "tensorrt": "11.1.0.106",
        "tensorrt-cu13": "11.1.0.106",
        "tensorrt-rtx-cu13-bindings": "1.7.1.116",
        "tensorrt-rtx-cu13-libs": "1.7.1.116",
    },
    licences={"tensorrt": "Proprietary"},
    driver_cuda=(13, 0),
    gpus=(Gpu("NVIDIA RTX A4000", 86),),
    torch_cuda=13,
    onnxruntime_cuda=13,
    built_providers=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    usable_providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
)


def machine(*, without: tuple[str, ...] = (), packages: dict[str, str] | None = None, **changes: Any) -> MachineFacts:
    kept = {name: version for name, version in HEALTHY.packages.items() if name not in without}
    return replace(HEALTHY, packages=kept | (packages or {}), **changes)


CPU_RUNTIME: Any = {"without": ("onnxruntime-gpu",), "packages": {"onnxruntime": "1.27.0"}}


def misfits(described: MachineFacts) -> list[Finding]:
    return [finding for finding in examine(described) if finding.what == "misfit"]


def state(described: MachineFacts, what: str) -> str:
    return " | ".join(finding.state for finding in examine(described) if finding.what == what)


def test_a_healthy_machine_needs_nothing() -> None:
    findings = examine(HEALTHY)
    assert [finding for finding in findings if finding.mend or finding.what == "misfit"] == []
    assert state(HEALTHY, "GPU") == "NVIDIA RTX A4000 (compute capability 8.6); driver for CUDA 13.0"
    assert "built with Tensorrt, CUDA, CPU (CUDA 13); usable here: CUDA, CPU" in state(HEALTHY, "ONNX Runtime")
    assert state(HEALTHY, "TensorRT").startswith("TensorRT 11.1.0.106 (tensorrt); NVIDIA's licence: Proprietary | ")
    assert "TensorRT for RTX 1.7.1.116 (tensorrt-rtx-cu13-bindings)" in state(HEALTHY, "TensorRT")


OLD_RTX = dict.fromkeys(("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"), "1.4.0.76")
MISFITS = (
    (
        machine(packages={"onnxruntime": "1.27.0"}),
        "onnxruntime and onnxruntime-gpu are both installed",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    (
        machine(**CPU_RUNTIME),
        "onnxruntime 1.27.0 runs on the CPU alone, and NVIDIA RTX A4000 (compute capability 8.6) is here",
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    ),
    (  # JetPack 7, or a server: wheels for aarch64 are there since 1.29.
        machine(**CPU_RUNTIME, system="Linux aarch64", python="3.12.3"),
        "onnxruntime 1.27.0 runs on the CPU alone",
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    ),
    (
        machine(driver_cuda=(12, 8), torch_cuda=12),
        "onnxruntime-gpu 1.27.0 is built for CUDA 13, and the driver serves CUDA 12.8 at most",
        "install an NVIDIA driver for CUDA 13 (branch 580 or later)",
    ),
    (machine(driver_cuda=(12, 8), onnxruntime_cuda=12), "torch 2.10.0 is built for CUDA 13", "branch 580"),
    (machine(packages={"torch": "2.8.1+cu129"}), "torch 2.8.1+cu129 is older than 2.9", '-U "torch>=2.9"'),
    (machine(packages={"onnxruntime-gpu": "1.26.2"}), "does not know TensorRT 11.1", '"onnxruntime-gpu>=1.27"'),
    (machine(packages={"tensorrt": "10.0.1"}), "TensorRT 10.0.1 is older than 10.3", '"tensorrt>=10.3"'),
    (machine(packages=OLD_RTX), "RTX 1.4.0.76 builds fp32 and fp16, but no INT8", '"tensorrt-rtx-cu13-libs>=1.7"'),
    (
        machine(packages={"tensorrt-rtx-cu13-libs": "1.6.0.1"}),
        "needs tensorrt-rtx-cu13-libs 1.7.1.116, and 1.6.0.1 is installed",
        'pip install "tensorrt-rtx-cu13-libs==1.7.1.116"',
    ),
    (machine(without=("tensorrt-rtx-cu13-libs",)), "1.7.1.116, and there is none", 'libs==1.7.1.116"'),
    (machine(gpus=(Gpu("H100", 90),)), "does not serve H100 (compute capability 9.0)", 'pip install "byolt[trt]"'),
    (
        machine(gpus=(Gpu("Orin", 87),), jetson=True, without=("tensorrt-cu13",), system="Linux aarch64"),
        "TensorRT for RTX does not serve Orin (compute capability 8.7)",
        "sudo apt install python3-libnvinfer",
    ),
    (
        machine(jetson=True, system="Linux aarch64"),
        "tensorrt-cu13 11.1.0.106 is for data-centre GPUs",
        "pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs && sudo apt",
    ),
)


@pytest.mark.parametrize(("described", "said", "mend"), MISFITS)
def test_a_pair_that_does_not_fit(described: MachineFacts, said: str, mend: str) -> None:
    (found,) = misfits(described)
    assert said in found.state
    assert mend in found.mend


@pytest.mark.parametrize(
    "described",
    [
        machine(driver_cuda=(13, 2), onnxruntime_cuda=12, torch_cuda=12),  # A later driver serves earlier builds.
        machine(driver_cuda=None, gpus=()),  # Without a driver nothing has to fit one.
        machine(packages={"onnxruntime-gpu": "1.20.0", "tensorrt": "10.3.0", "tensorrt-cu13": "10.3.0"}),
        # onnxruntime-gpu has no wheel for JetPack 6, whose Python is 3.10 and whose CUDA is 12, nor for a Mac.
        machine(**CPU_RUNTIME, system="Linux aarch64", python="3.10.12"),
        machine(**CPU_RUNTIME, system="Linux aarch64", driver_cuda=(12, 6), torch_cuda=12),
        machine(**CPU_RUNTIME, system="Darwin arm64"),
        machine(packages={"torch": "2.9.0"}),
        machine(torch_cuda=None, onnxruntime_cuda=None, driver_cuda=(11, 4)),
    ],
)
def test_a_pair_that_fits(described: MachineFacts) -> None:
    assert misfits(described) == []


def test_what_is_missing_comes_with_the_line_that_installs_it() -> None:
    bare = replace(HEALTHY, packages={}, driver_cuda=None, gpus=(), usable_providers=(), built_providers=())
    mends = {finding.what: finding.mend for finding in examine(bare)}
    assert mends["learning"] == 'pip install "byolt[train]"'
    assert mends["export"] == mends["ONNX Runtime"] == 'pip install "byolt[export]"'
    assert mends["TensorRT"] == 'pip install "byolt[rtx]"'
    assert "byolt[openvino]" in state(bare, "OpenVINO")
    assert state(replace(bare, packages={"openvino": "2026.4.1"}), "OpenVINO").startswith(
        "openvino 2026.4.1, on the CPU"
    )
    assert {f.what: f.mend for f in examine(replace(bare, jetson=True))}["TensorRT"].startswith("sudo apt")
    assert "no CUDA driver" in state(bare, "GPU")
    silent = machine(gpus=())
    assert (state(silent, "GPU"), misfits(silent)) == ("driver for CUDA 13.0, but no GPU answers it", [])


def test_an_onnxruntime_that_does_not_import_is_named() -> None:
    broken = machine(onnxruntime_fault="libstdc++.so.6: version not found")
    (found,) = [finding for finding in examine(broken) if finding.what == "ONNX Runtime"]
    assert found.state.endswith("does not import: libstdc++.so.6: version not found")
    assert found.mend == "pip install --force-reinstall onnxruntime-gpu"


@pytest.mark.parametrize(
    ("version", "requirements", "cuda"),
    [
        ("2.9.0+cu126", [], 12),
        ("2.10.0+cu130", ["nvidia-cublas-cu12==12.8; extra"], 13),
        ("2.9.0+cpu", ["nvidia-cublas-cu12==12.8"], None),
        ("2.9.0", ["filelock", "nvidia-cuda-nvrtc-cu12==12.8.93; platform_system == 'Linux'"], 12),
        ("2.15.0", ["cuda-toolkit[cublas]==13.2.2", "nvidia-cudnn-cu13==9.26.0.51"], 13),
        ("2.9.0", ["filelock"], None),
        ("", [], None),
    ],
)
def test_the_cuda_of_a_torch_build(version: str, requirements: list[str], cuda: int | None) -> None:
    assert torch_cuda(version, requirements) == cuda


def test_this_machine_is_seen_as_it_is() -> None:
    here = survey()
    assert here.packages["torch"] == metadata.version("torch")
    assert "CPUExecutionProvider" in here.usable_providers
    assert set(here.usable_providers) <= set(here.built_providers)
    assert (here.driver_cuda is None) <= (here.gpus == ())
    text = to_text(examine(here))
    assert f"torch {metadata.version('torch')}" in text
    assert all(len(line) < 300 for line in text.splitlines())
    assert {finding["what"] for finding in to_json(examine(here))["findings"]} >= {"GPU", "ONNX Runtime", "TensorRT"}


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cu12-bindings", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings"])
def test_tensorrt_is_found_by_each_of_its_distributions(name: str) -> None:
    words = "TensorRT for RTX" if "rtx" in name else "TensorRT"
    assert state(replace(HEALTHY, packages={name: "9.8.7"}), "TensorRT").startswith(f"{words} 9.8.7 ({name}); ")


def test_each_mend_stands_below_what_it_mends() -> None:
    lines = to_text([Finding("misfit", "a and b", "pip install c"), Finding("GPU", "none")]).splitlines()
    assert lines == ["misfit         a and b", "               -> pip install c", "GPU            none"]
