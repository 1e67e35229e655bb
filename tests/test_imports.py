"""What a run imports, and when: nothing that it does not need, and what is heavy only where it is used."""

import json
import os
import subprocess
import sys

import pytest
from benchmarks.startup import imported

STAGES = """\
import json, sys

def told(stage):
    stages[stage] = sorted(sys.modules)

def learn(name, *settings):
    sets = [word for key in (f"machine.runs_dir={name}", *settings) for word in ("--set", key)]
    try:
        main(["pretrain", "tiny.yaml", *sets])
    except SystemExit as left:
        assert left.code == 0

stages = {}
from byolt.cli import main
told("commands")
import byolt.console.progress, byolt.console.summary, byolt.training.loop
told("parts")
learn("torchvision", "model.backbone=resnet18", "model.args={}")
told("torchvision")
learn("timm")
told("timm")
print(json.dumps(stages))
"""
TINY = """\
data: {name: synthetic, synthetic_images: 64, image_size_px: 16, cache_dir: cache}
model:
  backbone: timm/resnet18
  args: {layers: [1, 1, 1, 1], channels: [16, 16, 16, 16]}
  projector: {hidden_dim: 16, out_dim: 8}
  predictor: {hidden_dim: 16, out_dim: 8}
optim: {name: sgd, batch_size: 16}
schedule: {epochs: 1, warmup_epochs: 0}
evaluation: {probe_images: 64, knn_k: 5}
machine: {threads: 1, log_every_steps: 1, device: cpu}
"""
# Parts of byolt[train] and its neighbours that learning has no use for.
NOT_FOR_LEARNING = {
    *("albumentations", "cv2", "jinja2", "matplotlib", "onnx", "onnxruntime", "onnxscript", "sklearn"),
    *("tensorboard", "tensorrt", "tensorrt_rtx", "torch.utils.tensorboard"),
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Modules there are after each stage of a process that learns, in full, with an encoder of either library."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "tiny.yaml").write_text(TINY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", STAGES], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {stage: set(modules) for stage, modules in json.loads(done.stdout.splitlines()[-1]).items()}


def test_the_command_line_alone_imports_nothing_heavy(stages: dict[str, set[str]]) -> None:
    assert "click" in stages["commands"]
    assert not stages["commands"] & {"numpy", "pydantic", "rich", "ruamel.yaml", "torch"}


def test_encoders_and_the_compiler_come_only_with_an_encoder(stages: dict[str, set[str]]) -> None:
    assert "torch" in stages["parts"]
    assert not stages["parts"] & {"timm", "torchvision", "torch._dynamo", "torch._inductor", "sympy"}


def test_a_torchvision_encoder_needs_no_timm(stages: dict[str, set[str]]) -> None:
    assert "torchvision.models.resnet" in stages["torchvision"]
    assert "timm" not in stages["torchvision"]


@pytest.mark.parametrize("stage", ["torchvision", "timm"])
def test_a_whole_run_imports_nothing_that_it_has_no_use_for(stages: dict[str, set[str]], stage: str) -> None:
    assert stage in stages[stage]
    assert not stages[stage] & NOT_FOR_LEARNING


def test_imports_are_told_apart_by_who_asked_for_them() -> None:
    told = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |     encodings
import time:       100 |        100 |       numpy.linalg
import time:       100 |        200 |     numpy
import time:       100 |        100 |     json
import time:       100 |        400 |   byolt.data
import time:       100 |        100 |   no_such_package
import time:       100 |        100 |   byolt_export
import time:       100 |        700 | byolt
a line of a program's own | with | bars
import time:       100 |        100 | numpy.ma
"""
    # Asked for by byolt.data; by byolt; by nobody's import, so by a call. json is Python's, numpy.linalg is numpy's.
    assert imported(told) == (["numpy", "numpy.ma"], ["byolt.data", "byolt_export", "byolt"])
