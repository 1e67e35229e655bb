"""Where a file parts from PyTorch, on a graph by hand whose right tensors are the unchanged file's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.export import graphs

from byolt_export.proof.bisect import bisect
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.activation_statistics import input_batches, with_outputs
from byolt_export.runtime.onnx_runner import run_model

IMAGES = np.random.default_rng(0).integers(0, 256, (4, graphs.SIZE_PX, graphs.SIZE_PX, 3), dtype=np.uint8)
NODES = ("conv0_out", "relu0_out", "conv1_out", "relu1_out", "embedding")


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    (values,) = run_model(with_outputs(model, NODES).SerializeToString(), input_batches(model, IMAGES))
    return values


def write(path: Path, *changed: tuple[str, float]) -> Path:
    """The encoder's file, each named constant times a factor."""
    model = graphs.encoder()
    for name, factor in changed:
        (constant,) = (c for c in model.graph.initializer if c.name == name)
        constant.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(constant) * factor).astype(np.float32), name))
    onnx.save(model, path)
    return path


def test_the_node_that_brings_the_error_is_named_not_those_that_pass_it_on(tmp_path: Path) -> None:
    right = tensors(graphs.encoder())
    path = write(tmp_path / "wrong.onnx", ("conv0_weights", 1.01), ("head_weights", 1.3))
    wrong = tensors(onnx.load(path))
    found = bisect(path, right, IMAGES, limit=0.1)
    assert [layer.name for layer in found.layers] == list(NODES)
    flat = {name: (right[name].reshape(4, -1), wrong[name].reshape(4, -1)) for name in NODES}
    errors = [float(relative_l2(*flat[name]).max()) for name in NODES]
    # What a node adds to the error of its input; between relu1 and the embedding stand nodes that are not compared.
    own = [max(0.0, error - before) for before, error in zip([0.0, *errors[:-1]], errors, strict=True)]
    assert [layer.relative_l2 for layer in found.layers] == pytest.approx(errors, rel=1e-5)
    assert [layer.own for layer in found.layers] == pytest.approx(own, rel=1e-5, abs=1e-9)
    assert [layer.share for layer in found.layers] == pytest.approx([part / sum(own) for part in own], abs=1e-6)
    assert found.first_bad == found.layers[-1]
    # All of the embedding's error is above this limit, its own part is not.
    total, brought = errors[-1], errors[-2]
    assert bisect(path, right, IMAGES, limit=total - brought / 2).first_bad is None
    first = bisect(path, right, IMAGES, limit=0.001)
    assert first.first_bad == first.layers[0]
    assert first.to_text().startswith(f"the error jumps at node `conv0_out` (Conv): relative L2 {errors[0]:.2g}, of")


def test_the_right_file_has_no_bad_node(tmp_path: Path) -> None:
    path = write(tmp_path / "right.onnx")
    assert bisect(path, tensors(graphs.encoder()), IMAGES, limit=0).to_text() == "no node's error jumps (5 compared)"
