"""An encoder in fp16, but for what does not fit it: tensors beyond its range, and layers that cost too many neighbours.

ONNX Runtime computes much of fp16 in fp32 on a CPU, where nothing overflows: so the range is looked at in fp32.
"""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from byolt_export.arrays import Images, Outputs
from byolt_export.proof.images import LEAST_DECIDING
from byolt_export.quantize.activation_statistics import input_batches, outputs_of, with_outputs
from byolt_export.quantize.deciding import keeps_enough
from byolt_export.quantize.layers import Layer, find_layers
from byolt_export.quantize.multiply_adds import infer
from byolt_export.quantize.sensitivity import judges, most_sensitive, output_errors
from byolt_export.runtime.onnx_runner import run_model

SHARES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the multiply-adds in fp16, tried in turn until enough neighbours are kept."""
_DECIDE = 1024
_RANGE = float(np.finfo(np.float16).max) / 2  # Half of it is left for images that were not looked at.

ToHalf = Callable[[Any, Set[str]], Any]
"""A graph in fp32, and names of tensors, to the graph in fp16: what reads or gives one of those stays fp32."""


@dataclass(frozen=True)
class Fp16:
    """An encoder in fp32, and the images that decide how much of it becomes fp16."""

    model: Any
    to_half: ToHalf
    images: Images
    """Raw images (N, H, W, C), none of which may be used to measure the result; the first 1,024 decide."""
    gallery: int
    """Images that the proof will look for neighbours among; 0 where it asks for classes."""
    on_log: Callable[[str], None] = lambda _: None

    def fitted(self) -> Any:
        """The graph at the first share that keeps ``enough``, else at the last, which the proof judges.

        Where fewer than 128 images decide, which tell nothing, all is fp16 that does not overflow.
        """
        if self.beyond_range:
            self.on_log(f"fp16: {len(self.beyond_range)} tensors stay fp32, they come near 65,504, where it ends")
        if len(self.images) < LEAST_DECIDING:
            return self._half(set())
        for full, share in self._shares():
            self.on_log(f"fp16: {share:.0%} of the multiply-adds")
            half = self._half(full)
            if keeps_enough("fp16", self.reference, outputs_of(half, self._deciding), self.gallery, self.on_log):
                return half
        self.on_log("fp16: no share keeps enough")
        return half

    def _half(self, full: set[str]) -> Any:
        return self.to_half(self.model, self.beyond_range | full)

    def _shares(self) -> Iterator[tuple[set[str], float]]:
        """Kernels that stay fp32, and the share in fp16 of the layers' multiply-adds: each set once."""
        costs = {layer.name: layer.multiply_adds for layer in self.layers}
        whole, last = max(sum(costs.values()), 1), None
        for share in SHARES:
            kept = set[str]()
            if share < 1:
                limits = {"most_cost": (1 - share) * whole, "most_multiply_adds": np.inf}
                kept = most_sensitive(self.harms, self.layers, costs, **limits)
            if kept != last:
                yield (
                    {kernel for name, kernel in self._kernels.items() if name in kept},
                    1 - sum(costs[name] for name in kept) / whole,
                )
            last = kept

    @cached_property
    def layers(self) -> list[Layer]:
        """Those that may stay fp32: products with a constant kernel."""
        return find_layers(self.model)[0]

    @property
    def _kernels(self) -> dict[str, str]:
        return {layer.name: str(layer.node.input[1]) for layer in self.layers}

    @cached_property
    def harms(self) -> dict[str, float]:
        """The squared distance by which each layer's fp16, alone, moves the outputs, see ``output_errors``."""
        kernels = self._kernels

        def alone(rest: Any, layer: Layer) -> Any:
            return self.to_half(rest, self.beyond_range | (set(kernels.values()) - {kernels[layer.name]}))

        return output_errors(self.model, self.layers, alone, judges(self.images))

    @cached_property
    def beyond_range(self) -> set[str]:
        """Tensors that would be fp16 and go beyond half of what it holds."""
        from onnx import TensorProto, helper

        types, halves = (infer(model)[1] for model in (self.model, self.to_half(self.model, frozenset())))
        made = [output for node in self.model.graph.node for output in node.output]
        names = [name for name in made if types.get(name) == TensorProto.FLOAT]
        names = [n for n in names if halves.get(n) == TensorProto.FLOAT16 or f"{n}_fp16" in halves]
        if not names:
            return set()
        largest = {f"{name}_largest": name for name in names}
        model = with_outputs(self.model, largest)
        for given, name in largest.items():
            model.graph.node.append(helper.make_node("Abs", [name], [f"{name}_size"]))
            model.graph.node.append(helper.make_node("ReduceMax", [f"{name}_size"], [given], keepdims=0))
        batches = input_batches(model, judges(self.images))
        found = list(run_model(model.SerializeToString(), batches))
        return {name for given, name in largest.items() if max(float(each[given]) for each in found) > _RANGE}

    @property
    def _deciding(self) -> Images:
        return self.images[:_DECIDE]

    @cached_property
    def reference(self) -> Outputs:
        """What the encoder in fp32 gives of the deciding images, (N, D)."""
        return outputs_of(self.model, self._deciding)
