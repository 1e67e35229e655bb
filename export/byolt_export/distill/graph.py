"""A file in INT8 as a module whose kernels and biases can learn, and the file again."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byolt_export.distill.operators import OPERATORS, not_known, whole
from byolt_export.errors import InputError
from byolt_export.quantize.multiply_adds import attributes

_KERNEL, _OFFSETS = ".kernel", (".bias", ".taken", ".sum")  # As the placements name them.


class Int8Graph(nn.Module):
    """An ONNX graph computed by PyTorch in fp32, its int8 kernels and all layers' biases as parameters.

    A kernel is held in units of its levels and rounded on the way, as the file will hold it.

    Args:
        model: A graph that ``place_tensorrt`` or ``place_cpu`` made, left as it is, or one in fp32, where nothing
            learns.

    Raises:
        InputError: The graph has an operator that is not in ``OPERATORS``, or one in a way that is not.
    """

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        super().__init__()
        unknown = sorted({name for node in model.graph.node if (name := not_known(node))})
        if unknown:
            raise InputError(f"INT8 cannot be tuned through {', '.join(unknown)}: leave tuned out")
        self.model = model
        self.steps = [(node, OPERATORS[node.op_type], attributes(node)) for node in model.graph.node]
        self.kernels: dict[str, nn.Parameter] = {}
        self.offsets: dict[str, nn.Parameter] = {}
        self.constants: dict[str, Tensor] = {}
        for constant in model.graph.initializer:
            name, values = constant.name, numpy_helper.to_array(constant)
            tensor = torch.from_numpy(np.array(values))
            if name.endswith(_KERNEL) and values.dtype == np.int8:
                self.kernels[name] = nn.Parameter(tensor.float())
            elif name.endswith(_OFFSETS) and values.size > 1:
                self.offsets[name] = nn.Parameter(tensor.float())
            else:
                self.constants[name] = tensor.float() if values.dtype == np.float16 else tensor
        self.learned = nn.ParameterList([*self.kernels.values(), *self.offsets.values()])

    def forward(self, images: Tensor) -> Tensor:
        """Raw images (B, H, W, C) as bytes -> embeddings (B, D), maps and tokens averaged over their places."""
        values: dict[str, Any] = dict(self.constants) | self.offsets
        values |= {name: whole(kernel, -127, 127) for name, kernel in self.kernels.items()}
        values[self.model.graph.input[0].name] = images
        for node, operator, how in self.steps:
            given = operator([values[name] if name else None for name in node.input], how)
            values |= zip(node.output, [given] if isinstance(given, Tensor) else given, strict=True)
        outputs = (values[output.name] for output in self.model.graph.output)
        means = [value if value.ndim == 2 else value.mean(dim={3: 1, 4: (2, 3)}[value.ndim]) for value in outputs]
        return torch.cat(means, dim=1)

    def written(self) -> Any:
        """The graph with what was learned, each constant in its own type."""
        from onnx import numpy_helper

        result = type(self.model)()
        result.CopyFrom(self.model)
        learned = self.kernels | self.offsets
        for constant in result.graph.initializer:
            if constant.name in learned:
                values = learned[constant.name].detach().double().numpy()
                dtype = numpy_helper.to_array(constant).dtype
                if dtype == np.int8:
                    values = np.clip(np.round(values), -127, 127)
                elif np.issubdtype(dtype, np.integer):
                    values = np.clip(np.round(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
                constant.CopyFrom(numpy_helper.from_array(values.astype(dtype), constant.name))
        return result
