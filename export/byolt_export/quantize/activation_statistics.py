"""What real images show of a graph's tensors, through ONNX Runtime: values for scales, moments for rounding.

Axes: N rows, C channels, G groups of a convolution, K inputs of one output.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images, Outputs, as_bytes, pooled
from byolt_export.bundle.manifest import Placement
from byolt_export.errors import InputError
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.rounding import Reals, Rows
from byolt_export.runtime.onnx_runner import run_model

Values = dict[str, npt.NDArray[Any]]

_BATCH = 16
_VALUES = 2**18  # Values of a tensor that its scale is chosen on, at least 1,024 rows.
_WINDOWS = 2**23  # Values of a layer's windows that its moments are taken over.


@dataclass
class ActivationSample:
    """Some rows (N, C) of a tensor, and the bounds (C,) of all of them."""

    parts: list[Rows]
    low: Rows
    high: Rows

    @property
    def rows(self) -> Rows:
        """The rows of all batches."""
        return np.concatenate(self.parts)


@dataclass
class Moments:
    """Sums over the windows that a layer's kernel was applied to: how many, (G, K) and (G, K, K)."""

    count: int
    total: Reals
    gram: Reals

    def mean_and_covariance(self) -> tuple[Reals, Reals]:
        """Of the windows, (G, K) and (G, K, K)."""
        mean = self.total / self.count
        return mean, self.gram / self.count - mean[:, :, None] * mean[:, None]


def input_batches(model: Any, images: Images) -> Iterator[Values]:
    """Images (N, H, W, 3) as the model's input, batch by batch."""
    for start in range(0, len(images), _BATCH):
        yield {model.graph.input[0].name: as_bytes(images[start : start + _BATCH])}


def outputs_of(model: Any, images: Images, placement: Placement | None = None) -> Outputs:
    """What a model gives of images (N, H, W, C), (N, D): pooled where maps come out."""
    answers = run_model(model.SerializeToString(), input_batches(model, images), placement=placement)
    return np.concatenate([pooled(values) for values in answers])


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """A copy of a model whose outputs are these tensors."""
    result = type(model)()
    result.CopyFrom(model)
    del result.graph.output[:]
    for name in names:
        result.graph.output.add(name=name)
    return result


def collect_statistics(
    model: Any, layers: Sequence[Layer], images: Images, *, more: Iterable[str] = (), with_moments: bool = True
) -> tuple[dict[str, ActivationSample], dict[str, Moments]]:
    """Inputs of the layers and ``more`` tensors by name, and the moments of the layers' windows, in one pass.

    Raises:
        InputError: A value is not finite.
    """
    names = dict.fromkeys((*(layer.input for layer in layers), *more))
    samples: dict[str, ActivationSample] = {}
    moments: dict[str, Moments] = {}
    on_last_axis = {layer.input for layer in layers if not layer.is_conv}
    batches = -(-len(images) // _BATCH)
    for values in run_model(with_outputs(model, names).SerializeToString(), input_batches(model, images), "the model"):
        for name in names:
            x = values[name]
            rows = x if name in on_last_axis or x.ndim < 3 else np.moveaxis(x, 1, -1)
            _add_activations(samples, name, rows.reshape(-1, rows.shape[-1]).astype(np.float32), batches)
        for layer in layers if with_moments else ():
            _add_moments(moments, layer, values[layer.input], batches)
    return samples, moments


def _add_activations(tensors: dict[str, ActivationSample], name: str, rows: Rows, batches: int) -> None:
    if not np.isfinite(rows).all():
        raise InputError(
            f"`{name}` is not finite on the calibration images: fp16 does not hold what this model computes"
        )
    wanted = max(1, max(_VALUES // rows.shape[1], 1024) // batches)
    some, low, high = rows[:: max(1, len(rows) // wanted)], rows.min(axis=0), rows.max(axis=0)
    sample = tensors.setdefault(name, ActivationSample([], low, high))
    sample.parts.append(some)
    sample.low, sample.high = np.minimum(sample.low, low), np.maximum(sample.high, high)


def _add_moments(moments: dict[str, Moments], layer: Layer, x: npt.NDArray[Any], batches: int) -> None:
    groups, inputs = layer.groups, layer.kernel.size // layer.outputs
    # In float64: inputs that hardly depend on the image lose their covariance in float32 where the mean is taken off.
    windows = layer.windows(x, max(1, _WINDOWS // (groups * inputs) // batches)).astype(np.float64)
    sums = moments.setdefault(layer.name, Moments(0, np.zeros((groups, inputs)), np.zeros((groups, inputs, inputs))))
    sums.count += windows.shape[1]
    sums.total += windows.sum(axis=1)
    sums.gram += windows.transpose(0, 2, 1) @ windows
