"""What can be known before an image is opened: one sentence at once, in place of one after an hour of decoding.

Every command that takes long asks here first, in this order: the machine, the networks, the folders it will write.
"""

import os
import tempfile
import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from byolt.cores import usable_cores
from byolt.library_errors import is_memory_fault
from byolt_export.errors import ByoltError, InputError, first_line

if TYPE_CHECKING:
    from torch import nn

    from byolt.recipe.machine import Machine
    from byolt.recipe.model import Head, Model
    from byolt.recipe.schema import Recipe
    from byolt.run import Run

_LEAST_MOST = 32
"""What is never too many threads or processes, however few cores there are."""
_A_CORE = 4
"""Threads or processes a core beyond which more cannot be meant."""
_COPIES = 3
"""Of each weight while it is learned, at least: itself, its gradient, its momentum."""
_AROUND_NAME = len(".-01234567.4194304.part")
"""What a run's folder is called besides the recipe's name while it is made."""


def check_recipe(recipe: "Recipe") -> None:
    """Refuse a recipe that cannot be learned here, before its images are opened.

    Raises:
        InputError: Device, threads, workers, backbone, its arguments, initial weights or view sizes do not fit.
        MissingPart: TensorBoard is asked for and not installed.
    """
    check_machine(recipe.machine)
    if recipe.machine.tensorboard:
        require("tensorboard")
    check_networks(recipe)


def check_machine(machine: "Machine", learned_with: "Machine | None" = None) -> None:
    """Refuse a device that is not here, and more threads or workers than this machine can hold.

    Args:
        machine: As it is wanted now.
        learned_with: As a run has it that was learned elsewhere: what stands there is not asked of this machine.

    Raises:
        InputError: One of them, or bf16 on a CPU without units for it; the sentence names the key.
    """
    from byolt.device import NO_BF16_UNITS, has_bf16_units, pick_device

    if isinstance(machine.threads, int) and (learned_with is None or machine.threads != learned_with.threads):
        refuse_too_many("machine.threads", machine.threads, "threads")
    if learned_with is None or machine.workers != learned_with.workers:
        refuse_too_many("machine.workers", machine.workers, "processes")
    device = pick_device(machine.device)
    learns = learned_with is None
    if learns and machine.precision == "bf16" and device.type == "cpu" and not has_bf16_units(device):
        raise InputError(f"machine.precision: bf16, and {NO_BF16_UNITS}; take fp32")


def refuse_too_many(key: str, wanted: int, of_what: str, way_out: str = "") -> None:
    """Refuse a number of threads or processes that would take a machine of this size down.

    Args:
        key: What the number was given for.
        wanted: The number.
        of_what: Threads, or processes.
        way_out: What to give in its place, up to the number; left out, the key is given anew.

    Raises:
        InputError: More than four a core, and more than 32.
    """
    cores = usable_cores()
    most = max(_LEAST_MOST, _A_CORE * cores)
    if wanted > most:
        here = "the one core" if cores == 1 else f"the {cores} cores"
        best = f"{way_out}{cores}" if way_out else f"take {most} at most, best {cores}"
        raise InputError(f"{key}: {wanted:,} {of_what} are too many for {here} here; {best}")


def require(*modules: str) -> None:
    """Import what a command needs at its end.

    Raises:
        ImportError: One is missing or does not load, which the command line tells with the extra that brings it.
    """
    for name in modules:
        import_module(name)


def check_networks(recipe: "Recipe") -> None:
    """Build the encoder without its weights, where no file or download is asked for, and send each size through it.

    Raises:
        InputError: No such backbone, arguments that do not fit it, a size of the views that it does not take, weights
            that cannot be had, or more weights than this machine has memory for.
    """
    import torch

    from byolt.networks.encoders import without_initial_weights
    from byolt.networks.frozen import freeze

    model = recipe.model
    if model.init != "random":
        freeze(_built(recipe, model), model)  # Its file, or its download, is to be had now.
    try:
        with torch.device("meta"):
            encoder = _built(recipe, without_initial_weights(model))
            _take_views(encoder, recipe)
    except Exception as error:
        if "meta" not in str(error).lower():
            raise
        # Some models read a tensor's values while they are built.
        encoder = _built(recipe, without_initial_weights(model))
        _take_views(encoder, recipe)
    width = _width_of(encoder, recipe.data.image_size_px)
    encoder_weights = sum(weight.numel() for weight in encoder.parameters())
    heads = _weights_of(model.projector, width) + _weights_of(model.predictor, model.projector.out_dim)
    _refuse_beyond_memory(recipe, encoder_weights + heads)


