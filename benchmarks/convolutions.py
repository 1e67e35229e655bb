"""Gradient of a convolution's weights on maps of a few pixels: byolt's products beside torch's own, in one run.

Channels-last, kernel 3; the two take turns. byolt/networks/convolutions.py goes by where the products are faster.

    python benchmarks/convolutions.py --threads 2
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from byolt.environment import environment
from byolt.networks.convolutions import weight_gradient

# Batch, channels in and out, side of the input in pixels, stride: ResNet-18's last stages, and narrower ones.
SHAPES = [
    (64, 512, 512, 3, 1),
    (64, 256, 512, 6, 2),
    (64, 256, 256, 6, 1),
    (256, 512, 512, 4, 1),
    (256, 256, 512, 8, 2),
    (256, 256, 256, 8, 1),
    (256, 128, 128, 4, 1),
    (256, 128, 128, 2, 1),
    (256, 128, 128, 1, 1),
    (256, 64, 64, 4, 1),
    (256, 64, 64, 2, 1),
    (256, 64, 128, 2, 2),
]


def main() -> None:
    """Parse, measure each shape, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{environment()['processor']}, {arguments.threads} threads, torch {torch.__version__}\n")
    print("| batch, channels | side, stride | torch, ms | products, ms | faster, median of rounds | min to max |")
    print("|---|---|---|---|---|---|")
    for batch, channels_in, channels_out, side, stride in SHAPES:
        torchs, products = candidates(batch, channels_in, channels_out, side, stride)
        rounds = [(seconds(torchs), seconds(products)) for _ in range(arguments.rounds + 2)][2:]
        ratios = [theirs / ours for theirs, ours in rounds]
        theirs_ms, ours_ms = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
        print(
            f"| {batch}, {channels_in} to {channels_out} | {side}, {stride} | {theirs_ms:.2f} | {ours_ms:.2f} "
            f"| {statistics.median(ratios):.2f} x | {min(ratios):.2f} to {max(ratios):.2f} |"
        )


def candidates(
    batch: int, channels_in: int, channels_out: int, side: int, stride: int
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """torch's weight gradient and byolt's, of the same numbers."""
    layout = {"memory_format": torch.channels_last}
    x = torch.randn(batch, channels_in, side, side).contiguous(**layout)
    weight = torch.randn(channels_out, channels_in, 3, 3).contiguous(**layout)
    gradient = torch.randn_like(torch.conv2d(x, weight, stride=stride, padding=1)).contiguous(**layout)

    def torchs() -> torch.Tensor:
        settings = ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1)
        gradients = torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, (False, True, False))
        return gradients[1]

    return torchs, lambda: weight_gradient(x, gradient, 3, stride, 1)


def seconds(work: Callable[[], torch.Tensor]) -> float:
    """Wall time of one call."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
