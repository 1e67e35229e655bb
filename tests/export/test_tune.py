"""INT8 that learns: the graph in PyTorch computes what the file computes, and learning brings it nearer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from tests.export.small import HOW, Inverted, Windows, build, encoder, images
from torch import nn

from byolt_export.bundle.folder import read_manifest
from byolt_export.distill.graph import Int8Graph
from byolt_export.distill.tune import regression_loss, shifted, tune
from byolt_export.errors import InputError
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import to_half
from byolt_export.proof.measures import measure, relative_l2
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.int8 import Int8
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_tensorrt import place_tensorrt


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return path


@pytest.fixture(scope="module")
def calibrated(path: Path) -> Calibrated:
    return calibrate(onnx.load(path), images(64, seed=1))


def placed(calibrated: Calibrated, engine: str) -> Any:
    every = {layer.name for layer in calibrated.layers}
    if engine == "cpu":
        return place_cpu(calibrated.model, calibrated, every)
    return place_tensorrt(to_half(calibrated.model) if engine == "half" else calibrated.model, calibrated, every)


def outputs(model: Any, shown: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # As the file says.
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers: npt.NDArray[Any] = session.run(None, {"images": shown})[0]
    return answers


def in_torch(model: Any, shown: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    with torch.no_grad():
        answers: npt.NDArray[Any] = Int8Graph(model)(torch.from_numpy(shown)).numpy()
    return answers


def test_fp32_is_the_same_function(calibrated: Calibrated) -> None:
    shown = images(16, seed=3)
    assert relative_l2(outputs(calibrated.model, shown), in_torch(calibrated.model, shown)).max() < 1e-5


@pytest.mark.parametrize("engine", ["tensorrt", "cpu"])
def test_int8_is_the_same_function(calibrated: Calibrated, engine: str) -> None:
    shown, model = images(32, seed=3), placed(calibrated, engine)
    file = outputs(model, shown)
    assert np.median(relative_l2(file, in_torch(model, shown))) < 1e-6  # A rounding may fall the other way in a few.
    assert np.median(relative_l2(outputs(calibrated.model, shown), file)) > 1e-2


@pytest.mark.parametrize(("module", "operator"), [(Inverted, "Gemm"), (Windows, "Gather")])
def test_a_convolution_as_a_product_is_the_same_function(
    module: type[nn.Module], operator: str, tmp_path: Path
) -> None:
    export_onnx(module().eval(), tmp_path / "encoder.onnx", output_name="embedding", **HOW)
    shown, calibrated = images(32, seed=3), calibrate(onnx.load(tmp_path / "encoder.onnx"), images(64))
    model = place_cpu(calibrated.model, calibrated, {layer.name for layer in calibrated.layers}, unrounded=True)
    assert any(node.op_type == operator for node in model.graph.node)
    assert np.median(relative_l2(outputs(model, shown), in_torch(model, shown))) < 1e-6


def test_fp16_beside_int8_is_computed_in_fp32(calibrated: Calibrated) -> None:
    shown = images(32, seed=3)
    half, single = (in_torch(placed(calibrated, engine), shown) for engine in ("half", "tensorrt"))
    reference = outputs(calibrated.model, shown)
    errors = [relative_l2(reference, each).mean() for each in (half, single)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_what_has_not_learned_is_written_as_it_was(calibrated: Calibrated) -> None:
    for engine in ("half", "cpu"):
        model = placed(calibrated, engine)
        assert Int8Graph(model).written() == model


@pytest.mark.parametrize("engine", ["half", "cpu"])
def test_a_damaged_file_learns_what_the_encoder_gives(calibrated: Calibrated, engine: str) -> None:
    model, shown = placed(calibrated, engine), images(32, seed=5)
    rng = np.random.default_rng(0)
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype == np.int8 and values.ndim > 1:
            noisy = np.clip(values + rng.integers(-6, 7, values.shape), -127, 127).astype(np.int8)
            constant.CopyFrom(numpy_helper.from_array(noisy, constant.name))
    seconds = iter(np.arange(0, 1000, 0.5))  # 120 steps of a minute.
    lines: list[str] = []
    learned = tune(
        model,
        calibrated.model,
        images(256, seed=1),
        minutes=1,
        on_log=lines.append,
        clock=lambda: float(next(seconds)),
    )
    reference = outputs(calibrated.model, shown)
    before, after = (relative_l2(reference, outputs(each, shown)).mean() for each in (model, learned))
    assert after < 0.93 * before
    assert len(lines) == 5
    assert lines[0] == "tuning INT8 on 256 images for 1 min"
    assert lines[1].startswith("tuning INT8: 0.2 of 1 min, loss ")
    kinds = [{constant.name: constant.data_type for constant in each.graph.initializer} for each in (model, learned)]
    assert kinds[0] == kinds[1]
    assert learned.graph.node == model.graph.node


def test_channels_that_nothing_comes_out_of_do_not_set_the_rate_of_the_others(tmp_path: Path) -> None:
    module, path = encoder().eval(), tmp_path / "encoder.onnx"
    with torch.no_grad():  # Their kernels are small, so their levels are, and their biases are large numbers of those.
        module.bn1.weight[:24], module.bn1.bias[:24] = 1e-4, -5.0  # type: ignore[index, union-attr]
    export_onnx(module, path, output_name="embedding", **HOW)
    single = calibrate(onnx.load(path), images(64, seed=1))
    model, shown = placed(single, "cpu"), images(32, seed=5)
    seconds = iter(np.arange(0, 1000, 1.5))
    learned = tune(model, single.model, images(256, seed=1), minutes=1, clock=lambda: float(next(seconds)))
    reference = outputs(single.model, shown)
    before, after = (relative_l2(reference, outputs(each, shown)).mean() for each in (model, learned))
    assert after < before


def test_the_loss_is_two_less_two_cosines() -> None:
    online, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert float(regression_loss(online, target)) == pytest.approx(((2 - 2 * 0.96) + 2) / 2)


def test_views_are_the_images_shifted_and_mirrored() -> None:
    shown = np.arange(4 * 32 * 32 * 3, dtype=np.int64).reshape(4, 32, 32, 3) % 251
    some = shown.astype(np.uint8)
    views = [shifted(some, np.random.default_rng(seed)) for seed in range(20)]
    assert all(view.shape == some.shape and view.dtype == np.uint8 for view in views)
    middle = some[:, 10:20, 10:20]
    found = {
        (mirrored, down, right)
        for view in views
        for mirrored in (False, True)
        for down in range(-2, 3)
        for right in range(-2, 3)
        if np.array_equal(
            (view[0, :, ::-1] if mirrored else view[0])[10 + down : 20 + down, 10 + right : 20 + right], middle[0]
        )
    }
    assert {mirrored for mirrored, _, _ in found} == {False, True}
    assert len({(down, right) for _, down, right in found}) > 5


def test_what_was_learned_is_taken_where_it_is_nearer_alone(path: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn", on_log=lines.append)
    file = tmp_path / "int8.onnx"

    def record(tune: Any) -> str:
        return int8.for_tensorrt(int8.calibrated.model, file, tune=tune).rule

    plain = record(None)
    untuned = file.read_bytes()

    def spoilt(model: Any, encoder: Any, part: float) -> Any:
        result = type(model)()
        result.CopyFrom(model)
        bias = next(i for i in result.graph.initializer if i.name.endswith(".bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(3), bias.name))
        return result

    assert record(spoilt) == plain
    assert file.read_bytes() == untuned
    assert "is not nearer and is not taken: relative L2" in lines[-1]

    def exact(model: Any, encoder: Any, part: float) -> Any:
        return encoder

    assert record(exact).startswith(f"{plain}; tuned: relative L2 ")
    assert file.read_bytes() != untuned


def test_a_bundle_with_tuned_int8_says_what_came_of_it(tmp_path: Path) -> None:
    lines: list[str] = []
    build(
        tmp_path / "bundle",
        precisions=("fp32", "int8"),
        calibration=images(64, seed=1),
        calibration_source="drawn",
        tuning=images(64, seed=2),
        int8="tuned",
        minutes=0.1,
        on_log=lines.append,
    )
    assert "tuning INT8 on 64 images for 0.05 min" in lines
    (told,) = [line for line in lines if line.startswith("INT8 for tensorrt") and "relative L2" in line]
    rules = {
        file.placement: file.calibration.rule for file in read_manifest(tmp_path / "bundle").files if file.calibration
    }
    assert ("; tuned: relative L2" in rules["tensorrt"]) == (" tuned, " in told)


def test_what_learned_has_to_keep_its_neighbours(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn", on_log=lines.append)
    found = iter(
        replace(measure(int8.reference, int8.reference), relative_l2_mean=error, overlap_at_1=kept)
        for error, kept in ((0.02, 0.98), (0.01, 0.96))
    )
    monkeypatch.setattr("byolt_export.quantize.int8.measure", lambda *_, **_how: next(found))
    rule = int8.for_tensorrt(int8.calibrated.model, tmp_path / "int8.onnx", tune=lambda model, *_: model).rule
    assert "tuned" not in rule
    assert lines[-1].endswith("relative L2 2.00e-02 to 1.00e-02, neighbours kept 98.0% to 96.0% of 64 images")


def test_the_share_that_is_tried_first_is_taken_where_it_keeps_enough_by_learning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn")
    parts: list[float] = []

    def exact(model: Any, encoder: Any, part: float) -> Any:
        parts.append(part)
        return encoder

    def unmoved(model: Any, encoder: Any, part: float) -> Any:
        parts.append(part)
        return model

    def made(tune: Any, *keeps_enough: bool) -> tuple[float, list[float]]:
        parts.clear()
        told = iter(keeps_enough)
        monkeypatch.setattr(Int8, "_keeps_enough", lambda *_: next(told))
        record = int8.for_tensorrt(int8.calibrated.model, tmp_path / "int8.onnx", choice="fastest", tune=tune)
        assert next(told, None) is None
        assert ("tuned" in record.rule) == (tune is exact)
        return record.int8_share, parts

    assert made(exact, True, True) == (1.0, [1.0])
    assert made(exact, False, True, True) == (1.0, [0.5])
    share, taken = made(exact, False, True, False, True)
    assert 0.5 <= share < 1.0
    assert taken == [0.5, 0.5]
    assert made(unmoved, False, True) == (share, [0.5, 0.5])  # What is not nearer is not asked about.


def test_no_image_that_it_learned_from_is_measured(tmp_path: Path) -> None:
    golden = images()
    with pytest.raises(InputError, match="an image of the tuning is among the golden images: measure on others"):
        build(
            tmp_path / "bundle",
            precisions=("int8",),
            golden=golden,
            calibration=images(64, seed=1),
            tuning=np.concatenate([images(40, seed=2), golden[:1]]),
        )
    with pytest.raises(InputError, match="an image of the tuning is among the calibration images: measure on others"):
        build(tmp_path / "bundle", precisions=("int8",), calibration=images(64, seed=1), tuning=images(64, seed=1)[5:9])
    with pytest.raises(InputError, match="no images to tune on: leave tuning out, or give some"):
        build(tmp_path / "bundle", precisions=("int8",), calibration=images(64, seed=1), tuning=images(8)[:0])
