"""How fast, and where the time goes: ceilings of the card, variants of the step, waits, kinds of kernels, lightly."""

import contextlib
import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from benchmarks.gpu import readings
from benchmarks.gpu.settings import VARIANTS, NeedsGpu, Settings
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from byolt.data.sampler import Batch
from byolt.device import peak_bytes
from byolt.environment import environment
from byolt.recipe.schema import Recipe
from byolt.training.loader import batch_stream
from byolt.training.prepare import Parts, prepare

WARM_STEPS, CHUNK_STEPS, LEAST_CHUNKS, FREE_STEPS = 8, 10, 3, 20
COPY_BYTES, COPIES = 4 * 2**30, 20
LONG = "schedule.epochs=1000000"  # As many steps as anyone times.
# In this order: cuDNN has kernels of BatchNorm too, and a convolution may be an implicit gemm.
KINDS = {
    "BatchNorm": ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "native_batch_norm"),
    "optimizer and target": ("multi_tensor_apply", "multitensor", "fused_adam", "fused_sgd", "foreach"),
    "convolution": ("conv", "fprop", "dgrad", "wgrad", "xmma", "cudnn", "nhwckrsc"),
    "matrix product": ("gemm", "cublas", "cutlass", "gemv", "splitk"),
    "copies": ("memcpy", "memset", "copy"),
    "reductions": ("reduce", "softmax", "norm"),
    "elementwise": ("elementwise", "vectorized", "unrolled", "fill", "index", "where"),
}


def machine(settings: Settings) -> dict[str, Any]:
    """What it runs on; never a host's name."""
    found: dict[str, Any] = {"device": "cuda" if torch.cuda.is_available() else "cpu"} | environment()
    found["torch"] = torch.__version__
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_memory_gb": round(gpu.total_memory / 1e9, 1), "cuda": torch.version.cuda}
        found |= {"multiprocessors": gpu.multi_processor_count, "cudnn": torch.backends.cudnn.version()}
    for private in ("command", "started"):
        found.pop(private, None)
    return found


def operations(settings: Settings) -> dict[str, Any]:
    """Floating-point operations of a step for one image."""
    return {"flops_per_image": readings.flops_per_image(settings.recipe(*settings.generated()))}


