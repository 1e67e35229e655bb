"""A file that cannot be made is a failed verdict with its reason; the others are delivered, verified and run."""

from pathlib import Path

import pytest
from tests.export.small import build, images
from tests.export.test_openvino import needs_openvino
from torch import Tensor, nn

from byolt.cli import main
from byolt_export import Encoder, verify
from byolt_export.bundle.folder import read_manifest
from byolt_export.bundle.manifest import NOT_MADE
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.report import Report, read_report
from byolt_export.runtime.openvino_runner import OPENVINO

REASON = "has no layer with a constant kernel that INT8 fits: deliver it as fp16"


class Lines(nn.Module):
    """A convolution along one axis, which INT8 has no layer for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mean(3)).relu().mean(2)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    given = {"calibration": images(32, seed=1), "calibration_source": "drawn"}
    return build(folder, Lines(), precisions=("fp32", "fp16", "int8"), **given)


def test_the_rest_is_written_and_the_failed_one_says_why(report: Report) -> None:
    assert [(file.precision, file.parity.verdict) for file in report.files] == [
        ("fp32", "passed"), ("fp16", "passed"), ("int8", "failed"), ("int8", "failed")
    ]  # fmt: skip
    assert (report.verdict, REASON in report.reason) == ("failed", True)
    manifest = read_manifest(report.path)
    failed = manifest.files[2]
    assert (failed.name, failed.sha256, failed.verdict) == ("encoder.int8.onnx", NOT_MADE, "failed")
    assert failed.reason.endswith(REASON)
    assert read_report(report.path, manifest).files[2].parity.reasons == (failed.reason,)
    assert not (report.path / failed.name).exists()
    assert REASON in (report.path / "parity.html").read_text()


def test_it_is_verified_and_run_without_that_file(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = Encoder(report.path)(images(4))
    assert outputs.shape == (4, 32)
    for allowed in (False, True):
        with pytest.raises(MissingPart, match="encoder.int8.onnx could not be made .*" + REASON):
            Encoder(report.path, precision="int8", allow_unproven=allowed)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(report.path)])
    told = capsys.readouterr()
    assert ended.value.code == 4
    assert REASON in told.err.replace("\n", " ")
    assert "encoder.fp16.onnx" in told.out


@needs_openvino
def test_one_for_openvino_is_told_of_openvino(tmp_path: Path) -> None:
    given = {"calibration": images(32, seed=1), "openvino": True}
    report = build(tmp_path / "bundle", Lines(), precisions=("fp32", "int8"), **given)
    for told in (report, verify(report.path)):
        assert (told.files[-1].name, told.files[-1].provider) == ("encoder.int8-openvino.onnx", OPENVINO)
        assert told.files[-1].parity.verdict == "failed"


def test_where_none_can_be_made_nothing_is_written(tmp_path: Path) -> None:
    given = {"calibration": images(32, seed=1), "calibration_source": "drawn"}
    with pytest.raises(InputError, match=REASON):
        build(tmp_path / "bundle", Lines(), precisions=("int8",), **given)
    assert list(tmp_path.iterdir()) == []


class Hot(nn.Module):
    """Its activations go beyond fp16's 65,504, and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x * 3e4).relu() * 30).mean((2, 3)) * 1e-6  # type: ignore[no-any-return]


def test_what_fp16_does_not_hold_fails_in_int8_for_tensorrt(tmp_path: Path) -> None:
    given = {"calibration": images(32, seed=1), "calibration_source": "drawn"}
    made = build(tmp_path / "bundle", Hot(), precisions=("fp32", "int8"), **given)
    fp32, tensorrt = (file.parity for file in made.files[:2])
    assert (fp32.verdict, tensorrt.verdict) == ("passed", "failed")
    assert tensorrt.golden is not None
    assert not tensorrt.golden.finite  # What is not int8 there is fp16.
