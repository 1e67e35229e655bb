"""Wrong formulas of recomputation, of the largest batch, of a step that ran out of memory, and of the dry run."""

from tests.mutations.mutation import Mutation

RECOMPUTE = "toolchain/byolt/networks/recompute.py"
SAMPLER = "toolchain/byolt/data/sampler.py"
MEMORY_FILE, DRY_RUN, LOOP = (f"toolchain/byolt/training/{name}.py" for name in ("memory", "dry_run", "loop"))
IN_RECOMPUTE = "tests/networks/test_recompute.py"
IN_MEMORY, IN_DRY_RUN, IN_LOADER, IN_LOOP = (
    f"tests/training/test_{name}.py" for name in ("memory", "dry_run", "loader", "loop")
)

MEMORY = [
    Mutation(
        "statistics updated in recomputation",
        RECOMPUTE,
        "return nullcontext(), _buffers_spared(block)",
        "return nullcontext(), nullcontext()",
        IN_RECOMPUTE,
    ),
    Mutation(
        "a block bound to the online network",
        RECOMPUTE,
        "block.forward = partial(_recomputed, block)",
        "block.forward = lambda *args, block=block, **kwargs: _recomputed(block, *args, **kwargs)",
        IN_RECOMPUTE,
    ),
    Mutation(
        "stages recomputed as a whole", RECOMPUTE, " and is_called and not is_stage", " and is_called", IN_RECOMPUTE
    ),
    Mutation(
        "fixed memory counted twice",
        MEMORY_FILE,
        "(memory_bytes * (1 - MARGIN) - self.fixed_bytes)",
        "(memory_bytes * (1 - MARGIN) - 2 * self.fixed_bytes)",
        IN_MEMORY,
    ),
    Mutation(
        "the margin added", MEMORY_FILE, "(memory_bytes * (1 - MARGIN)", "(memory_bytes * (1 + MARGIN)", IN_MEMORY
    ),
    Mutation(
        "a line through the origin",
        MEMORY_FILE,
        "PeakLine(small_bytes - image_bytes * small, image_bytes)",
        "PeakLine(0, image_bytes)",
        IN_MEMORY,
    ),
    Mutation(
        "the method's bound on a batch ignored", MEMORY_FILE, "of_method, in_a_tensor)", "in_a_tensor)", IN_MEMORY
    ),
    Mutation(
        "a tensor of all parts at once",
        MEMORY_FILE,
        "_ELEMENTS // elements * accumulate",
        "_ELEMENTS // elements",
        IN_MEMORY,
    ),
    Mutation(
        "a batch rounded to eights alone",
        MEMORY_FILE,
        "even = math.lcm(_EVEN, unit)",
        "even = _EVEN",
        IN_MEMORY,
    ),
    Mutation(
        "resident memory not counted as there",
        MEMORY_FILE,
        'in_use_bytes(device) + kib_of("/proc/meminfo"',
        'kib_of("/proc/meminfo"',
        IN_MEMORY,
    ),
    Mutation("the group's limit ignored", MEMORY_FILE, "* 1024, *limits])", "* 1024])", IN_MEMORY),
    Mutation(
        "any fault taken for one of memory", MEMORY_FILE, "if not is_memory_fault(error):", "if False:", IN_MEMORY
    ),
    Mutation(
        "a bound without what is in use",
        MEMORY_FILE,
        "line_through(0, in_use_bytes(device), batch, memory)",
        "line_through(0, 0, batch, memory)",
        IN_MEMORY,
    ),
    Mutation(
        "the peak of batches tried before told as the recipe's",
        DRY_RUN,
        "begin_peak_anew(parts.learner.device)",
        "parts.learner.device",
        IN_MEMORY,
    ),
    Mutation(
        "all steps take as long as the first stage's",
        DRY_RUN,
        "seconds = [stage.steps * recipe.optim.batch_size / stage.images_per_s for stage in stages]",
        "seconds = [stage.steps * recipe.optim.batch_size / stages[0].images_per_s for stage in stages]",
        IN_DRY_RUN,
    ),
    Mutation(
        "a window of epochs begins at the first step",
        SAMPLER,
        "start_step=first_epoch * self.steps_per_epoch, epochs",
        "start_step=0, epochs",
        IN_LOADER,
    ),
    Mutation(
        "a resumed run begins at the first step",
        LOOP,
        'sampler=replace(parts.sampler, start_step=state["step"])',
        "sampler=replace(parts.sampler, start_step=0)",
        IN_LOOP,
    ),
]
