"""What a run is made of: images, order of the batches and networks, from a recipe."""

import os
from dataclasses import dataclass

import torch

from byolt.data import ImageStore, Splits, open_splits, store_of
from byolt.data.sampler import BatchSampler, LabelledImages
from byolt.data.subsets import stratified_subset
from byolt.device import pick_device
from byolt.distributed.process_group import init_distributed, local_rank_zero_first
from byolt.doctor.step_speeds import default_threads
from byolt.methods.mean_teacher import refuse_unlabelled
from byolt.preflight import check_recipe
from byolt.recipe.schema import Recipe
from byolt.training.allocator import keep_freed_memory
from byolt.training.cuda_graph import Stepper, captures
from byolt.training.loader import is_resident
from byolt.training.step import Learner, refuse_uneven_norms
from byolt.training.workers import refuse_little_shared_memory


@dataclass(frozen=True)
class Parts:
    """What a run is made of, before its first step."""

    recipe: Recipe
    splits: Splits
    store: ImageStore
    sampler: BatchSampler
    learner: Learner
    stepper: Stepper


def prepare(recipe: Recipe) -> Parts:
    """Open the images and build the networks; nothing is written but the cache of decoded images.

    Raises:
        InputError: Images, model or batch size do not fit; one sentence says where and what.
        ByoltError: The machine has too little shared memory for the recipe's workers.
    """
    _fix_cublas_workspace(recipe)  # The checks and the process group may begin CUDA.
    check_recipe(recipe)
    init_distributed(recipe.machine.device)
    configure_torch(recipe)
    device = pick_device(recipe.machine.device)
    if device.type == "cpu":  # Before anything is decoded; on a GPU the decoded set may need no worker.
        refuse_little_shared_memory(recipe)
    data, optim = recipe.data, recipe.optim
    with local_rank_zero_first():
        splits = open_splits(data, recipe.seed)
        _check_images(splits, recipe)
        store = store_of(splits.learn, data, data.learn_size_px)
    if device.type == "cuda" and not is_resident(store, recipe, device):
        refuse_little_shared_memory(recipe)
    sampler = BatchSampler(
        len(store),
        optim.batch_size,
        recipe.schedule.epochs,
        recipe.seed,
        labelled=labelled_part(store, recipe),
        parts=optim.accumulate,
        order=store.order,
    )
    captured = captures(recipe, device)
    learner = Learner(
        recipe,
        device,
        steps=sampler.steps,
        steps_per_epoch=sampler.steps_per_epoch,
        classes=len(store.classes),
        device_rates=captured,
    )
    return Parts(recipe, splits, store, sampler, learner, Stepper(learner, recipe, captured=captured))


def _check_images(splits: Splits, recipe: Recipe) -> None:
    """What follows from the number of images and classes, before one is decoded; what cannot be read comes off it.

    Raises:
        InputError: Fewer images than a batch, shares of it that are not equal, or no labels that the method needs.
    """
    optim = recipe.optim
    BatchSampler(len(splits.learn), optim.batch_size, recipe.schedule.epochs, recipe.seed, parts=optim.accumulate)
    refuse_uneven_norms(recipe.method)
    if recipe.method.share_of_labels is not None:
        refuse_unlabelled(len(splits.learn.classes))


def labelled_part(store: ImageStore, recipe: Recipe) -> LabelledImages | None:
    """The labels that the recipe's method is given: a stratified share, a function of the seed; None without any."""
    share = recipe.method.share_of_labels
    if share is None or store.labels is None:
        return None
    chosen = stratified_subset(store.labels, share, recipe.seed)
    return LabelledImages(chosen, store.labels[chosen], recipe.method.labelled_in(recipe.optim.batch_size))


def configure_torch(recipe: Recipe) -> None:
    """Threads, arithmetic and memory of the process, by the recipe."""
    if pick_device(recipe.machine.device).type == "cpu":
        keep_freed_memory()
    threads = recipe.machine.threads
    torch.set_num_threads(threads if isinstance(threads, int) else default_threads())
    _fix_cublas_workspace(recipe)
    torch.use_deterministic_algorithms(recipe.machine.deterministic)
    torch.backends.cudnn.benchmark = not recipe.machine.deterministic


def _fix_cublas_workspace(recipe: Recipe) -> None:
    """Of cuBLAS's sums only those in a workspace of fixed size are the same each time; it reads this when it begins."""
    if recipe.machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Else torch refuses every matrix product.