def ceilings(settings: Settings) -> dict[str, Any]:
    """The most that the card copies and multiplies: bytes read and written a second, bf16 operations a second."""
    if not torch.cuda.is_available():
        raise NeedsGpu
    source = torch.randint(0, 2**31, (COPY_BYTES // 4,), dtype=torch.int32, device="cuda")  # Zeros would flatter.
    target, took_s = torch.empty_like(source), []
    for _ in range(COPIES):
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        took_s.append(time.perf_counter() - started_s)
    copied = 2 * COPY_BYTES / statistics.median(took_s[3:]) / 1e12
    del source, target
    matrix = readings.peak(settings.matrix)
    return {"copy_tb_per_s": copied, "copy_bytes": COPY_BYTES} | {
        f"matrix_{name}": matrix[name] for name in ("tflops", "dtype", "size")
    }


def speed(settings: Settings, variant: str, batch: str = "") -> dict[str, Any]:
    """Images/s of real steps, views included: median, lowest and highest of some spans; and the first losses.

    The eager step runs on a CPU too; the others need a GPU.
    """
    device = torch.device("cpu") if variant == "eager" and not torch.cuda.is_available() else settings.gpu()
    rehearsed = device.type == "cpu" and variant != "eager"
    recipe = recipe_of(settings, variant, batch, device)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    parts, started_s = prepare(recipe), time.perf_counter()
    with stepping(parts, device) as steps:
        losses = [next(steps).clone() for _ in range(WARM_STEPS)]
        readings.finish()
        first_s, spans_s = time.perf_counter() - started_s, list[float]()
        while len(spans_s) < LEAST_CHUNKS or sum(spans_s) < settings.timed_s:
            started_s = time.perf_counter()
            for _ in range(CHUNK_STEPS):
                last = next(steps)
            readings.finish()
            spans_s.append(time.perf_counter() - started_s)
    images, values = CHUNK_STEPS * recipe.optim.batch_size, [float(loss) for loss in (*losses, last)]
    return {
        "images_per_s": images / statistics.median(spans_s),
        "lowest": images / max(spans_s),
        "highest": images / min(spans_s),
        "batch_size": recipe.optim.batch_size,
        "device": device.type,
        "images": recipe.data.name,
        "first_steps_s": first_s,
        "peak_memory_mb": peak_bytes(device) / 1e6,
        "losses": values[:-1],
        "ok": all(abs(loss) < float("inf") for loss in values),
        "rehearsed": rehearsed,
    }


def warm(settings: Settings, variant: str, batch: str) -> dict[str, Any]:
    """Take the first steps of a compiled variant, so that what they compile lies in the compiler's cache."""
    device, started_s = settings.gpu(), time.perf_counter()
    recipe = settings.recipe(*settings.generated(), LONG, *VARIANTS[variant], *sized(batch), on(device))
    with stepping(prepare(recipe), device) as steps:
        for _ in range(2):
            next(steps)
        readings.finish()
    return {"first_steps_s": time.perf_counter() - started_s, "rehearsed": device.type == "cpu"}


def no_waits(settings: Settings, variant: str) -> dict[str, Any]:
    """Steps in which torch refuses whatever would make the host wait for the GPU."""
    with settled(settings, variant) as steps:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(FREE_STEPS):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"steps": FREE_STEPS}


def kernels(settings: Settings, variant: str) -> dict[str, Any]:
    """Milliseconds of one step's kernels by kind, and the ten that take longest."""
    with settled(settings, variant) as steps, profile(activities=[ProfilerActivity.CUDA]) as profiler:
        next(steps)
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    events.sort(key=lambda event: event.time_range.start)
    return by_kind((event.name, event.time_range.elapsed_us() / 1e3) for event in events)


def by_kind(events: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """Sums over kernels, (name, milliseconds) in the order in which they ran.

    A replayed graph tells nothing of the code that launched a kernel, but a step begins with its views: what runs
    before the first convolution is theirs, the casts of its weights included.
    """
    sums: dict[str, float] = defaultdict(float)
    longest: dict[str, float] = defaultdict(float)
    views, count = True, 0
    for name, took_ms in events:
        kind, count = kind_of(name), count + 1
        views = views and kind != "convolution"
        sums["views" if views else kind] += took_ms
        longest[name[:120]] += took_ms
    ten = sorted(longest.items(), key=lambda item: -item[1])[:10]
    whole = sum(sums.values())
    return {"kernels": count, "ms": whole, "ms_by_kind": dict(sums), "longest_ms": dict(ten), "ok": count > 0}


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    if name.startswith("triton_"):  # Named after all that is fused into it, a neighbouring convolution included.
        return "BatchNorm" if "batch_norm" in name else "elementwise"
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")


def lightlys_loop(settings: Settings) -> dict[str, Any]:
    """lightly's own loop on the same images, encoder and batch."""
    recipe = settings.recipe(*keys_of_images(settings), *VARIANTS["eager"])
    return readings.lightly(recipe, settings.lightly_s, settings.workers)


def keys_of_images(settings: Settings) -> tuple[str, ...]:
    """The real images where they are ready, else generated ones: a step takes as long with either."""
    return settings.real() if settings.images_are_ready.exists() else settings.generated()


def recipe_of(settings: Settings, variant: str, batch: str, device: torch.device) -> Recipe:
    """The recipe in a variant; the recipe's own batch where none is named."""
    return settings.recipe(*keys_of_images(settings), LONG, *VARIANTS[variant], *sized(batch), on(device))


def sized(batch: str) -> tuple[str, ...]:
    """The key of a batch."""
    return (f"optim.batch_size={batch}",) if batch else ()


def on(device: torch.device) -> str:
    """The key of a device."""
    return f"machine.device={device.type}"


@contextlib.contextmanager
def stepping(parts: Parts, device: torch.device) -> Iterator[Iterator[Tensor]]:
    """The losses of the parts' steps, one after the other."""
    # What another batch or variant has left in this process.
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

    def losses(stream: Iterator[Batch]) -> Iterator[Tensor]:
        for step, batch in enumerate(stream):
            yield parts.stepper.step(step, batch).loss

    with contextlib.closing(batch_stream(parts.sampler, parts.store, parts.recipe, device)) as stream:
        yield losses(stream)


@contextlib.contextmanager
def settled(settings: Settings, variant: str) -> Iterator[Iterator[Tensor]]:
    """The same of a variant on the GPU, after the steps that search for kernels and record.

    Raises:
        NeedsGpu: There is none.
    """
    if not torch.cuda.is_available():
        raise NeedsGpu
    device = torch.device("cuda")
    with stepping(prepare(recipe_of(settings, variant, "", device)), device) as steps:
        for _ in range(WARM_STEPS):
            next(steps)
        torch.cuda.synchronize()
        yield steps
