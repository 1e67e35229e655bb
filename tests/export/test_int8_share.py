"""How much of an encoder becomes INT8: the largest share that keeps the deciding images' neighbours."""

from pathlib import Path

import onnx
import pytest
from tests.export.small import HOW, build, encoder, images

from byolt_export import BundleOptions
from byolt_export.bundle.manifest import Placement
from byolt_export.errors import InputError
from byolt_export.onnx.export import export_onnx
from byolt_export.proof.measures import measure
from byolt_export.quantize.deciding import enough
from byolt_export.quantize.int8 import Choice, Int8, shares_tried
from byolt_export.runtime.onnx_runner import OnnxRunner


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("share") / "encoder.onnx"
    export_onnx(encoder().eval(), path, output_name="embedding", **HOW)
    return path


@pytest.fixture(scope="module")
def int8(path: Path) -> Int8:
    return Int8.of(onnx.load(path), images(128, seed=1), "drawn")


def test_each_choice_begins_elsewhere_and_ends_at_the_least() -> None:
    assert shares_tried("plain", "tensorrt", 0.5) == (0.8, 0.7, 0.6, 0.5)
    assert shares_tried("plain", "cpu", 0.9) == (1.0, 0.95, 0.9)
    assert shares_tried("fastest", "tensorrt", 0.85) == (1.0, 0.95, 0.9, 0.85)
    assert shares_tried("safest", "tensorrt", 0.6) == shares_tried("safest", "cpu", 0.6) == (0.6,)
    assert shares_tried("plain", "tensorrt", 0.9) == (0.9,)


def test_the_largest_share_that_keeps_enough_is_taken(
    path: Path, int8: Int8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = OnnxRunner(path)(int8.deciding)

    def kept(choice: Choice, least_share: float) -> tuple[float, float]:
        file = tmp_path / "encoder.onnx"
        record = int8.for_tensorrt(int8.calibrated.model, file, choice=choice, least_share=least_share)
        overlap = measure(reference, OnnxRunner(file, placement="tensorrt")(int8.deciding)).overlap_at_1
        assert overlap is not None
        return record.int8_share, overlap

    every, all_kept = kept("fastest", 1.0)
    safest, safest_kept = kept("safest", 0.5)
    assert every == 1.0
    assert 0.5 <= safest < 0.9
    assert safest_kept > all_kept  # Else nothing is to be searched for on this encoder.
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: all_kept)
    assert kept("fastest", 0.5) == (1.0, all_kept)
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: safest_kept)
    share, overlap = kept("fastest", 0.5)
    assert safest <= share < 1
    assert overlap >= safest_kept
    assert kept("plain", 0.5)[0] <= 0.9
    monkeypatch.setattr("byolt_export.quantize.deciding.enough", lambda *_, **_how: 1.1)
    assert kept("fastest", 0.5)[0] == safest  # What TensorRT gets is written all the same: the proof judges it.
    assert int8.for_cpu(tmp_path / "none.onnx") is None


@pytest.mark.parametrize("placement", ["tensorrt", "cpu"])
def test_the_layer_that_reads_the_pixels_may_be_left_out(
    placement: Placement, int8: Int8, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [layer.name for layer in int8.calibrated.layers]
    (first,) = (layer.name for layer in int8.calibrated.layers if layer.input == int8.calibrated.pixels)
    assert set(int8.harms(placement)) == set(names)
    monkeypatch.setattr(Int8, "harms", lambda *_: {name: float(name == first) for name in names})
    (left,) = int8._layers_at(placement, set(names), (0.1,))
    assert first in set(names) - left


def test_of_logits_classes_decide(path: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    int8 = Int8.of(onnx.load(path), images(128, seed=1), "drawn", gallery=0, on_log=lines.append)
    int8.for_tensorrt(int8.calibrated.model, tmp_path / "encoder.onnx")
    assert all("images keep their class, 100.0% wanted" in line for line in lines[1::2])
    assert lines[1].endswith(f"of 64 images keep their class, {enough('int8', 64, logits=True):.1%} wanted")


def test_a_bundle_decides_by_the_images_of_its_proof(tmp_path: Path) -> None:
    for classes, ending in (((), " expected among 84, "), (tuple("abcd"), " images keep their class, ")):
        lines: list[str] = []
        module = encoder(len(classes)).eval()
        how = {"calibration": images(64, seed=1), "gallery": images(60, seed=2), "classes": classes}
        build(tmp_path / "bundle", module, precisions=("int8",), on_log=lines.append, **how)
        assert any(ending in line for line in lines)
    with pytest.raises(InputError, match="int8 is 'safest', but no INT8 is made: add int8 to the precisions"):
        build(tmp_path / "bundle", int8="safest")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("int8", "quick", r"^export: int8 is 'quick': it is plain, fastest, safest, tuned$"),
        ("least_share", 0.0, r"^export: least_share is 0.0: give a share of 0.5 to 1, a file with less"),
        ("least_share", 0.49, r"^export: least_share is 0.49: give a share of 0.5 to 1, a file with less"),
        ("minutes", 0.0, r"^export: minutes is 0.0: give a number above 0$"),
        ("least_share", 60.0, r"^export: least_share is 60.0: give a share of 0.5 to 1, a file with less"),
    ],
)
def test_wrong_options_are_refused(name: str, value: object, sentence: str) -> None:
    options = BundleOptions()
    object.__setattr__(options, name, value)  # Past the types, which a user's program does not check.
    with pytest.raises(InputError, match=sentence):
        options.check(())
