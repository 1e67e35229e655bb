"""Negative controls: outputs of deliberately wrong models, which every backend must fail against."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.golden import PERTURBATIONS
from byolt_export.bundle.image_input import Input
from byolt_export.errors import InputError
from byolt_export.onnx.plain import plain_copy
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2

_SEED = 20_200_613  # Of the wrong models, so that two exports give the same bytes.
_VISIBLE = 0.01  # A hundred times the gate of fp32, and ten times what half precision costs most networks.
_SEARCHED = 8  # Images that such a kernel is looked for with.


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


def _perturbed_outputs(
    module: nn.Module, images: Images, reference: Outputs, how: Mapping[str, Any]
) -> dict[str, Outputs]:
    """Outputs after noise of 5 % of its standard deviation (and 10, 20, ...) was added to the largest kernel.

    Noise, not a constant: a layer after a normalisation sees inputs that add up to zero, and no constant shows. The
    largest whose noise moves an output by 1 %, for a residual branch that starts at zero hides its kernels altogether.
    """
    wrong = plain_copy(module)
    kernels = sorted((p for p in wrong.parameters() if p.ndim >= 2), key=Tensor.numel, reverse=True)
    if not kernels:
        raise InputError(f"{type(wrong).__name__} has no kernel: there is nothing to prove of it")

    def perturbed(kernel: nn.Parameter, share: float, images: Images) -> Outputs:
        noise = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(_SEED)).to(kernel)
        right = kernel.detach().clone()
        with torch.no_grad():
            kernel.add_(noise, alpha=share * float(kernel.std()))
            outputs = torch_outputs(wrong, images, **how)
            kernel.copy_(right)
        return outputs

    furthest, chosen = -1.0, kernels[0]
    for kernel in kernels:
        some = perturbed(kernel, PERTURBATIONS["perturbed_kernel"], images[:_SEARCHED])
        effect = float(relative_l2(reference[:_SEARCHED], some).max())
        if effect > furthest:
            furthest, chosen = effect, kernel
        if furthest >= _VISIBLE:
            break
    return {name: perturbed(chosen, share, images) for name, share in PERTURBATIONS.items()}


def _reinitialised(module: nn.Module) -> nn.Module:
    """A copy with every layer's weights drawn anew."""
    wrong = plain_copy(module)
    before = {name: value.detach().clone() for name, value in wrong.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for layer in wrong.cpu().modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
        # A kernel that is computed (weight_norm), or that no layer of torch's owns, is reset by none.
        for name, value in wrong.named_parameters():
            spread = float(value.detach().std(correction=0))
            if value.ndim >= 2 and spread > 0 and torch.equal(value.cpu(), before[name].cpu()):
                nn.init.normal_(value, std=spread)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return wrong.to(device)
