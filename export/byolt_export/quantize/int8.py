"""An encoder in INT8: calibrated once, then written for the engine that is to run it."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.manifest import LEAST_NAMED, Calibration, Placement
from byolt_export.errors import InputError
from byolt_export.proof.images import LEAST_IMAGES
from byolt_export.proof.measures import measure
from byolt_export.quantize.activation_statistics import outputs_of
from byolt_export.quantize.calibrate import Calibrated, Rule, calibrate
from byolt_export.quantize.deciding import CALIBRATED, keeps_enough
from byolt_export.quantize.layers import find_layers
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_openvino import place_openvino
from byolt_export.quantize.place_tensorrt import place_tensorrt
from byolt_export.quantize.sensitivity import judges, most_sensitive, output_errors
from byolt_export.quantize.time_won import times_won_us

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Tried in turn until enough neighbours are kept: for TensorRT of the multiply-adds in int8, for a CPU of the time that
int8 wins on this one."""
_CPU_LEAST_WORK = 0.6
"""Of the multiply-adds in int8 for a CPU, unless the least share that is asked for is tried: another CPU wins more."""
Choice = Literal["plain", "fastest", "safest", "tuned"]
# TensorRT computes the rest in fp16, which is fast.
_PLAIN: Mapping[Placement, float] = {"tensorrt": 0.8, "cpu": 1.0, "openvino": 1.0}
CHOICES: Mapping[Choice, Mapping[Placement, float]] = {
    "plain": _PLAIN,
    "fastest": {"tensorrt": 1.0, "cpu": 1.0, "openvino": 1.0},
    "safest": {"tensorrt": 0.0, "cpu": 0.0, "openvino": 0.0},
    "tuned": _PLAIN,
}
"""The share that is tried first; what is `tuned` learns afterwards."""
_LEAST_COST = 0.01
"""Of all time that INT8 wins, what a layer in fp32 costs at least: what lies between it and others in INT8."""
_TIMED = 8  # Images of the batch that layers are timed on.


def shares_tried(choice: Choice, placement: Placement, least_share: float) -> tuple[float, ...]:
    """Shares of the multiply-adds in int8 from the first to be tried down to the least."""
    return (*(share for share in SHARES if least_share < share <= CHOICES[choice][placement]), least_share)


Place = Callable[[Any, Calibrated, Collection[str]], Any]
_PLACE: Mapping[Placement, Place] = {"tensorrt": place_tensorrt, "cpu": place_cpu, "openvino": place_openvino}
_UNROUNDED: Place = partial(place_cpu, unrounded=True)
Tune = Callable[[Any, Any, float], Any]
"""A graph in INT8, the encoder in fp32 and a share of the file's minutes, to the graph in INT8 after it has learned."""


class _Made(NamedTuple):
    """A graph in INT8."""

    model: Any
    names: set[str]
    """Of its layers in INT8."""
    keeps_enough: bool
    learned: str = ""
    """What came of learning, in words; empty where nothing did."""


