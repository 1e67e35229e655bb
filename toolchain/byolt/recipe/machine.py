"""The `machine` section of a recipe: keys that change no result."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from byolt.recipe.section import Count, FolderPath, Gigabytes, Section, machine
from byolt_export.wording import shown


def _no_number(value: Any) -> Any:
    """In Python 1 equals true, and pydantic would take it for that.

    Raises:
        ValueError: It is a number.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"should be true, false or encoder, got {shown(value)}")
    return value


class Machine(Section):
    """The machine at hand; it may change between runs of one result, which then agree within rounding."""

    device: Literal["auto", "cpu", "cuda"] = machine("auto")
    """Where it runs; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = machine("auto")
    """Arithmetic of forward and backward; `auto` is bf16 on a GPU that has it, else fp32. bf16 rounds more coarsely;
    weights, statistics and losses are fp32 in both. A run goes on in the one that it began with."""
    workers: Annotated[int, Field(ge=0, le=10**6)] = machine(0)
    """Processes that read and decode images; 0 reads in the main process."""
    threads: Annotated[int, Field(ge=1, le=10**6)] | Literal["auto"] | None = machine(None)
    """CPU threads of torch; left out, as many as torch itself takes, within the cores and the quota of this process.
    `auto` measures one and all when a run begins. A run keeps its number when it goes on: another gives other bits."""
    channels_last: bool = machine(True)
    """Keep images and convolution weights channels-last."""
    resident_gb: Gigabytes = machine(8.0)
    """Decoded sets up to this size are copied to the GPU once (views.backend: batched)."""
    cuda_graph: bool = machine(True)
    """On one GPU: capture the step as a CUDA graph, so that the host launches it as a whole."""
    compile: Annotated[Literal[False, True, "encoder"], BeforeValidator(_no_number)] = machine(False)
    """torch.compile for steps: true takes encoder, heads and loss as one graph, `encoder` the encoder alone, for both
    views and the target, and on a GPU the views. The first steps are slow; evaluation and files are as without it."""
    recompute: bool = machine(False)
    """Keep no activations inside the encoder's blocks and compute them again in the backward pass: less memory, about
    a third more time."""
    deterministic: bool = machine(False)
    """Bit-equal results on a GPU, at some cost in speed; CPU runs always are, at the same thread count."""
    log_every_steps: Count = machine(20)
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every_s: Annotated[float, Field(gt=0, le=1e9)] = machine(300.0)
    """Seconds between two checkpoints; one is also written at each evaluation and at the end."""
    keep_checkpoints: Count = machine(2)
    """Checkpoints kept besides the last."""
    tensorboard: bool = machine(False)
    """Write TensorBoard event files too (byolt[tensorboard])."""
    runs_dir: FolderPath = machine(Path("runs"))
    """Where run folders are made."""
