"""``nn.Module`` to ONNX, and what PyTorch says its outputs are: the only file here that imports torch.

Axes: B batch, N images, H W pixels, D output features.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from byolt_export.errors import ByoltError, InputError, MissingPart
from byolt_export.parity import Images, Outputs, relative_l2

OPSET = 18  # The lowest that the exporter really writes, and one that TensorRT 8.6 to 11 read.
_SEED = 20_200_613  # Of the wrong models, so that two exports give the same bytes.
_VISIBLE = 0.01  # Twice the loosest gate, and a hundred times that of fp32.
_REFERENCE_BATCH = 64
_CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
Rgb = Sequence[float]


class _FromPixels(nn.Module):
    """Raw uint8 images (B, H, W, 3) to the module's outputs (B, D): what the device runs."""

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, mean: Rgb, std: Rgb, normalize: bool) -> None:
        super().__init__()
        self.module, self.normalize = module, normalize
        # (x / 255 - mean) / std as one Mul and one Add, their constants rounded once.
        mean_, std_ = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std_)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean_ / std_).float().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # To float first: TensorRT transposes no uint8. Contiguous: channels-last memory makes the pooling
        # export as `as_strided`, a tail of shape arithmetic that no tool takes out again.
        x = images.to(torch.float32).permute(0, 3, 1, 2).contiguous()
        outputs: Tensor = self.module(x * self.scale + self.shift)
        return nn.functional.normalize(outputs, dim=1) if self.normalize else outputs


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    image_size_px: int,
    mean: Rgb,
    std: Rgb,
    max_batch: int,
    output_name: Literal["embedding", "logits"],
    normalize: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module as one ONNX file from raw images ``images`` to ``output_name``; the module stays untouched.

    The file holds the normalisation, folded BatchNorm, a dynamic batch, no path of this machine, and the same bytes
    from run to run.

    Args:
        module: Maps normalised images (B, 3, H, W) to (B, D).
        path: The file to write.
        image_size_px: Side of the square images.
        mean: Channel means taken off, for pixels in 0 to 1.
        std: Channel standard deviations divided by, for pixels in 0 to 1.
        max_batch: Largest batch that the file is made for.
        output_name: What the outputs are.
        normalize: Divide each output by its Euclidean norm, in float32.
        metadata: Model properties to put into the file.

    Raises:
        InputError: The exporter cannot follow the module, or the module fixes the batch size.
        MissingPart: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it, and would say so in a page of text.
    except ImportError as error:
        raise MissingPart(f'{error.name} is not installed: pip install "byolt[export]"') from error
    wrapped = _FromPixels(_plain_copy(module).cpu(), mean, std, normalize).eval()
    example = torch.zeros(2, image_size_px, image_size_px, 3, dtype=torch.uint8)
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=max(2, max_batch))}}
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(wrapped, (example,), dynamic_shapes=shapes)
            _fold_batchnorm(program)
            exported = torch.onnx.export(
                program,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[output_name],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # The exporter lets through whatever a module's own code raises while traced.
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InputError(
                f"{type(module).__name__} cannot be exported with images of {image_size_px} px and a dynamic batch: "
                f"{type(error).__name__}: {reason}"
            ) from error
    if exported is None:
        raise ByoltError("torch.onnx.export gave no program: use its dynamo exporter (torch 2.9 or later)")
    proto = exported.model_proto
    _strip(proto)
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def torch_outputs(module: nn.Module, images: Images, *, mean: Rgb, std: Rgb, normalize: bool = False) -> Outputs:
    """The reference: what PyTorch computes for images (N, H, W, 3), as float32 (N, D).

    Eval mode, float32 without TF32 or autocast, on the module's own device. The normalisation is ``(x / 255 - mean) /
    std`` as the formula says, and shares no code with the graph's.

    Raises:
        InputError: The module's outputs are not (N, D).
    """
    encoder = _plain_copy(module)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    mean_, std_ = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (mean, std))
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _full_float32():
        for start in range(0, len(images), _REFERENCE_BATCH):
            pixels = torch.from_numpy(np.array(images[start : start + _REFERENCE_BATCH])).to(
                device
            )  # May be read-only.
            x = (pixels.permute(0, 3, 1, 2).contiguous().float() / 255 - mean_) / std_
            outputs = encoder(x)
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise InputError(f"{type(module).__name__} gives {got} for {len(x)} images, not (batch, features)")
            if normalize:
                outputs = outputs / outputs.norm(dim=1, keepdim=True)
            parts.append(outputs.float().cpu().numpy())
    return np.concatenate(parts)