def _built(recipe: "Recipe", model: "Model") -> "nn.Module":
    from byolt.networks.encoders import build_encoder, weight_seed

    try:
        size_px = recipe.data.image_size_px
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is built for good comes later, and may warn then.
            return build_encoder(model, seed=weight_seed(recipe.seed), image_size_px=size_px)[0]
    except Exception as error:
        if isinstance(error, ByoltError) or is_memory_fault(error):
            raise
        given = f" with model.args {model.args}" if model.args else ""
        raise InputError(f"model.backbone: {model.backbone}{given} cannot be built: {first_line(error)}") from error


def _take_views(encoder: "nn.Module", recipe: "Recipe") -> None:
    size_px = 0
    try:
        for size_px in {recipe.view_size_px_of(0), recipe.view_size_px} - {recipe.data.image_size_px}:
            _width_of(encoder, size_px)
    except Exception as error:
        if is_memory_fault(error):
            raise
        raise InputError(
            f"model.backbone: {recipe.model.backbone} does not take views of {size_px} px (views.size_px, "
            f"views.early_size_px): {first_line(error)}"
        ) from error


def _width_of(encoder: "nn.Module", size_px: int) -> int:
    """Width D of the features of one image."""
    import torch

    device = next(encoder.parameters()).device
    with torch.no_grad():
        width: int = encoder.eval()(torch.zeros(1, 3, size_px, size_px, device=device)).shape[1]
    return width


def _weights_of(head: "Head", in_dim: int) -> int:
    """Of the linear layers alone."""
    widths = [in_dim, *[head.hidden_dim] * (head.layers - 1), head.out_dim]
    return sum(above * below for above, below in pairwise(widths))


def _refuse_beyond_memory(recipe: "Recipe", weights: int) -> None:
    import torch

    from byolt.device import pick_device

    on_gpu = pick_device(recipe.machine.device).type == "cuda"
    if on_gpu:
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = 4 * _COPIES * weights
    if needed > memory:
        here = "the GPU" if on_gpu else "this machine"
        raise InputError(
            f"model: {weights:,} weights take {needed / 1e9:,.0f} GB to learn, and {here} has {memory / 1e9:,.0f} GB; "
            "take a smaller model.backbone, or narrower heads (model.projector.hidden_dim, model.predictor.hidden_dim)"
        )


def check_run_folder(recipe: "Recipe") -> None:
    """Refuse a folder of runs that cannot be written, and a name too long for a folder in it.

    Where a run of that name has ended it may be this one, which is printed and not written.

    Raises:
        InputError: The name is too long.
        ByoltError: The folder cannot be written.
    """
    folder = recipe.machine.runs_dir
    if any(folder.glob(f"{recipe.name}-*/result.json")):
        return
    refuse_unwritable(folder, "--set machine.runs_dir=DIR")
    longest = os.pathconf(_nearest(folder), "PC_NAME_MAX") - _AROUND_NAME
    if len(recipe.name) > longest:
        raise InputError(
            f"name: {recipe.name[:20]}... has {len(recipe.name)} characters, and a run's folder can take {longest}; "
            "give a shorter name"
        )


def check_finished(run: "Run", recipe: "Recipe") -> None:
    """Refuse to measure or deliver a run where its results could not be kept, or with more than this machine holds.

    Args:
        run: Whose folder will be written to.
        recipe: The run's, with what was overridden.

    Raises:
        InputError: Device, threads or workers do not fit.
        ByoltError: The folder cannot be written.
    """
    check_machine(recipe.machine, run.recipe.machine)
    refuse_unwritable(run.path, f"copy {run.path} to it, and give the copy")


def refuse_unwritable(folder: Path, way_out: str) -> None:
    """Refuse a folder, there or not yet, that files cannot be written to; it is tried, and nothing is left.

    Args:
        folder: Where files will be written.
        way_out: How another folder is named.

    Raises:
        ByoltError: The system's own words, and the way out.
    """
    nearest = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        at = "" if nearest == folder else f" below {nearest}"
        raise ByoltError(
            f"{folder} cannot be written{at} ({error.strerror}); name another folder: {way_out}"
        ) from error


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there; a link into nothing is."""
    return next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
