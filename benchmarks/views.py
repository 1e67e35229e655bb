"""Views a second on one core, both backends of byolt beside their peers, in one run.

One thread, process CPU time, rounds interleaved so that all see the same noise. At 32 px the sources are decoded bytes,
at 96 px JPEG files of 160 px, decoded by each candidate's own route. The views are the paper's two distributions
(Table 6), one pair an image, and end as a normalised float batch. Needs lightly and kornia for their rows
(``pip install lightly kornia``); what is not installed is said to be so.

    python benchmarks/views.py --rounds 7
"""

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image

from byolt.recipe.views import Views
from byolt.training.allocator import keep_freed_memory
from byolt.views import batched_views, normalise

Pair = tuple[torch.Tensor, torch.Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
BLUR, SOLARIZE = (1.0, 0.1), (0.0, 0.2)
SIGMA_PX = (0.1, 2.0)


def main() -> None:
    """Parse, measure both sizes, print a table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # As `byolt pretrain` does; here for all candidates alike.
    pixels = drawn_images(arguments.images, 32)
    compare("32 px from decoded bytes", pixels, 32, arguments.rounds)
    files = [jpeg(image) for image in drawn_images(max(1, arguments.images // 4), 160)]
    compare("96 px from JPEG files of 160 px", files, 96, arguments.rounds)


def compare(title: str, sources: Sequence[Any], size_px: int, rounds: int) -> None:
    """Interleave the candidates and print medians, spread, and byolt's ratio a round."""
    builders = {
        "byolt, batched": batched_route,
        "byolt, albumentations": albumentations_route,
        "lightly BYOLTransform": lightly_route,
        "kornia": kornia_route,
        "torchvision v2 on PIL": torchvision_route,
    }
    packages = {"lightly BYOLTransform": "lightly", "kornia": "kornia", "torchvision v2 on PIL": "torchvision"}
    routes: dict[str, Callable[[Sequence[Any]], Pair]] = {}
    for name, build in builders.items():
        if importlib.util.find_spec(packages.get(name, "byolt")):
            routes[name] = build(size_px)
    for route in routes.values():  # Warm-up, and the same work for all.
        assert all(view.shape == (len(sources), 3, size_px, size_px) for view in route(sources))
    speeds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        for name, route in routes.items():
            started_s = time.process_time()
            route(sources)
            speeds[name].append(2 * len(sources) / (time.process_time() - started_s))
    print(f"\n{title}, {len(sources)} images, {rounds} rounds, torch {torch.__version__}\n")
    print("| candidate | views/s a core, median | min to max | of byolt's albumentations, median of rounds |")
    print("|---|---|---|---|")
    for name in builders:
        package = packages.get(name)
        if name not in routes:
            print(f"| {name} | not installed | | |")
            continue
        ratios = [one / base for one, base in zip(speeds[name], speeds["byolt, albumentations"], strict=True)]
        print(
            f"| {name}{' ' + metadata.version(package) if package else ''} | {statistics.median(speeds[name]):.0f} "
            f"| {min(speeds[name]):.0f} to {max(speeds[name]):.0f} | {statistics.median(ratios):.2f} x |"
        )


def drawn_images(count: int, side_px: int) -> np.ndarray:
    """Smooth random images (count, side, side, 3), uint8: they compress about as photographs do."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    scaled = [Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC) for image in coarse]
    noise = rng.integers(-12, 13, (count, side_px, side_px, 3))
    return (np.stack(scaled) + noise).clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    """An image as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def decoded(source: Any) -> Image.Image:
    """A source, bytes of a file or pixels, as a PIL image."""
    return Image.open(io.BytesIO(source)) if isinstance(source, bytes) else Image.fromarray(source)


def stacked(sources: Sequence[Any]) -> torch.Tensor:
    """All sources as one batch of pixels (B, S, S, 3)."""
    if isinstance(sources, np.ndarray):
        return torch.from_numpy(sources)
    return torch.from_numpy(np.stack([np.asarray(decoded(source)) for source in sources]))


def batched_route(size_px: int) -> Callable[[Sequence[Any]], Pair]:
    """The whole batch in torch."""

    def route(sources: Sequence[Any]) -> Pair:
        index = torch.arange(len(sources))
        return batched_views(
            stacked(sources), index, epoch=0, seed=0, views=Views(), size_px=size_px, mean=MEAN, std=STD
        )

    return route


def albumentations_route(size_px: int) -> Callable[[Sequence[Any]], Pair]:
    """An image at a time, as a worker does it, and the normalisation of the whole batch."""
    from byolt.views.albumentations_backend import AlbumentationsViews

    make = AlbumentationsViews(Views(backend="albumentations"), size_px=size_px, seed=0)

    def route(sources: Sequence[Any]) -> Pair:
        pairs = [make(np.asarray(decoded(source)), index, 0) for index, source in enumerate(sources)]
        first, second = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return normalise(first, MEAN, STD), normalise(second, MEAN, STD)

    return route


def lightly_route(size_px: int) -> Callable[[Sequence[Any]], Pair]:
    """lightly's own BYOL transform, with the same parameters where it has them."""
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    common = {
        "input_size": size_px,
        "min_scale": AREA[0],
        "hf_prob": 0.5,
        "vf_prob": 0.0,
        "cj_prob": 0.8,
        "cj_strength": 1.0,
        "cj_bright": 0.4,
        "cj_contrast": 0.4,
        "cj_sat": 0.2,
        "cj_hue": 0.1,
        "random_gray_scale": 0.2,
        "sigmas": SIGMA_PX,
    }
    transform = BYOLTransform(
        BYOLView1Transform(**common, gaussian_blur=BLUR[0], solarization_prob=SOLARIZE[0]),
        BYOLView2Transform(**common, gaussian_blur=BLUR[1], solarization_prob=SOLARIZE[1]),
    )
    return pairwise(transform)


def torchvision_route(size_px: int) -> Callable[[Sequence[Any]], Pair]:
    """torchvision v2 on PIL images, the way its own references put these together."""
    from torchvision.transforms import v2

    def view(blur: float, solarize: float) -> Any:
        kernel_px = 2 * int(3.5 * SIGMA_PX[1]) + 1
        return v2.Compose(
            [
                v2.RandomResizedCrop(size_px, AREA, ASPECT, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(**JITTER)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(kernel_px, SIGMA_PX)], p=blur),
                v2.RandomSolarize(128, solarize),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    first, second = (view(*chances) for chances in zip(BLUR, SOLARIZE, strict=True))
    return pairwise(lambda image: (first(image), second(image)))


def pairwise(transform: Callable[[Image.Image], Sequence[torch.Tensor]]) -> Callable[[Sequence[Any]], Pair]:
    """A route of a transform that makes a pair of one PIL image."""

    def route(sources: Sequence[Any]) -> Pair:
        first, second = zip(*(transform(decoded(source)) for source in sources), strict=True)
        return torch.stack(first), torch.stack(second)

    return route


def kornia_route(size_px: int) -> Callable[[Sequence[Any]], Pair]:
    """kornia's batched augmentations, with parameters a sample."""
    from kornia import augmentation

    def view(blur: float, solarize: float) -> torch.nn.Module:
        kernel_px = (2 * int(3.5 * SIGMA_PX[1]) + 1,) * 2
        return torch.nn.Sequential(
            augmentation.RandomResizedCrop((size_px, size_px), AREA, ASPECT, resample="bicubic", cropping_mode="slice"),
            augmentation.RandomHorizontalFlip(),
            augmentation.ColorJitter(**JITTER, p=0.8),
            augmentation.RandomGrayscale(p=0.2),
            augmentation.RandomGaussianBlur(kernel_px, SIGMA_PX, p=blur),
            augmentation.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=solarize),
            augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        )

    first, second = (view(*chances) for chances in zip(BLUR, SOLARIZE, strict=True))

    def route(sources: Sequence[Any]) -> Pair:
        images = stacked(sources).permute(0, 3, 1, 2).float() / 255
        return first(images), second(images)

    return route


if __name__ == "__main__":
    main()
