"""Normalisation goes into the kernels that read pixels: the same function, of whole numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tests.export.small import HOW, SIZE_PX, encoder, images
from torch import Tensor, nn

from byolt_export.arrays import Images
from byolt_export.bundle.image_input import Input
from byolt_export.onnx.export import export_onnx
from byolt_export.quantize.activation_statistics import input_batches, with_outputs
from byolt_export.quantize.exact_pixels import read_pixels
from byolt_export.runtime.onnx_runner import run_model


def exported(folder: Path, module: nn.Module, **changes: Any) -> onnx.ModelProto:
    pixels = Input(**HOW["pixels"].model_dump() | changes)
    export_onnx(module.eval(), folder / "encoder.onnx", output_name="embedding", **HOW | {"pixels": pixels})
    return onnx.load(folder / "encoder.onnx")


def outputs(model: onnx.ModelProto, shown: Images, name: str = "embedding") -> npt.NDArray[Any]:
    alone = with_outputs(model, [name]).SerializeToString()
    return np.concatenate([values[name] for values in run_model(alone, input_batches(model, shown))])


def test_it_computes_what_it_did_from_whole_numbers_at_the_edge_too(tmp_path: Path) -> None:
    model, shown = exported(tmp_path, encoder()), images(20)
    shown[0], shown[1] = 0, 255
    expected = outputs(model, shown)
    name = read_pixels(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(outputs(model, shown), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    read = outputs(model, shown, str(name))
    assert read.shape == (20, 4, SIZE_PX, SIZE_PX)
    np.testing.assert_array_equal(read[:, :3], shown.transpose(0, 3, 1, 2).astype(float) - 128)
    assert (read[:, 3] == 127).all()
    assert not [node for node in model.graph.node if node.op_type == "Mul"]  # No normalisation is left.


def test_grey_pixels_stay_one_channel(tmp_path: Path) -> None:
    model = exported(tmp_path, encoder(), channels=1, colour_order="grey")
    shown = images(20)[..., :1]
    expected = outputs(model, shown)
    name = read_pixels(model)
    np.testing.assert_allclose(outputs(model, shown), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert outputs(model, shown, str(name)).shape[1] == 2


class Twice(nn.Module):
    """Reads its pixels by a convolution, and as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) + x.mean((1, 2, 3))[:, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "changes"),
    [(Twice(), {}), (encoder(), {"bit_depth": 12, "dtype": "uint16", "byte_order": "little"})],
)
def test_what_does_not_fit_is_left_as_it_is(module: nn.Module, changes: dict[str, Any], tmp_path: Path) -> None:
    model = exported(tmp_path, module, **changes)
    before = model.SerializeToString()
    assert read_pixels(model) is None
    assert model.SerializeToString() == before
