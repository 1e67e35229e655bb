"""``nn.Module`` to ONNX, and what PyTorch says its outputs are: the only file here that imports torch.

Axes: B batch, N images, H W pixels of what comes in, S side of the square that the module sees, D output features.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from byolt_export.errors import ByoltError, InputError, MissingPart, first_line
from byolt_export.manifest import Input
from byolt_export.measures import Images, Outputs, relative_l2
from byolt_export.parity import PERTURBATIONS

_OPSET = 18  # The lowest that the exporter really writes, and one that TensorRT 8.6 to 11 read.
_SEED = 20_200_613  # Of the wrong models, so that two exports give the same bytes.
_VISIBLE = 0.01  # Twice the loosest gate, and a hundred times that of fp32.
_SEARCHED = 8  # Images that such a kernel is looked for with.
_REFERENCE_BATCH = 64
_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)
# Where fp16 pays: the products. What comes between two of them keeps the type that it is given.
_FLOAT16_OPERATORS = frozenset(
    {
        *_CONVOLUTIONS,
        _aten.conv_transpose2d.input,
        _aten.linear.default,
        _aten.matmul.default,
        _aten.bmm.default,
        _aten.addmm.default,
    }
)
# Sums and squares over many values, which fp16's 11 bits and largest value of 65,504 do not hold.
_FLOAT32_OPERATORS = frozenset(
    {
        _aten.batch_norm.default,
        _aten.layer_norm.default,
        _aten.group_norm.default,
        _aten.rms_norm.default,
        _aten.adaptive_avg_pool2d.default,
        _aten.avg_pool2d.default,
        _aten.mean.default,
        _aten.mean.dim,
        _aten.sum.dim_IntList,
        _aten.softmax.int,
        _aten.linalg_vector_norm.default,
    }
)


class _FromPixels(nn.Module):
    """Raw uint8 images (B, H, W, 3) to the module's outputs (B, D): what the device runs."""

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, module: nn.Module, pixels: Input, normalize: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.normalize, self.dtype = module, normalize, dtype
        # (x / 255 - mean) / std as one Mul and one Add, their constants rounded once.
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (pixels.mean, pixels.std))
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1))
        self.resizes = pixels.camera_px is not None
        if self.resizes:
            rows, columns = resize_matrices(pixels)
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns.T.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        # To float first: TensorRT transposes no uint8. Contiguous: channels-last memory makes the pooling
        # export as `as_strided`, a tail of shape arithmetic that no tool takes out again.
        x = images.to(torch.float32).permute(0, 3, 1, 2).contiguous()
        if self.resizes:
            x = self.rows @ x @ self.columns
        x = (x * self.scale + self.shift).to(self.dtype)
        outputs: Tensor = self.module(x).float()
        return nn.functional.normalize(outputs, dim=1) if self.normalize else outputs


def resize_matrices(pixels: Input) -> tuple[Tensor, Tensor]:
    """``A`` (S, H) and ``B`` (S, W), float32: ``A x B^T`` cuts out and resizes a frame x (H, W) as the recipe does.

    Antialiased bilinear, which is linear in the image and separable: resizing the identity gives its weights.
    TensorRT refuses ONNX's own antialiased ``Resize``; two products of matrices run everywhere.
    """
    height, width, _ = pixels.shape
    side = min(height, width)
    crop = pixels.resize == "crop"
    return _resize_matrix(height, side if crop else height, pixels.size_px), _resize_matrix(
        width, side if crop else width, pixels.size_px
    )


def _resize_matrix(length: int, kept: int, size_px: int) -> Tensor:
    first = (length - kept) // 2
    identity = torch.eye(kept, dtype=torch.float64)[None, None]
    weights = nn.functional.interpolate(identity, (size_px, kept), mode="bilinear", antialias=True)[0, 0]
    return nn.functional.pad(weights, (first, length - kept - first)).float()


