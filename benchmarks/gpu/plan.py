"""Which steps are taken, and what follows from how they ended."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.gpu.out_folder import Summary

SMOKE = [
    "machine",
    "captured:byol",
    *(f"against_cpu:{optimizer}" for optimizer in ("lars", "sgd", "adamw")),
    "resume",
    *(f"captured:{method}" for method in ("moco_v2", "simclr", "moco_v3", "simsiam")),
]
"""What decides most comes first: the clock may end it."""
MEASURED = [
    "ceilings",
    *(f"speed:{variant}:RECIPE" for variant in ("eager", "captured", "captured+compiled")),
    *("no_waits:captured", "kernels:captured", "kernels:captured+compiled", "lightly"),
    *(f"speed:{variant}:OTHER" for variant in ("captured+compiled", "captured", "eager")),
    *("speed:compiled:RECIPE", "speed:compiled:OTHER"),
]
"""RECIPE is the recipe's own batch, OTHER each of the others."""
ALIKE, WORTH = 0.02, 1.05
"""Share by which a variant's first losses may part from the eager step's; gain that is worth another batch."""


class Attempt(NamedTuple):
    """One way to learn."""

    variant: str
    batch: str
    """Images a step; empty for the recipe's."""
    rate: str
    """Images/s that were measured; empty where none was."""


PLAINEST = Attempt("eager", "", "")
"""What is left where nothing is known."""


def after_smoke(steps: Sequence[str], batches: Sequence[str], *, captures: bool) -> tuple[list[str], list[str]]:
    """The steps to take with their batches, and those that a failed capture forbids."""
    own, others = (batches[0], batches[1:]) if batches else ("", [])
    named: list[str] = []
    for step in steps:
        if step.endswith(":OTHER"):
            named += [step.replace("OTHER", batch) for batch in others]
        else:
            named.append(step.replace("RECIPE", own))
    forbidden = [] if captures else [step for step in named if "captured" in step]
    return [step for step in named if step not in forbidden], forbidden


def captures_well(summary: Summary) -> bool:
    """Whether captured steps may be used: none of BYOL's own failed. One that was not taken forbids nothing."""
    return "failed" not in (summary.state_of("captured:byol"), summary.state_of("resume"))


def speeds(summary: Summary) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured, by variant and batch, where the losses are those of the eager step as far as it is known."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for step in list(summary.tree["steps"]):
        name, *how = step.split(":")
        measured = summary.found(step) if name == "speed" else {}
        if measured:
            found[how[0], how[1]] = measured
    return {
        how: measured
        for how, measured in found.items()
        if alike(measured["losses"], found.get(("eager", how[1]), measured)["losses"])
    }


def alike(losses: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether the losses of the first steps are the same but for the rounding of bf16."""
    return all(abs(a - b) <= ALIKE * abs(b) for a, b in zip(losses, expected, strict=True))


def attempts(summary: Summary, *, captures: bool) -> list[Attempt]:
    """Ways to learn, the fastest that passed first; then plainer ones, down to one kernel at a time.

    The recipe's own batch stays unless another one is worth it: it decides what is learned.
    """
    known = speeds(summary)
    own = next((step.split(":")[2] for step in list(summary.tree["steps"]) if step.startswith("speed:eager")), "")
    rates = {how: measured["images_per_s"] for how, measured in known.items() if captures or "captured" not in how[0]}
    order: list[Attempt] = []
    if rates:
        best = max(rates, key=lambda how: rates[how] * (WORTH if how[1] == own else 1.0))
        order.append(Attempt(*best, f"{rates[best]:.1f}"))
    plainer = ["captured", "eager"] if captures and summary.state_of("captured:byol") == "passed" else ["eager"]
    for variant in plainer:
        if not order or (order[0].variant, order[0].batch) != (variant, own):
            rate = rates.get((variant, own))
            order.append(Attempt(variant, own, "" if rate is None else f"{rate:.1f}"))
    return order


def share_of_ceiling(summary: Summary) -> float | None:
    """The networks' operations a second of the fastest variant over the card's; None where one of them is not known."""
    operations, ceiling = summary.found("operations"), summary.found("ceilings")
    rates = [measured["images_per_s"] for measured in speeds(summary).values()]
    if not (operations and ceiling and rates):
        return None
    share: float = max(rates) * operations["flops_per_image"] / (ceiling["matrix_tflops"] * 1e12)
    return share
