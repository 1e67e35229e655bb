"""A set packed as shards and read back by the stream that learning uses: each image once an epoch, and exact resume.

Packs a folder of images, hard-linked as often as it takes to make up the number, and streams an epoch with two workers.
The views leave the pixels as they are, so that each image that comes is compared with the file it was packed from. Then
the stream begins again in the middle of the epoch, with as many workers and with none, and each batch that is left has
to be the same bytes. Exits 1 where anything differs. Files are in memory
after packing: the metrics are those of the reader and the decoder, not of a disk.

    python benchmarks/shards.py data/cifar10-jpeg/train --images 100000
"""

import argparse
import hashlib
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from byolt.data import FolderSource, ImageStore, open_store
from byolt.data.packing import pack
from byolt.data.sampler import BatchSampler
from byolt.data.shards import open_folder
from byolt.recipe.schema import Recipe
from byolt.training.loader import view_stream

SIZE_PX, BATCH_SIZE, SEED = 32, 250, 0
AS_IT_IS = dict.fromkeys(("flip", "jitter", "grey", "blur", "solarize"), 0.0) | {
    "crop_area": [1.0, 1.0],
    "crop_aspect": [1.0, 1.0],
}


class Pass(NamedTuple):
    """An epoch, or the rest of one, as it came."""

    name: str
    batches: list[str]
    """Digest of each batch's pixels."""
    pixels: list[bytes]
    """Digest of each image's pixels."""
    numbers: list[int]
    elapsed_s: float
    worker_mb: float
    """Largest resident size of a worker so far."""


def main() -> int:
    """Pack, stream, compare, print the table; 1 where an image or a batch is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shard-mb", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where to work: on the images' disk, for hard links")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as below:
        return measure(arguments, Path(below))


def measure(arguments: argparse.Namespace, below: Path) -> int:
    """All of it, with its files in ``below``."""
    folder = FolderSource(linked(arguments.folder, below / "images", arguments.images))
    started_s = time.monotonic()
    packed = pack(folder.root, below / "shards", int(arguments.shard_mb * 1e6))
    pack_s = time.monotonic() - started_s
    shards = open_folder(below / "shards", below / "cache")
    original = {name_of(folder.path(k)): digest(folder.read(k)) for k in range(len(folder))}
    image_mb = sum(shards.index.length.tolist()) / 1e6
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(
        f"{packed.images:,} images, {image_mb:,.0f} MB, in {packed.shards} shards, {packed.size_bytes / 1e6:,.0f} MB\n"
    )

    store = open_store(shards, SIZE_PX, "crop", budget_gb=0, cache_dir=below / "cache", corrupt_limit=0)
    middle = arguments.images // BATCH_SIZE // 2
    passes = [
        streamed("whole epoch", store, arguments.workers),
        streamed("from the middle", store, arguments.workers, middle),
        streamed("from the middle", store, 0, middle + 1),
    ]
    print(
        "| pass | workers | images | seconds | images/s | MB/s | RSS of a worker, MB |\n|---|---|---|---|---|---|---|"
    )
    print(
        f"| pack | - | {packed.images:,} | {pack_s:.1f} | {packed.images / pack_s:,.0f} | {image_mb / pack_s:.1f} | - |"
    )
    for one, workers in zip(passes, (arguments.workers, arguments.workers, 0), strict=True):
        images = len(one.numbers)
        rate_mb = image_mb * images / packed.images / one.elapsed_s
        rates = f"{one.elapsed_s:.1f} | {images / one.elapsed_s:,.0f} | {rate_mb:.1f}"
        print(f"| {one.name} | {workers} | {images:,} | {rates} | {f'{one.worker_mb:,.0f}' if workers else '-'} |")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nRSS of the main process, with torch and what is compared: {peak_mb:,.0f} MB at most")
    whole, later, latest = passes
    names = [name_of(shards.path(k)) for k in whole.numbers]
    facts = {
        "each image once": sorted(whole.numbers) == list(range(packed.images)) and sorted(names) == sorted(original),
        "each as its file": [original[name] for name in names] == whole.pixels,
        f"from step {middle} the same rest": later.batches == whole.batches[middle:],
        f"from step {middle + 1}, no worker, the same rest": latest.batches == whole.batches[middle + 1 :],
    }
    for fact, holds in facts.items():
        print(f"{fact}: {'yes' if holds else 'NO'}")
    return 0 if all(facts.values()) else 1


def linked(folder: Path, into: Path, images: int) -> Path:
    """A folder of so many images of ``folder`` and its classes, in as many copies as it takes."""
    source = FolderSource(folder)
    for k in range(images):
        copy, index = divmod(k, len(source))
        path = Path(source.path(index))
        link = into / path.parent.name / f"{copy}-{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(path.resolve())
    return into


def streamed(name: str, store: ImageStore, workers: int, start_step: int = 0) -> Pass:
    """Epoch 0 from ``start_step`` on, by the stream that learning uses."""
    recipe = Recipe.model_validate(
        {
            "name": "shards",
            "seed": SEED,
            "data": {"name": "synthetic", "image_size_px": SIZE_PX},
            "views": {"view_1": AS_IT_IS, "view_2": AS_IT_IS},
            "schedule": {"epochs": 1, "warmup_epochs": 0},
            "machine": {"workers": workers},
        }
    )
    sampler = BatchSampler(len(store), BATCH_SIZE, 1, SEED, start_step=start_step, order=store.order)
    numbers = np.concatenate([batch.indices for batch in sampler]).tolist()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (recipe.data.mean, recipe.data.std))
    batches, pixels = [], []
    started_s = time.monotonic()
    for _, (view, _) in view_stream(sampler, store, recipe, torch.device("cpu")):
        images = ((view * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        batches.append(digest(view.contiguous().numpy()).hex())
        pixels.extend(digest(image) for image in images)
    elapsed_s = time.monotonic() - started_s
    worker_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Pass(name, batches, pixels, numbers, elapsed_s, worker_mb)


def digest(array: np.ndarray) -> bytes:
    """Of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()


def name_of(path: str) -> str:
    """Class and file name of an image."""
    return "/".join(Path(path).parts[-2:])


if __name__ == "__main__":
    sys.exit(main())