class _Half(nn.Module):
    """A traced module in fp16 whose sums and norms stay fp32; takes and gives fp16."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__()
        self.traced = traced
        for node in traced.graph.find_nodes(op="get_attr"):
            if any(user.target not in _FLOAT32_OPERATORS for user in node.users):
                owner, _, name = str(node.target).rpartition(".")
                tensor = getattr(traced.get_submodule(owner), name)
                if tensor.is_floating_point():
                    sees_image = any(u.target in _CONVOLUTIONS and u.args[0].op == "placeholder" for u in node.users)
                    tensor.data = _half_keeping_sums(tensor.data) if sees_image else tensor.data.half()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = _HalfInterpreter(self.traced).run(x)
        return outputs


def _half_keeping_sums(kernel: Tensor) -> Tensor:
    """A kernel (O, I, h, w) in fp16 whose every window (h, w) adds up to what it did.

    The first layer finds edges: on smooth images its weights cancel, and what is left of a window's sum is their
    rounding errors. Each weight takes over the error of those before it, the smallest, whose steps are the finest,
    last (measured on CIFAR-10: worst relative L2 of 10,000 images 2.3e-3 without, 1.2e-3 with).
    """
    if kernel.ndim != 4:
        return kernel.half()
    windows = kernel.double().flatten(2)
    order = windows.abs().argsort(dim=2, descending=True)
    exact, rounded = windows.gather(2, order), torch.empty_like(windows)
    carried = torch.zeros_like(windows[..., 0])
    for k in range(windows.shape[2]):
        wanted = exact[..., k] + carried
        rounded[..., k] = wanted.half().double()
        carried = wanted - rounded[..., k]
    return torch.empty_like(windows).scatter_(2, order, rounded).view(kernel.shape).half()


class _HalfInterpreter(torch.fx.Interpreter):
    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target == _aten.scaled_dot_product_attention.default:
            return _attention(*args, **kwargs)
        if target in _FLOAT16_OPERATORS:
            args, kwargs = tree_map(lambda a: a.half() if isinstance(a, Tensor) else a, (args, kwargs))
        elif target in _FLOAT32_OPERATORS:
            args, kwargs = tree_map(lambda a: a.float() if isinstance(a, Tensor) else a, (args, kwargs))
        return super().call_function(target, args, kwargs)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, _dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """Attention in fp16 whose softmax is fp32."""
    if is_causal:
        raise InputError("causal attention is no part of an image encoder: it is exported in fp32 alone")
    q, k, v = q.half(), k.half(), v.half()
    scores = ((q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)).float()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).half() @ v


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    pixels: Input,
    output_name: Literal["embedding", "logits"],
    normalize: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module as one ONNX file from raw images ``images`` to ``output_name``; the module stays untouched.

    The file holds the preprocessing, folded BatchNorm, a dynamic batch, no path of this machine, and the same bytes
    from run to run.

    Args:
        module: Maps normalised images (B, 3, S, S) to (B, D).
        path: The file to write.
        pixels: What comes in, and how it is made ready.
        output_name: What the outputs are.
        normalize: Divide each output by its Euclidean norm, in float32.
        precision: ``fp16`` computes in half precision, but for preprocessing, sums, norms and the outputs.
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
    program, shapes = _trace(module, pixels, normalize, precision)
    with _quiet(), torch.no_grad(), _told_as(module, pixels.size_px):
        exported = torch.onnx.export(
            program,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=[output_name],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    if exported is None:
        raise ByoltError("torch.onnx.export gave no program: use its dynamo exporter (torch 2.9 or later)")
    proto = exported.model_proto
    _strip(proto)
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def torch_layers(module: nn.Module, images: Images, *, pixels: Input) -> dict[str, Outputs]:
    """What PyTorch computes on the way, by the names that the ONNX file gives the same tensors: float32 arrays."""
    program, _ = _trace(module, pixels, False, "fp32")
    found: dict[str, Outputs] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function" and isinstance(value, Tensor) and value.dtype == torch.float32:
                found[n.name] = value.numpy(force=True).copy()  # A later node may write into the same memory.
            return value

    with torch.inference_mode(), _full_float32():
        Recorder(program.module(check_guards=False)).run(torch.from_numpy(np.array(images)))
    return found


def _trace(
    module: nn.Module, pixels: Input, normalize: bool, precision: str
) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The whole graph from raw images, BatchNorm folded, and its dynamic shapes."""
    batch = {0: torch.export.Dim("batch", min=1, max=max(2, pixels.max_batch))}
    square = torch.zeros(2, 3, pixels.size_px, pixels.size_px)
    frames = torch.zeros(2, *pixels.shape, dtype=torch.uint8)
    with _quiet(), torch.no_grad(), _told_as(module, pixels.size_px):
        inner = torch.export.export(_plain_copy(module).cpu(), (square,), dynamic_shapes=(batch,))
        _fold_batchnorm(inner)
        traced: nn.Module = inner.module(check_guards=False)
        if precision == "fp16":
            traced = _Half(traced)  # type: ignore[arg-type]
        dtype = torch.float16 if precision == "fp16" else torch.float32
        whole = _FromPixels(traced, pixels, normalize, dtype)
        return torch.export.export(whole, (frames,), dynamic_shapes={"images": batch}), {"images": batch}