@dataclass(frozen=True)
class Int8:
    """An encoder that was calibrated, and the images that decide which layers are left out."""

    calibrated: Calibrated
    deciding: Images
    record: Calibration
    """Of all layers; ``int8_share`` and ``fp16_layers`` are each file's own."""
    calibrating: Images
    gallery: int
    """Images that the proof will look for neighbours among; 0 where it asks for classes."""
    on_log: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls,
        model: Any,
        images: Images,
        source: str,
        rule: Rule = "least error",
        gallery: int = 1,
        on_log: Callable[[str], None] = lambda _: None,
    ) -> "Int8":
        """Calibrate a graph of ``export_onnx`` in fp32 on up to 256 of the images, at most half; the others decide.

        Args:
            model: The graph, which stays as it is.
            images: Raw images (N, H, W, C), uint8, none of which may be used to measure the result.
            source: Where they come from, for the manifest.
            rule: How scales and rounding are chosen.
            gallery: Images that the proof will look for neighbours among; 0 where the outputs are logits, whose classes
                decide.
            on_log: Takes a line on what is found.

        Raises:
            InputError: Too few images, no layer to quantise, or activations that are not finite.
            MissingPart: ONNX Runtime is not installed.
        """
        if len(images) < LEAST_IMAGES:
            raise InputError(f"{len(images)} images are too few to calibrate INT8: give at least {LEAST_IMAGES}")
        if not find_layers(model)[0]:
            raise InputError("the encoder has no layer with a constant kernel that INT8 fits: deliver it as fp16")
        order = np.random.default_rng(0).permutation(len(images))  # Neighbours in a folder are often of one kind.
        half = min(CALIBRATED, -(-len(images) // 2))
        calibrated = calibrate(model, images[order[:half]], rule=rule)
        record = Calibration(
            images=len(images),
            source=source,
            sha256=hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            rule="; ".join([rule, *(f"{name} to nearest" for name in calibrated.plain)]),
            int8_share=1.0,
            fp16_layers=(),
        )
        return cls(calibrated, images[order[half:]], record, images[order[:half]], gallery, on_log)

    def for_tensorrt(
        self,
        half: Any,
        path: Path,
        *,
        choice: Choice = "plain",
        least_share: float = LEAST_NAMED,
        tune: Tune | None = None,
    ) -> Calibration:
        """Write the file for TensorRT: the largest share in INT8 that keeps ``enough``, else the least.

        Args:
            half: ``calibrated.model`` in fp16 (or left in fp32, which it then is where it is not int8).
            path: The file to write; the same bytes from run to run.
            choice: Where the search begins.
            least_share: Of the multiply-adds, what becomes int8 at least, where the graph has so much that int8 fits.
            tune: Lets the file learn; what came of it is taken where the deciding images come out nearer.
        """
        names = {layer.name for layer in self.calibrated.layers}
        if self.calibrated.rule == "least error":
            made = self._made("tensorrt", half, names, shares_tried(choice, "tensorrt", least_share), tune)
        else:
            made = _Made(place_tensorrt(half, self.calibrated, names), names, keeps_enough=True)
        return self._write(made, path)

    def for_cpu(
        self,
        path: Path,
        placement: Literal["cpu", "openvino"] = "cpu",
        *,
        choice: Choice = "plain",
        least_share: float = LEAST_NAMED,
        tune: Tune | None = None,
    ) -> Calibration | None:
        """Write a file for a CPU, in the same way; where no share keeps ``enough`` none: it would not pass.

        Where not all of it keeps enough, layers are timed on this CPU in ONNX Runtime, so that two exports of its file
        may leave out others.

        Args:
            path: The file to write.
            placement: For ONNX Runtime, or for OpenVINO.
            choice: Where the search begins.
            least_share: Of the multiply-adds, what becomes int8 at least.
            tune: Lets the file learn, as for TensorRT.
        """
        every = {layer.name for layer in self.calibrated.layers if not layer.is_transposed}
        tried = shares_tried(choice, placement, least_share)
        made = self._made(placement, self.calibrated.model, every, tried, tune)
        return self._write(made, path) if made.keeps_enough else None

    def _made(
        self, placement: Placement, rest: Any, every: set[str], shares: Sequence[float], tune: Tune | None
    ) -> _Made:
        """The graph at the first share that keeps enough neighbours, else at the last; ``rest`` is what it is put into.

        With ``tune`` the share that was tried first is preferred where it keeps enough once it has learned.
        """
        tried, keeps_enough = self._searched(placement, every, shares)
        (first_place, first), (place, last) = tried[0], tried[-1]
        is_first = len(tried) == 1
        if tune is not None and not is_first:
            made = self._tuned(first_place(rest, self.calibrated, first), first, tune, 0.5, placement)
            if made.keeps_enough:
                return made
        made = _Made(place(rest, self.calibrated, last), last, keeps_enough)
        if tune is None:
            return made
        learned = self._tuned(made.model, last, tune, 1.0 if is_first else 0.5, placement)
        return learned if learned.learned else made

    def _searched(
        self, placement: Placement, every: set[str], shares: Sequence[float]
    ) -> tuple[list[tuple[Place, set[str]]], bool]:
        """What was tried in turn, and whether the last of it keeps enough neighbours."""
        tried, model = list[tuple[Place, set[str]]](), None
        for place, names in self._tries(placement, every, shares):
            before, model = model, place(self.calibrated.model, self.calibrated, names)
            if model == before:  # It has no convolution that could be left unrounded.
                continue
            tried.append((place, names))
            how = ", rounded before no sum" if place is _UNROUNDED else ""
            self.on_log(f"INT8 for {placement}: {self.calibrated.share(names):.0%} of the multiply-adds{how}")
            if self._keeps_enough(model, placement):
                return tried, True
        share = self.calibrated.share(tried[-1][1])
        self.on_log(f"INT8 for {placement}: no share keeps enough, {share:.0%} was the last")
        return tried, False

    def _tries(
        self, placement: Placement, every: set[str], shares: Sequence[float]
    ) -> Iterator[tuple[Place, set[str]]]:
        """How to place which layers, the fastest first.

        For a CPU a graph that is rounded behind every convolution is tried where all layers are in INT8: rounding
        before no sum then keeps more neighbours for the time that it takes than layers in fp32 do.
        """
        place = _PLACE[placement]
        for names in self._layers_at(placement, every, shares):
            if place is place_cpu:
                if shares[0] == 1.0:
                    yield place, names
                place = _UNROUNDED
            yield place, names

    def _layers_at(self, placement: Placement, names: set[str], shares: Sequence[float]) -> Iterator[set[str]]:
        """Names of the layers in INT8 at each share, each set once.

        What stays in floating point are the layers of most harm for what they cost: the time that int8 wins in ONNX
        Runtime on a CPU, else their multiply-adds.
        """
        layers = [layer for layer in self.calibrated.layers if layer.name in names]
        whole, for_cpu = self.calibrated.share(names), placement == "cpu"
        harms, costs = dict[str, float](), dict[str, float]()
        chosen: set[str] | None = None
        for share in shares:
            before, chosen = chosen, names
            if share < (1.0 if for_cpu else whole):
                harms, costs = harms or self.harms(placement), costs or self.costs(placement)
                floor, most_cost = share, np.inf
                if for_cpu and share > shares[-1]:
                    floor, most_cost = max(shares[-1], min(share, _CPU_LEAST_WORK)), (1 - share) * sum(costs.values())
                most = (whole - floor) * self.calibrated.multiply_adds
                chosen = names - most_sensitive(harms, layers, costs, most_cost=most_cost, most_multiply_adds=most)
            if chosen != before:  # Else no layer is small enough to be left out.
                yield chosen

    def _keeps_enough(self, model: Any, placement: Placement) -> bool:
        return keeps_enough("int8", self.reference, self._outputs(model, placement), self.gallery, self.on_log)

    def _tuned(self, model: Any, names: set[str], tune: Tune, part: float, placement: Placement) -> _Made:
        """The graph after it has learned; as it was, and nothing ``learned``, where nothing came of it."""
        learned = tune(model, self.calibrated.model, part)
        logits = not self.gallery
        outputs = (self._outputs(each, placement) for each in (model, learned))
        before, after = (measure(self.reference, each, logits=logits) for each in outputs)
        kept = [each.top_1_agreement if logits else each.overlap_at_1 for each in (before, after)]
        is_nearer = after.relative_l2_mean < before.relative_l2_mean and (kept[1] or 0.0) >= (kept[0] or 0.0)
        told = f"relative L2 {before.relative_l2_mean:.2e} to {after.relative_l2_mean:.2e}"
        if kept[0] is not None and kept[1] is not None:
            what = "classes" if logits else "neighbours"
            told += f", {what} kept {kept[0]:.1%} to {kept[1]:.1%} of {len(self.deciding)} images"
        if not is_nearer:
            self.on_log(f"INT8 for {placement}: what was tuned is not nearer and is not taken: {told}")
            return _Made(model, names, keeps_enough=False)
        self.on_log(f"INT8 for {placement} tuned, {self.calibrated.share(names):.0%} of the multiply-adds: {told}")
        return _Made(learned, names, self._keeps_enough(learned, placement), f"tuned: {told}")

    def costs(self, placement: Placement) -> dict[str, float]:
        """What a layer in floating point costs: microseconds of this CPU in ONNX Runtime, else its multiply-adds."""
        if placement == "cpu":
            won = times_won_us(self.calibrated, self.deciding[:_TIMED])
            least = _LEAST_COST * sum(won.values())
            return {name: max(least, time_us) for name, time_us in won.items()}
        return {layer.name: layer.multiply_adds for layer in self.calibrated.layers}

    def harms(self, placement: Placement) -> dict[str, float]:
        """The squared distance by which each layer's int8, alone, moves the outputs, see ``output_errors``."""
        place = _UNROUNDED if placement == "cpu" else _PLACE[placement]
        return output_errors(
            self.calibrated.model,
            self.calibrated.layers,
            lambda rest, layer: place(rest, self.calibrated, {layer.name}),
            judges(self.deciding),
        )

    @cached_property
    def reference(self) -> Outputs:
        """What the encoder in fp32 gives of the deciding images, (N, D)."""
        return self._outputs(self.calibrated.model)

    def _outputs(self, model: Any, placement: Placement | None = None) -> Outputs:
        return outputs_of(model, self.deciding, placement)

    def _write(self, made: _Made, path: Path) -> Calibration:
        import onnx

        onnx.checker.check_model(made.model, full_check=True)
        path.write_bytes(made.model.SerializeToString(deterministic=True))
        kept = tuple(layer.name for layer in self.calibrated.layers if layer.name not in made.names)
        share = self.calibrated.share(made.names)
        rule = "; ".join(filter(None, (self.record.rule, made.learned)))
        return self.record.model_copy(update={"int8_share": share, "fp16_layers": kept, "rule": rule})
