"""A bundle with INT8 for OpenVINO, in the C++ library, which has no OpenVINO."""

import json
from pathlib import Path

import pytest
from tests.cpp.test_library import run
from tests.export import small

from byolt_export.runtime.openvino_runner import has_openvino

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.skipif(not has_openvino(), reason='OpenVINO is not installed: pip install "byolt[openvino]"'),
]


def test_it_is_not_run_here_and_costs_the_others_nothing(builds: Path, tmp_path: Path) -> None:
    how = {"classes": tuple("abcde"), "calibration": small.images(64, seed=1), "openvino": True}
    small.build(tmp_path / "bundle", small.encoder(num_classes=5), precisions=("fp32", "int8"), **how)
    for build in ("plain", "address"):
        done = run(builds / build / "programs/byolt-verify", tmp_path / "bundle", "--json", "--provider", "CPU")
        *others, last = json.loads(done.stdout)["files"]
        assert {file["verdict"] for file in others} == {"passed"}
        assert (last["name"], last["provider"]) == ("encoder.int8-openvino.onnx", "OpenVINO")
        assert last["verdict"] == "not run here"
        assert last["reasons"] == ["encoder.int8-openvino.onnx runs in OpenVINO, which byolt runs from Python alone"]