@contextmanager
def _told_as(module: nn.Module, size_px: int) -> Iterator[None]:
    """What the exporter raises, as one sentence about the module."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # The exporter lets through whatever a module's own code raises while traced.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{type(module).__name__} cannot be exported with images of {size_px} px and a dynamic batch: "
            f"{type(error).__name__}: {reason}"
        ) from error


def torch_outputs(module: nn.Module, images: Images, *, pixels: Input, normalize: bool = False) -> Outputs:
    """The reference: what PyTorch computes for images (N, H, W, 3), as float32 (N, D).

    Eval mode, float32 without TF32 or autocast, on the module's own device. Resize and normalisation are torch's own
    ``interpolate`` and ``(x / 255 - mean) / std`` as the formula says, and share no code with the graph's.

    Raises:
        InputError: The module's outputs are not (N, D).
    """
    encoder = _plain_copy(module)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (pixels.mean, pixels.std))
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _full_float32():
        for start in range(0, len(images), _REFERENCE_BATCH):
            raw = torch.from_numpy(np.array(images[start : start + _REFERENCE_BATCH]))  # A copy: it may be read-only.
            x = raw.to(device).permute(0, 3, 1, 2).contiguous().float()
            x = (_resized(x, pixels) / 255 - mean) / std
            outputs = encoder(x)
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise InputError(f"{type(module).__name__} gives {got} for {len(x)} images, not (batch, features)")
            if normalize:
                outputs = outputs / outputs.norm(dim=1, keepdim=True)
            parts.append(outputs.float().cpu().numpy())
    return np.concatenate(parts)


def torch_runner(
    module: nn.Module, *, pixels: Input, normalize: bool = False, device: str = "cpu", compiled: bool = False
) -> Callable[[Images], Outputs]:
    """The module with its preprocessing as a function from images (B, H, W, 3) to outputs (B, D): what a speed is of.

    It computes in float32, and with ``compiled`` through ``torch.compile``, anew for each batch size.
    """
    model = _FromPixels(_plain_copy(module), pixels, normalize, torch.float32).eval().to(device)
    function = torch.compile(model, dynamic=False) if compiled else model

    def run(images: Images) -> Outputs:
        raw = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        try:
            # Setting what is set already would be timed too: TF32 is the GPU's, noise the compiler's.
            exact = nullcontext() if device == "cpu" else _full_float32()
            with torch.inference_mode(), exact, _quiet() if compiled else nullcontext():
                outputs: Outputs = function(raw.to(device)).cpu().numpy()
        except Exception as error:  # The compiler's own errors and those of the tools it calls share no base class.
            raise ByoltError(f"PyTorch does not run a batch of {len(images)}: {first_line(error)}") from error
        return outputs

    return run


def _resized(x: Tensor, pixels: Input) -> Tensor:
    """Frames (B, 3, H, W) as squares (B, 3, S, S), not rounded."""
    if pixels.camera_px is None:
        return x
    height, width = pixels.camera_px
    if pixels.resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
    size = (pixels.size_px, pixels.size_px)
    return nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def wrong_outputs(
    module: nn.Module, images: Images, reference: Outputs, *, pixels: Input, normalize: bool = False
) -> dict[str, Outputs]:
    """Outputs of deliberately wrong models, (N, D) each: negative controls that every backend must fail against."""
    right: dict[str, Any] = {"pixels": pixels, "normalize": normalize}
    plain = pixels.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    return {
        "swapped_channels": torch_outputs(module, images[..., ::-1], **right),
        "no_normalisation": torch_outputs(module, images, pixels=plain, normalize=normalize),
        **_perturbed_outputs(module, images, reference, right),
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


def _perturbed_outputs(
    module: nn.Module, images: Images, reference: Outputs, how: Mapping[str, Any]
) -> dict[str, Outputs]:
    """Outputs after noise of 5 % of its standard deviation (and 10, 20, ...) was added to the largest kernel.

    Noise, not a constant: a layer after a normalisation sees inputs that add up to zero, and no constant shows. The
    largest whose noise moves an output by 1 %, for a residual branch that starts at zero hides its kernels altogether.
    """
    wrong = copy.deepcopy(module)
    kernels = sorted((p for p in wrong.parameters() if p.ndim >= 2), key=Tensor.numel, reverse=True)
    if not kernels:
        raise InputError(f"{type(module).__name__} has no kernel: there is nothing to prove of it")

    def moved(kernel: nn.Parameter, share: float, images: Images) -> Outputs:
        noise = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(_SEED)).to(kernel)
        right = kernel.detach().clone()
        with torch.no_grad():
            kernel.add_(noise, alpha=share * float(kernel.std()))
            outputs = torch_outputs(wrong, images, **how)
            kernel.copy_(right)
        return outputs

    furthest, chosen = -1.0, kernels[0]
    for kernel in kernels:
        some = moved(kernel, PERTURBATIONS["perturbed_kernel"], images[:_SEARCHED])
        effect = float(relative_l2(reference[:_SEARCHED], some).max())
        if effect > furthest:
            furthest, chosen = effect, kernel
        if furthest >= _VISIBLE:
            break
    return {name: moved(chosen, share, images) for name, share in PERTURBATIONS.items()}


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
