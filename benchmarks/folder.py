"""A folder of a million images, streamed: how long it takes to open, to the first batch, and what memory does.

Makes hard links to a few hundred JPEG files, in nested sub-folders, and measures each number of workers in a process
of its own. Memory beyond the imports at opening is the peak of the resident size; while batches are fetched it is the
proportional size (PSS) of the process and its workers together, as pages that they share count once, and without pages
of files: those of the libraries are shared with other programs and grow when one of them ends. The folder's entries are
warm, as they were just made; the pixels of so few files too.

    python benchmarks/folder.py --images 1000000 --workers 0 2
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DRAWN = 300
"""Different files: a file system may allow no more than 65,000 links to one."""
FOLDERS, A_CLASS = 100, 10
MOST_IN_A_FOLDER = 10_000
LOOKS = 20
"""How often the memory is looked at: of 2,000 steps after each 100."""
VIEW_PX, STORE_PX, FILE_PX = 32, 64, 128


def main() -> None:
    """Make the folder, measure each number of workers, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--steps", type=int, default=2000, help=f"batches of --batch-size, a multiple of {LOOKS}")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--first-batch-size", type=int, default=256)
    parser.add_argument("--dir", type=Path, help="where the folder is made and removed again; else a temporary one")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps % LOOKS or arguments.steps * arguments.batch_size > arguments.images:
        parser.error(f"--steps is no multiple of {LOOKS}, or there are fewer --images than its batches hold")
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="folder-", dir=arguments.dir) as made:
        seconds = make_folder(Path(made), arguments.images)
        print(f"made in {seconds:.0f} s", file=sys.stderr)
        options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in SHARED]
        rows = []
        for workers in arguments.workers:
            command = [sys.executable, __file__, f"--measure={made}/images", f"--workers={workers}", *options]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    print_table(rows)


SHARED = ("images", "steps", "batch_size", "first_batch_size")


def make_folder(root: Path, images: int) -> float:
    """``images`` hard links below ``root / "images"``, evenly over nested folders; the seconds it took."""
    started_s = time.monotonic()
    (root / "drawn").mkdir()
    drawn = [root / "drawn" / f"{k}.jpg" for k in range(DRAWN)]
    coarse = np.random.default_rng(0).integers(0, 256, (DRAWN, 12, 12, 3), dtype=np.uint8)
    for path, pixels in zip(drawn, coarse, strict=True):
        Image.fromarray(pixels).resize((FILE_PX, FILE_PX), Image.Resampling.BICUBIC).save(path, quality=90)
    folders = max(FOLDERS, images // MOST_IN_A_FOLDER)
    for folder in range(folders):
        into = root / "images" / f"class{folder // A_CLASS:03d}" / f"part{folder:04d}"
        into.mkdir(parents=True)
        for number in range(folder, images, folders):
            os.link(drawn[number % DRAWN], f"{into}/image_{number:08d}.jpg")
    return time.monotonic() - started_s


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The metrics of one number of workers, in this fresh process."""
    import torch

    from byolt.data import FolderSource, open_store
    from byolt.data.sampler import BatchSampler
    from byolt.recipe.schema import Recipe
    from byolt.training.allocator import keep_freed_memory
    from byolt.training.loader import view_stream
    from byolt.views import batched_views  # noqa: F401 - the stream imports it when it begins

    torch.set_num_threads(1)
    keep_freed_memory()  # As `byolt pretrain` does.
    (workers,), root = arguments.workers, arguments.measure
    recipe = Recipe.model_validate(
        {
            "name": "folder",
            "data": {"name": "folder", "root": root, "image_size_px": VIEW_PX, "store_size_px": STORE_PX},
            "schedule": {"epochs": 1, "warmup_epochs": 0},
            "machine": {"workers": workers},
        }
    )
    imported_mb = peak_mb_from_here()
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    store = open_store(
        FolderSource(root), STORE_PX, "crop", budget_gb=0, cache_dir=root.parent / "cache", corrupt_limit=0.01
    )
    opened_s, opened_cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
    metrics = {
        "images": len(store),
        "workers": workers,
        "opened_s": opened_s,
        "opened_cpu_s": opened_cpu_s,
        "opened_peak_mb": status_mb("VmHWM") - imported_mb,
        "opened_kept_mb": status_mb("VmRSS") - imported_mb,
    }
    started_s = time.monotonic()
    cpu = torch.device("cpu")
    with closing(
        view_stream(BatchSampler(len(store), arguments.first_batch_size, 1, seed=0), store, recipe, cpu)
    ) as stream:
        _, (first, *_) = next(stream)
        metrics["first_batch_s"] = time.monotonic() - started_s
        assert first.shape == (arguments.first_batch_size, 3, VIEW_PX, VIEW_PX)
    started_s = time.monotonic()
    with closing(view_stream(BatchSampler(len(store), arguments.batch_size, 1, seed=0), store, recipe, cpu)) as stream:
        memory_mb = list(sampled(stream, arguments.steps))
    seconds = time.monotonic() - started_s
    return metrics | {"memory_mb": memory_mb, "images_per_s": arguments.steps * arguments.batch_size / seconds}


def sampled(stream: Iterator[Any], steps: int) -> Iterator[float]:
    """Memory of this process and its workers at ``LOOKS`` times of ``steps`` batches, in MB."""
    for step in range(1, steps + 1):
        next(stream)
        if step % (steps // LOOKS) == 0:
            yield sum(proportional_mb(pid) for pid in [os.getpid(), *children()])


def children() -> list[int]:
    """Processes that this one has started and that run."""
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def proportional_mb(pid: int) -> float:
    """Resident memory of a process that is not of a file; a page that n processes share counts 1/n."""
    table = Path(f"/proc/{pid}/smaps_rollup")
    return (kib_of(table, "Pss_Anon") + kib_of(table, "Pss_Shmem")) * 1024 / 1e6


def status_mb(field: str) -> float:
    """``VmRSS``, resident memory of this process now, or ``VmHWM``, its peak."""
    return kib_of(Path("/proc/self/status"), field) * 1024 / 1e6


def kib_of(path: Path, field: str) -> int:
    """A figure of one of the kernel's tables of a process."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{field}:"))


def peak_mb_from_here() -> float:
    """Resident memory now; the peak is counted anew from it, for the imports have one of their own."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_mb("VmRSS")


def print_table(rows: list[dict[str, Any]]) -> None:
    """A row for each number of workers; on stderr each look at the memory."""
    heads = (
        "images",
        "workers",
        "opened, s",
        "CPU of it, s",
        "peak beyond imports, MB",
        "kept of it, MB",
        "first batch, s",
        "memory after 1/20 of the steps, MB",
        "after the last, MB",
        "growth, MB",
        "largest, MB",
        "images/s",
    )
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        memory_mb = row["memory_mb"]
        print("memory, MB:", *(f"{mb:.0f}" for mb in memory_mb), file=sys.stderr)
        cells = (
            f"{row['images']}",
            f"{row['workers']}",
            f"{row['opened_s']:.1f}",
            f"{row['opened_cpu_s']:.1f}",
            f"{row['opened_peak_mb']:.0f}",
            f"{row['opened_kept_mb']:.0f}",
            f"{row['first_batch_s']:.2f}",
            f"{memory_mb[0]:.0f}",
            f"{memory_mb[-1]:.0f}",
            f"{memory_mb[-1] - memory_mb[0]:+.1f}",
            f"{max(memory_mb):.0f}",
            f"{row['images_per_s']:.0f}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
