"""Outputs other than (B, D): feature maps, tokens, several by name; exported, proven, run, and refused where not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.export import small
from tests.export.planting import edited, reseal
from tests.export.small import HOW, images
from torch import Tensor, nn

from byolt_export import Encoder, verify
from byolt_export.arrays import pooled
from byolt_export.bundle.folder import read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.errors import InputError
from byolt_export.onnx.outputs import NamedOutputs
from byolt_export.onnx.reference import torch_maps
from byolt_export.proof.report import Report, read_report
from byolt_export.tensorrt.add_engines import add_engines


class Backbone(nn.Module):
    """Maps of 8 and 4 px, a vector, and whatever is made of them."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.given = given

    def forward(self, x: Tensor) -> Any:
        fine = self.stem(x)
        coarse = self.body(fine)
        return self.given(fine, coarse)


def by_name(fine: Tensor, coarse: Tensor) -> dict[str, Tensor | None]:
    # A name that a node of the graph has too, and what is absent in eval mode.
    return {"relu": fine, "stride8": coarse, "aux": None, "vector": coarse.mean((2, 3))}


def only_map(fine: Tensor, coarse: Tensor) -> Tensor:
    return coarse


def tokens(fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    return fine, coarse.flatten(2).transpose(1, 2)


def build(folder: Path, given: Any, **changes: Any) -> Report:
    return small.build(folder, Backbone(given), output="features", **changes)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("features") / "bundle"
    calibration = {"calibration": images(32, seed=5), "calibration_source": "drawn"}
    return build(folder, by_name, precisions=("fp32", "fp16", "int8"), bisect=True, **calibration)


def expected(given: Any, shown: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    return torch_maps(NamedOutputs(Backbone(given)), shown, **HOW)


def test_pooled_vectors_by_hand() -> None:
    # A map of channels (1, 2, 3, 6) and (0, 0, 0, 4): means 3 and 1. Two tokens (1, 5) and (3, 7): means 2 and 6.
    maps = np.array([[[[1, 2], [3, 6]], [[0, 0], [0, 4]]]], dtype=np.float32)
    both = {"map": maps, "tokens": np.array([[[1, 5], [3, 7]]], np.float32), "vector": np.array([[9]], np.float32)}
    assert pooled(both).tolist() == [[3, 1, 2, 6, 9]]


def test_every_precision_of_named_outputs_is_proven_place_by_place(features: Report) -> None:
    assert features.reason == ""
    assert [file.precision for file in features.files][:3] == ["fp32", "fp16", "int8"]
    assert {file.parity.verdict for file in features.files} == {"passed"}
    manifest = read_manifest(features.path)
    output = manifest.contract.output
    assert (output.name, output.dim) == ("features", 8 + 12 + 12)
    assert [(f.name, f.shape) for f in output.maps] == [("relu", (8, 8, 8)), ("stride8", (12, 4, 4)), ("vector", (12,))]
    golden = read_golden(features.path, manifest)
    assert golden.reference == pytest.approx(pooled(golden.maps), rel=1e-6)
    for file in features.files:
        assert [(check.name, check.images) for check in file.parity.maps] == [
            ("relu", 24),
            ("stride8", 24),
            ("vector", 24),
        ]
        worst = max(check.relative_l2_worst for check in file.parity.maps)
        assert 0 < worst <= file.parity.gates.relative_l2_worst_max
    assert read_report(features.path, manifest).files[0].parity.maps == features.files[0].parity.maps
    assert verify(str(features.path)).verdict == "passed"


def test_the_runtime_gives_what_torch_gives(features: Report) -> None:
    run, reference = Encoder(features.path), expected(by_name, images(13, seed=3))
    found = run(images(13, seed=3))  # More than max_batch.
    assert isinstance(found, dict)
    assert list(found) == list(reference) == ["relu", "stride8", "vector"]
    for name, values in reference.items():
        assert found[name].shape == values.shape
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-5)
    nothing = run([])
    assert isinstance(nothing, dict)
    assert nothing["stride8"].shape == (0, 12, 4, 4)


@pytest.mark.parametrize(
    ("given", "shapes"),
    [(only_map, {"features": (12, 4, 4)}), (tokens, {"features.0": (8, 8, 8), "features.1": (16, 12)})],
)
def test_a_single_map_and_tokens(given: Any, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    report = build(tmp_path / "bundle", given)
    assert (report.verdict, report.reason) == ("passed", "")
    found = Encoder(report.path)(images(3))
    maps = found if isinstance(found, dict) else {"features": found}
    assert {name: values.shape[1:] for name, values in maps.items()} == shapes
    for name, values in expected(given, images(3)).items():
        assert maps[name] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_a_transposed_map_fails_though_its_mean_is_right(tmp_path: Path) -> None:
    report = build(tmp_path / "bundle", lambda fine, coarse: {"fine": fine, "coarse": coarse.transpose(2, 3)})
    assert report.verdict == "passed"

    def transposed(model: Any) -> None:
        (node,) = [n for n in model.graph.node if n.op_type == "Transpose" and n.output[0] == "coarse"]
        node.attribute[0].ints[:] = (0, 1, 2, 3)

    edited(transposed)(report.path)
    reseal(report.path)
    again = verify(report.path)
    assert again.verdict == "failed"
    assert "of output `coarse` of image" in again.reason
    golden = again.files[0].parity.golden
    assert golden is not None
    assert golden.relative_l2_worst < 1e-5  # The pooled maps do not tell.


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "whole numbers": (lambda fine, coarse: coarse.argmax(1), {}, "gives int64 (24, 4, 4) as `features`"),
    "half of the batch": (lambda fine, coarse: coarse[::2], {}, "for 24 images: features are floats of shape"),
    "tuples in a dict": (lambda fine, coarse: {"a": (fine, coarse)}, {}, "gives tuple as `a`"),
    "a name of many lines": (lambda fine, coarse: {"a\nb": fine}, {}, "names an output 'a\\nb'"),
    "the input's name": (lambda fine, coarse: {"images": fine}, {}, "and not `images`"),
    "nothing": (lambda fine, coarse: {"aux": None}, {}, "Backbone gives no outputs"),
    "a string": (lambda fine, coarse: "fine", {}, "Backbone gives str, which holds no tensors by name"),
    "classes": (only_map, {"classes": ("a", "b")}, "features are neither classes nor normalized"),
    "normalized": (only_map, {"normalize": True}, "features are neither classes nor normalized"),
    "another word": (only_map, {"output": "maps"}, "output is 'maps': it is embedding or features"),
    "not asked for": (only_map, {"output": "embedding"}, 'exported with BundleOptions(output="features")'),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", REFUSED)
def test_what_are_no_features_is_one_sentence(name: str, tmp_path: Path) -> None:
    given, changes, reason = REFUSED[name]
    with pytest.raises(InputError) as caught:
        small.build(tmp_path / "bundle", Backbone(given), **({"output": "features"} | changes))
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("unchecked")
def test_engines_of_feature_maps_are_refused_before_a_build(features: Report) -> None:
    with pytest.raises(InputError, match="gives feature maps, and engines that byolt runs give one vector an image"):
        add_engines(features.path, None, ())  # type: ignore[arg-type]


def test_a_manifest_that_lies_about_its_maps_is_refused(features: Report, tmp_path: Path) -> None:
    tree = json.loads((features.path / "manifest.json").read_text())
    output = tree["contract"]["output"]
    lies: list[tuple[dict[str, Any], str]] = [
        ({"dim": 5}, "dim of features is the sum of the maps' channels"),
        ({"maps": []}, "maps go with features"),
        ({"name": "embedding"}, "maps go with features"),
        ({"maps": output["maps"] + output["maps"][:1], "dim": 40}, "an output's name stands twice"),
        ({"maps": [{"name": "a", "shape": [2**20, 2**6, 2**6]}], "dim": 2**20}, "are more than 1 GiB"),
        ({"maps": [{"name": "../a", "shape": [4]}], "dim": 4}, "name: "),
    ]
    for lie, told in lies:
        tree["contract"]["output"] = output | lie
        (tmp_path / "manifest.json").write_text(json.dumps(tree))
        with pytest.raises(InputError, match=told):
            read_manifest(tmp_path)


def test_embeddings_say_nothing_of_maps(bundle: Path) -> None:
    """Bundles of embeddings stay what readers of version 2 know."""
    text = (bundle / "manifest.json").read_text() + (bundle / "parity.json").read_text()
    assert '"maps"' not in text
    assert set(json.loads((bundle / "manifest.json").read_text())["contract"]["output"]) == {
        "name",
        "dim",
        "normalized",
    }
