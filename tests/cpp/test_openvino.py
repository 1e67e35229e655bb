"""A bundle with INT8 for OpenVINO, in the C++ library, which has no OpenVINO."""

import json
from pathlib import Path

import pytest
from tests.cpp.test_library import run
from tests.export import small
from tests.export.test_openvino import needs_openvino

from byolt_export.bundle.folder import read_manifest, write_manifest
from byolt_export.bundle.manifest import NOT_MADE

pytestmark = [pytest.mark.cpp, needs_openvino]


def test_it_is_not_run_here_and_costs_the_others_nothing(builds: Path, tmp_path: Path) -> None:
    how = {"classes": tuple("abcde"), "calibration": small.images(64, seed=1), "openvino": True}
    bundle = small.build(tmp_path / "bundle", small.encoder(num_classes=5), precisions=("fp32", "int8"), **how).path
    words = (bundle, "--json", "--provider", "CPU")
    for build in ("plain", "address"):
        *others, last = json.loads(run(builds / build / "programs/byolt-verify", *words).stdout)["files"]
        assert {file["verdict"] for file in others} == {"passed"}
        assert (last["name"], last["provider"]) == ("encoder.int8-openvino.onnx", "OpenVINO")
        assert last["verdict"] == "not run here"
        assert last["reasons"] == ["encoder.int8-openvino.onnx runs in OpenVINO, which byolt runs from Python alone"]
    manifest = read_manifest(bundle)
    for held in ({}, {"sha256": NOT_MADE}):
        failed = manifest.files[-1].model_copy(update={"verdict": "failed", "reason": "it lost too much"} | held)
        write_manifest(bundle, manifest.model_copy(update={"files": (*manifest.files[:-1], failed)}))
        last = json.loads(run(builds / "plain/programs/byolt-verify", *words, code=4).stdout)["files"][-1]
        assert (last["provider"], last["verdict"]) == ("OpenVINO", "failed")
        assert last["reasons"][0] == "failed when it was made (it lost too much)"