def wrong_outputs(
    module: nn.Module, images: Images, reference: Outputs, *, mean: Rgb, std: Rgb, normalize: bool = False
) -> dict[str, Outputs]:
    """Outputs of deliberately wrong models, (N, D) each: negative controls that every backend must fail against."""
    right: dict[str, Any] = {"mean": mean, "std": std, "normalize": normalize}
    return {
        "swapped_channels": torch_outputs(module, images[..., ::-1], **right),
        "no_normalisation": torch_outputs(module, images, mean=(0, 0, 0), std=(1, 1, 1), normalize=normalize),
        "perturbed_kernel": _perturbed_outputs(module, images, reference, right),
        "reinitialised": torch_outputs(_reinitialised(module), images, **right),
        "shuffled_rows": np.roll(reference, 1, axis=0),
    }


def _plain_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, float32 and contiguous memory, so that the caller's module stays as it is."""
    return copy.deepcopy(module).eval().float().to(memory_format=torch.contiguous_format)


def _fold_batchnorm(program: torch.export.ExportedProgram) -> None:
    """Fold each BatchNorm into the convolution before it, in float64, inside an exported program.

    On the traced program, not on the modules: there it is plain which convolution feeds which norm and nothing
    else, whatever classes they are of. The norm's bias parameter becomes the convolution's.
    """
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    state = program.state_dict

    def value(node: Any) -> Tensor:
        tensor: Tensor = state[names[node.name]]
        return tensor.double()

    for norm in program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        conv, weight, bias, mean, var, _training, _momentum, eps, _cudnn = norm.args
        if conv.target not in _CONVOLUTIONS or weight is None or bias is None or mean is None:
            continue
        kernel, old_bias = conv.args[1], (*conv.args, None)[2]
        if any(len(node.users) != 1 for node in (conv, kernel, bias)):
            continue  # Shared with another layer, which must not change.
        scale = value(weight) / torch.sqrt(value(var) + eps)
        offset = value(bias) + ((0.0 if old_bias is None else value(old_bias)) - value(mean)) * scale
        folded = (value(kernel) * scale.view(-1, 1, 1, 1)).float()
        state[names[kernel.name]] = nn.Parameter(folded, requires_grad=False)
        state[names[bias.name]] = nn.Parameter(offset.float(), requires_grad=False)
        conv.args = (*conv.args[:2], bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        program.graph.erase_node(norm)
    program.graph_module.recompile()


def _strip(message: Any) -> None:
    """Clear doc strings and metadata at every depth: the exporter leaves stack traces with file names there."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if hasattr(value, "add") else [value]:  # A repeated field, or one message.
                _strip(child)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings and log lines: what matters of them becomes an error or a verdict."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Float32 as its name says, on CPU and GPU: TF32 keeps 10 bits of the mantissa, and is cuDNN's default."""
    backends: Any = torch.backends  # Its stubs lack the per-operator settings.
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def _perturbed_outputs(module: nn.Module, images: Images, reference: Outputs, how: Mapping[str, Any]) -> Outputs:
    """Outputs after noise of 5 % of its standard deviation was added to the largest kernel that they depend on.

    Noise, not a constant: a layer after a normalisation sees inputs that add up to zero, and no constant shows. The
    largest whose noise moves an output by 1 %, for a residual branch that starts at zero hides its kernels altogether.
    """
    wrong = copy.deepcopy(module)
    kernels = sorted((p for p in wrong.parameters() if p.ndim >= 2), key=Tensor.numel, reverse=True)
    if not kernels:
        raise InputError(f"{type(module).__name__} has no kernel: there is nothing to prove of it")
    furthest, outputs = -1.0, reference
    for kernel in kernels:
        noise = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(_SEED)).to(kernel)
        right = kernel.detach().clone()
        with torch.no_grad():
            kernel.add_(noise, alpha=0.05 * float(kernel.std()))
            moved = torch_outputs(wrong, images, **how)
            kernel.copy_(right)
        effect = float(relative_l2(reference, moved).max())
        if effect > furthest:
            furthest, outputs = effect, moved
        if furthest >= _VISIBLE:
            break
    return outputs


def _reinitialised(module: nn.Module) -> nn.Module:
    """A copy with every layer's weights drawn anew."""
    wrong = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for layer in wrong.cpu().modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return wrong.to(device)
