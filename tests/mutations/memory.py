"""Wrong formulas of recomputation, of the largest batch, of the room there is, and of the profile's advice."""

from tests.mutations.mutation import Mutation

RECOMPUTE, MEMORY_FILE, ROOM, ADVICE = (
    f"toolchain/byolt/training/{name}.py" for name in ("recompute", "memory", "room", "advice")
)
IN_RECOMPUTE, IN_MEMORY, IN_ROOM, IN_ADVICE = (
    f"tests/training/test_{name}.py" for name in ("recompute", "memory", "room", "advice")
)

MEMORY = [
    Mutation(
        "statistics updated in recomputation",
        RECOMPUTE,
        "return nullcontext(), _buffers_spared(self)",
        "return nullcontext(), nullcontext()",
        IN_RECOMPUTE,
    ),
    Mutation(
        "a block bound to the online network",
        RECOMPUTE,
        '        block.__class__ = type(kind.__name__, (_Recomputed, kind), {"__module__": kind.__module__})\n',
        "        def forward(*args: Any, plain: Any = block.forward) -> Any:\n"
        "            return checkpoint(plain, *args, use_reentrant=False)\n\n"
        "        block.forward = forward\n",
        IN_RECOMPUTE,
    ),
    Mutation(
        "stages recomputed as a whole", RECOMPUTE, " and is_called and not is_stage", " and is_called", IN_RECOMPUTE
    ),
    Mutation(
        "fixed memory counted twice",
        MEMORY_FILE,
        "(room * (1 - MARGIN) - self.fixed_bytes)",
        "(room * (1 - MARGIN) - 2 * self.fixed_bytes)",
        IN_MEMORY,
    ),
    Mutation("the margin added", MEMORY_FILE, "(room * (1 - MARGIN)", "(room * (1 + MARGIN)", IN_MEMORY),
    Mutation(
        "a line through the origin",
        MEMORY_FILE,
        "Line(small_bytes - image_bytes * small, image_bytes)",
        "Line(0, image_bytes)",
        IN_MEMORY,
    ),
    Mutation(
        "any fault taken for a step's",
        MEMORY_FILE,
        "if not (is_memory_fault(error) and _in_a_step(error)):",
        "if not is_memory_fault(error):",
        IN_MEMORY,
    ),
    Mutation(
        "resident memory not counted as room",
        ROOM,
        'return _kib(status, "VmRSS") * 1024 + max(0, min(free))',
        "return max(0, min(free))",
        IN_ROOM,
    ),
    Mutation("the widest bound taken for the room", ROOM, "max(0, min(free))", "max(free)", IN_ROOM),
    Mutation("cached files taken for used memory", ROOM, "+ int(stat.get(cached, 0))", "", IN_ROOM),
    Mutation("the advice of data upside down", ADVICE, "if share <= DATA:", "if share > DATA:", IN_ADVICE),
    Mutation("the smallest share first", ADVICE, "key=lambda pair: -pair[0]", "key=lambda pair: pair[0]", IN_ADVICE),
]
