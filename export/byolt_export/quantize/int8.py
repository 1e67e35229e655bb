"""An encoder in INT8: calibrated once, then written for the engine that is to run it."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from byolt_export.arrays import Images, Outputs, pooled
from byolt_export.bundle.manifest import Calibration
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.gates import GATES
from byolt_export.proof.measures import measure
from byolt_export.quantize.activation_statistics import input_batches
from byolt_export.quantize.calibrate import Calibrated, Rule, calibrate
from byolt_export.quantize.layers import find_layers, spread
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_tensorrt import place_tensorrt
from byolt_export.quantize.sensitivity import most_sensitive, output_errors
from byolt_export.runtime.onnx_runner import run_model

LEAST_IMAGES = 32
LEAST_SHARE = 0.8
"""Of the multiply-adds that become int8 for TensorRT, whatever the measured sensitivity says."""
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Of the multiply-adds in int8, tried for a CPU until enough neighbours are kept."""
# Images that the sensitivity of each layer is measured on, fewer of large ones, 24 at 224 px.
_JUDGES, _FEWEST_JUDGES, _JUDGED_PIXELS = 128, 24, 128 * 96 * 96


def enough(images: int) -> float:
    """Neighbours that so many deciding images have to keep: the proof's gate, and two standard deviations to spare.

    Among fewer images than the proof has, neighbours lie further apart and are kept more easily.
    """
    gate = GATES["int8"].overlap_at_1
    return gate + 2 * float(np.sqrt(gate * (1 - gate) / images))


Place = Callable[[Any, Calibrated, Collection[str]], Any]


@dataclass(frozen=True)
class Int8:
    """An encoder that was calibrated, and the images that decide which layers are left out."""

    calibrated: Calibrated
    deciding: Images
    record: Calibration
    """Of all layers; ``int8_share`` and ``fp16_layers`` are each file's own."""

    @classmethod
    def of(cls, path: Path, images: Images, source: str, rule: Rule = "least error") -> "Int8":
        """Calibrate a file of ``export_onnx`` in fp32 on half of the images; the other half decides.

        Args:
            path: The file, which stays as it is.
            images: Raw images (N, H, W, C), uint8, none of which may be used to measure the result.
            source: Where they come from, for the manifest.
            rule: How scales and rounding are chosen.

        Raises:
            InputError: Too few images, no layer to quantise, or activations that are not finite.
            MissingPart: onnx or ONNX Runtime is not installed.
        """
        try:
            import onnx
        except ImportError as error:
            raise MissingPart('onnx is not installed: pip install "byolt[export]"') from error
        if len(images) < LEAST_IMAGES:
            raise InputError(f"{len(images)} images are too few to calibrate INT8: give at least {LEAST_IMAGES}")
        model = onnx.load(path)
        if not find_layers(model)[0]:
            raise InputError(f"{path} has no layer with a constant kernel that INT8 fits: deliver it as fp16")
        order = np.random.default_rng(0).permutation(len(images))  # Neighbours in a folder are often of one kind.
        half = -(-len(images) // 2)
        calibrated = calibrate(model, images[order[:half]], rule=rule)
        record = Calibration(
            images=len(images),
            source=source,
            sha256=hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            rule="; ".join([rule, *(f"{name} to nearest" for name in calibrated.plain)]),
            int8_share=1.0,
            fp16_layers=(),
        )
        return cls(calibrated, images[order[half:]], record)

    def for_tensorrt(self, half: Any, path: Path, *, least_share: float = LEAST_SHARE) -> Calibration:
        """Write the file for TensorRT: what harms most for its work stays in fp16, within ``least_share``.

        Args:
            half: ``calibrated.model`` in fp16 (or left in fp32, which it then is where it is not int8).
            path: The file to write; the same bytes from run to run.
            least_share: Of the multiply-adds, what becomes int8 at least, where the graph has so much that int8 fits.
        """
        names = {layer.name for layer in self.calibrated.layers}
        if self.calibrated.rule == "least error" and self.calibrated.share(names) > least_share:
            names = self._within(least_share, names, self.harms(place_tensorrt))
        return self._write(place_tensorrt(half, self.calibrated, names), path, names)

    def for_cpu(self, path: Path) -> Calibration | None:
        """Write the file for a CPU: as much in int8 as keeps ``enough`` of the deciding images' neighbours.

        All layers are tried first, then shares of ``SHARES``, for which the layers of most harm for their work stay
        fp32. Where none is enough nothing is written: such a file would not pass.

        Args:
            path: The file to write.
        """
        every = {layer.name for layer in self.calibrated.layers if not layer.is_transposed}
        reference = self._outputs(self.calibrated.model)
        harms: dict[str, float] = {}
        for share in SHARES:
            names = every
            if share < 1:
                harms = harms or self.harms(place_cpu)
                names = self._within(share, every, harms)
            model = place_cpu(self.calibrated.model, self.calibrated, names)
            kept = measure(reference, self._outputs(model)).overlap_at_1
            if kept is None or kept >= enough(len(self.deciding)):
                return self._write(model, path, names)
        return None

    def _within(self, share: float, names: set[str], harms: Mapping[str, float]) -> set[str]:
        """The layers without those of most harm for their work, this share of the multiply-adds at least."""
        spared = (self.calibrated.share(names) - share) * self.calibrated.multiply_adds
        return names - most_sensitive(harms, self.calibrated.may_be_kept, spared)

    def harms(self, place: Place) -> dict[str, float]:
        """The squared distance by which each layer's int8, alone, moves the outputs, see ``output_errors``."""
        images, layers = self.deciding, self.calibrated.may_be_kept
        wanted = np.clip(_JUDGED_PIXELS // (images.shape[1] * images.shape[2]), _FEWEST_JUDGES, _JUDGES)
        judges = images[spread(len(images), int(wanted))]
        return output_errors(
            self.calibrated.model, layers, lambda rest, layer: place(rest, self.calibrated, {layer.name}), judges
        )

    def _outputs(self, model: Any) -> Outputs:
        """Of the deciding images, (N, D): pooled where maps come out."""
        batches = input_batches(model, self.deciding)
        return np.concatenate([pooled(values) for values in run_model(model.SerializeToString(), batches)])

    def _write(self, model: Any, path: Path, names: Collection[str]) -> Calibration:
        import onnx

        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        kept = tuple(layer.name for layer in self.calibrated.layers if layer.name not in names)
        share = self.calibrated.share(names)
        return self.record.model_copy(update={"int8_share": share, "fp16_layers": kept})
