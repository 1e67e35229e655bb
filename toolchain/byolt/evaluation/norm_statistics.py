"""Running statistics of BatchNorm taken anew from learning images, before an encoder is measured or written.

In learning they are moving averages that lag behind the weights: torchvision's MobileNetV3 (momentum 0.01) still holds
a fifth of its initial ones after 75 steps, its MnasNet (0.0003) nearly all after a thousand. Wu and Johnson 2021
(arXiv:2105.07576), sec. 3: "PreciseBN". See decision 0018. Axes: B images of a batch, D channels.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from byolt.data.subsets import spread
from byolt.device import peak_bytes
from byolt.evaluation.features import Images, Rgb, evaluating
from byolt.networks.frozen import has_statistics, is_frozen
from byolt.run import Run
from byolt.views import normalise

IMAGES = 2048
"""Images that the statistics are of: all, or so many evenly spread over them."""
BATCH = 256
"""Images a forward pass at most; the parts are of near-equal size."""
_log = logging.getLogger("byolt")
VIEWS = "none: squares of image_size_px, as evaluation and the device see them"


class _Moments:
    """Mean and variance of all that one norm was given, over the batches; float64, so that sums do not cancel."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.count = norm, 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        """Sum of the squared distances from the mean."""

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the norm's forward: take in a batch, (B, D, ...), and let it be normalised by its own moments."""
        x: Float[Tensor, "B D ..."] = inputs[0]
        variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
        self.set(mean, variance)
        # Chan et al. 1983, eq. (2.1): the sum of squares of two parts from those of each.
        count, part = self.count, x.numel() // x.shape[1]
        shift, whole = mean.double() - self.mean, count + part
        self.mean = self.mean + shift * (part / whole)
        self.squares = self.squares + variance.double() * part + shift.square() * (count * part / whole)
        self.count = whole

    def set(self, mean: Tensor, variance: Tensor) -> None:
        """In place: a captured step reads the same memory."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(variance)

    def finish(self) -> None:
        """Leave the moments of all batches; nothing came where the network does not use this norm."""
        if isinstance(self.mean, Tensor) and isinstance(self.squares, Tensor):
            self.set(self.mean, self.squares / max(self.count - 1, 1))  # Unbiased, as torch keeps it.


def reestimate(
    network: nn.Module, images: Images, *, mean: Rgb, std: Rgb, seed: int, device: torch.device, white: int = 255
) -> dict[str, Any]:
    """Take a network's running statistics anew, in place, by forward passes over images in an order drawn by ``seed``.

    Each norm is given what it normalises: the norms before it use the moments of the batch at hand, as in learning.
    No process is waited for, and no other part of the network is in train mode. Without such norms nothing is read;
    frozen ones keep the statistics that they have.

    Args:
        network: Takes normalised images (B, 3, S, S); lies on ``device`` and keeps its modes.
        images: Those learned from, at the size of evaluation.
        mean, std: Channel statistics for pixels in 0 to 1.
        seed: The recipe's.
        device: Where the network lies.
        white: The value of a pixel that is 1.

    Returns:
        What was done, JSON-able: ``layers``, and with any of them ``images``, ``batch``, ``order``, ``views``,
        ``seconds``, and ``memory_mb``, by which the peak of the process or the GPU rose above that of learning;
        ``frozen``, how many norms keep those of the initial weights, where there are any.
    """
    norms = [module for module in network.modules() if has_statistics(module)]
    frozen = [module for module in norms if is_frozen(module)]
    moments = [_Moments(norm) for norm in norms if isinstance(norm, _BatchNorm) and not is_frozen(norm)]
    others = [module for module in norms if not isinstance(module, _BatchNorm) and not is_frozen(module)]
    if not moments and not others:
        return {"layers": 0} | ({"frozen": len(frozen)} if frozen else {})
    started_s, peak_before = time.monotonic(), peak_bytes(device)
    chosen = np.random.default_rng([seed, 0]).permutation(spread(len(images), IMAGES))  # Classes lie side by side.
    parts = np.array_split(chosen, -(-len(chosen) // BATCH))
    seen = 0
    with evaluating(network), ExitStack() as undone:
        for each in moments:
            undone.callback(each.norm.register_forward_pre_hook(each).remove)
        for module in others:
            undone.callback(setattr, module, "momentum", module.momentum)
        for part in parts:
            seen += len(part)
            for module in others:  # A cumulative average, by the module's own formula.
                setattr(module.train(), "momentum", len(part) / seen)  # noqa: B010 - typed as a tensor.
            network(normalise(torch.from_numpy(images.batch(part)).to(device), mean, std, white))
        for each in moments:
            each.finish()
    return {
        "layers": len(moments) + len(others),
        "images": len(chosen),
        "batch": len(parts[0]),
        "order": f"evenly spread over the images, then drawn by seed {seed}",
        "views": VIEWS,
        "seconds": round(time.monotonic() - started_s, 3),
        "memory_mb": round((peak_bytes(device) - peak_before) / 1e6, 1),
    }


@contextmanager
def reestimated(
    network: nn.Module, images: Images, *, mean: Rgb, std: Rgb, seed: int, device: torch.device, white: int = 255
) -> Iterator[dict[str, Any]]:
    """``reestimate`` inside, and the running statistics of learning, bit for bit, in the same memory, after it."""
    norms = [module for module in network.modules() if has_statistics(module)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield reestimate(network, images, mean=mean, std=std, seed=seed, device=device, white=white)
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def lag(run: Run) -> bool:
    """Whether a run's encoder was written with the moving averages of learning, as versions before this one did."""
    from safetensors import SafetensorError, safe_open

    if run.metrics("norm_statistics") is not None:
        return False
    try:
        with safe_open(run.encoder_file, "pt") as weights:
            return any(name.endswith("running_var") for name in weights.keys())  # noqa: SIM118
    except (OSError, SafetensorError):  # Whoever loads it says what is wrong with it.
        return False


def warn_of_lag(run: Run) -> None:
    """A line in the log of what ``lag`` finds."""
    if lag(run):
        _log.warning(
            "%s was learned by an earlier byolt: its encoder has BatchNorm's moving averages, which may lag behind its "
            "weights; learn it again for statistics of its images",
            run.path,
        )
