"""The public API: a module and images in, a bundle out; a bundle and frames in, embeddings out."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.export import small
from tests.export.small import SIZE_PX, encoder, images

import byolt_export
from byolt_export import Encoder, build_bundle, verify
from byolt_export.bundle.folder import read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.bundle.image_input import Input
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.images import calibration_taken, choose_images, image_digest
from byolt_export.proof.report import Report, read_report
from byolt_export.runtime.onnx_runner import OnnxRunner
from byolt_export.runtime.resize import to_inputs, to_square

PIXELS = small.PIXELS
FRAMES = [images(1, 64, seed=5)[0, :, :40], images(1, 32, seed=6)[0], images(1, 24, seed=7)[0]]


def test_nothing_heavy_is_loaded_before_a_name_is_asked_for() -> None:
    script = (
        "import sys, os, byolt_export\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
        "print(sorted(n for n in sys.modules if n.startswith('byolt') or n in ('numpy', 'pydantic', 'torch')))\n"
        "from byolt_export import Encoder, build_bundle, verify\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'PIL'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['byolt_export']\n"), done.stderr
    assert set(byolt_export.__all__) <= set(dir(byolt_export))
    with pytest.raises(AttributeError, match="has no attribute 'encode'"):
        _ = byolt_export.encode


def test_three_lines_make_a_proven_bundle(tmp_path: Path) -> None:
    report = build_bundle(encoder(), tmp_path / "bundle", images=images(60), size_px=SIZE_PX)
    assert (report.verdict, [file.name for file in report.files]) == ("passed", ["encoder.onnx"])
    manifest = read_manifest(tmp_path / "bundle")
    contract = manifest.contract
    assert (contract.input.mean, contract.input.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (contract.input.resize, contract.input.opt_batch, contract.input.max_batch) == ("crop", 8, 64)
    assert (contract.output.name, contract.classes, manifest.golden.kind) == ("embedding", (), "dataset")
    assert verify(str(tmp_path / "bundle")).verdict == "passed"
    embeddings = Encoder(tmp_path / "bundle")(FRAMES)
    assert (embeddings.shape, embeddings.dtype) == ((3, 32), np.float32)


def test_golden_images_are_embedded_as_pytorch_did(bundle: Path) -> None:
    golden = read_golden(bundle, read_manifest(bundle))
    opened = Encoder(bundle)
    assert (opened.file, opened.precision, opened.dim, opened.classes) == ("encoder.onnx", "fp32", 32, ())
    found = opened(golden.images)  # 24 images, at most 10 at once.
    np.testing.assert_array_equal(found[:10], OnnxRunner(bundle / "encoder.onnx")(golden.images[:10]))
    np.testing.assert_allclose(found, golden.reference, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(opened(list(golden.images)), found)


def test_frames_of_any_size_are_resized_as_pillow_does(bundle: Path) -> None:
    from PIL import Image

    crop = Image.fromarray(FRAMES[0][12:52])  # 64 x 40: the centre 40 rows.
    square = np.asarray(crop.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR))
    run = OnnxRunner(bundle / "encoder.onnx")
    found = Encoder(bundle)(FRAMES)
    np.testing.assert_array_equal(found[:1], run(square[None]))
    np.testing.assert_array_equal(found[1:2], run(FRAMES[1][None]))
    np.testing.assert_array_equal(Encoder(bundle)(FRAMES[0]), found[:1])
    whole = Image.fromarray(FRAMES[0]).resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(to_square(FRAMES[0], SIZE_PX, "squash"), np.asarray(whole))


@pytest.mark.parametrize("nothing", [[], np.empty((0, 40, 40, 3), np.uint8)])
def test_no_frames_give_no_outputs(nothing: Any, bundle: Path) -> None:
    found = Encoder(bundle)(nothing)
    assert (found.shape, found.dtype) == ((0, 32), np.float32)


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        (FRAMES[1].astype(np.float32), r"frame 0 is float32 \(32, 32, 3\): give uint8 arrays \(H, W, 3\), RGB"),
        ([FRAMES[1], FRAMES[1][..., 0]], r"frame 1 is uint8 \(32, 32\): give"),
        (FRAMES[1][..., :1], r"frame 0 is uint8 \(32, 32, 1\): give"),
        (["part.png"], r"frame 0 is str: give"),
        (np.empty((0, 32, 3), np.uint8), r"frame 0 is \(0, 32, 3\) and holds no pixel"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_frame_is_refused(frames: Any, fault: str, bundle: Path) -> None:
    with pytest.raises(InputError, match=f"^{fault}"):
        Encoder(bundle)(frames)


def test_a_camera_bundle_takes_frames_of_that_camera_alone(tmp_path: Path) -> None:
    frames = images(24, 48)[:, :40]
    small.build(tmp_path / "bundle", golden=frames, camera_px=(40, 48))
    run = OnnxRunner(tmp_path / "bundle" / "encoder.onnx")
    np.testing.assert_array_equal(Encoder(tmp_path / "bundle")(frames[0]), run(frames[:1]))
    with pytest.raises(InputError, match="frame 0 is 32 x 32 px, and the bundle takes 48 x 40 px alone"):
        Encoder(tmp_path / "bundle")(FRAMES[1])


def verdicts(folder: Path, **by_precision: str) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    for file in tree["files"]:
        file["verdict"] = by_precision.get(file["precision"], file["verdict"])
    (folder / "manifest.json").write_text(json.dumps(tree))


def test_a_file_that_did_not_pass_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    assert Encoder(copy, runtime="cpu", precision="fp16").file == "encoder.fp16.onnx"
    verdicts(copy, fp32="failed")
    assert Encoder(copy).file == "encoder.fp16.onnx"  # The next best.
    verdicts(copy, fp16="not run here")
    with pytest.raises(MissingPart, match=r"encoder\.onnx is not proven \(verdict `failed`\): run byolt verify"):
        Encoder(copy)
    assert Encoder(copy, allow_unproven=True).file == "encoder.onnx"


@pytest.mark.usefixtures("unchecked")
def test_what_is_asked_for_is_opened_or_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPart, match="holds nothing that may run here: it has no engine for tensorrt"):
        Encoder(bundle, runtime="tensorrt")
    with pytest.raises(MissingPart, match="holds nothing that may run here: it has no int8 file for auto"):
        Encoder(bundle, precision="int8")
    with pytest.raises(InputError, match="runtime 'gpu' is not known: it is auto, tensorrt, cuda, cpu or openvino"):
        Encoder(bundle, runtime="gpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision 'bf16' is not known"):
        Encoder(bundle, precision="bf16")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPart, match="ONNX Runtime is not installed"):
        Encoder(bundle)


def test_an_engine_without_its_gpu_leaves_the_place_to_onnx_runtime(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from byolt_export.tensorrt.add_engines import add_engines, choose_targets

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    add_engines(copy, *choose_targets(("rtx30",), "tensorrt_rtx"), precisions=("fp16",))
    tree = json.loads((copy / "manifest.json").read_text())
    tree["engines"][0]["verdict"] = "passed"
    (copy / "manifest.json").write_text(json.dumps(tree))
    assert Encoder(copy, runtime="cpu").file == "encoder.onnx"
    if not Path("/dev/nvidia0").exists():
        assert Encoder(copy).file == "encoder.onnx"
        with pytest.raises(MissingPart, match="runs engines on a GPU, and there is no CUDA driver"):
            Encoder(copy, runtime="tensorrt")
        with pytest.raises(MissingPart, match="CUDA provider runs on a GPU"):
            Encoder(copy, runtime="cuda")


def test_without_pillow_frames_of_the_right_size_still_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert Encoder(bundle)(FRAMES[1]).shape == (1, 32)
    with pytest.raises(MissingPart, match=r'Pillow is not installed.*pip install "byolt\[export\]", or give 32 x 32'):
        Encoder(bundle)(FRAMES[0])


def rows(images: Any) -> set[bytes]:
    return set(map(image_digest, images))


def test_no_image_is_in_two_of_the_sets_drawn_from_one() -> None:
    given = images(200)
    given[7] = given[3]
    shown = choose_images(given, PIXELS, ("fp32", "int8"))
    assert shown.calibration is not None
    assert shown.gallery is not None
    sets = [rows(shown.golden), rows(shown.calibration), rows(shown.gallery)]
    assert [len(each) for each in sets] == [49, 49, 101]  # A quarter of 199 different images, twice; the rest.
    assert len(set.union(*sets)) == 199
    again = choose_images(given, PIXELS, ("fp32", "int8"))
    assert np.array_equal(again.golden, shown.golden)
    assert choose_images(given, PIXELS, ("fp32",)).calibration is None


def test_fp16_alone_takes_images_to_decide_where_they_tell_something() -> None:
    assert calibration_taken(511, PIXELS, ("fp16",)) == 0
    assert calibration_taken(512, PIXELS, ("fp32", "fp16")) == 128
    assert calibration_taken(511, PIXELS, ("int8",)) == 127
    assert calibration_taken(60, PIXELS, ("int8",)) == 32
    assert calibration_taken(10**6, PIXELS, ("fp16",)) == 4096
    assert calibration_taken(10**6, PIXELS, ("fp16",), wanted=300) == 300
    assert calibration_taken(10**6, PIXELS, ("fp32",), wanted=300) == 0


def test_few_images_are_golden_first_and_too_few_are_refused() -> None:
    fewest = choose_images(images(40), PIXELS, ("fp32", "int8"))
    assert fewest.calibration is not None
    assert (len(fewest.golden), len(fewest.calibration), fewest.gallery) == (8, 32, None)
    with pytest.raises(InputError, match="39 different images are too few to prove a bundle: give at least 40"):
        choose_images(images(39), PIXELS, ("fp32", "int8"))
    with pytest.raises(InputError, match="1 different images are too few to prove a bundle: give at least 8"):
        choose_images(np.zeros((20, 40, 50, 3), np.uint8), PIXELS, ("fp32",))
    camera = Input(**(PIXELS.model_dump() | {"camera_px": (40, 48)}))
    assert to_inputs(images(2, 48)[:, :40], camera).shape == (2, 40, 48, 3)


def test_parity_json_is_read_as_it_was_written(report: Report) -> None:
    assert read_report(report.path, read_manifest(report.path)) == report
