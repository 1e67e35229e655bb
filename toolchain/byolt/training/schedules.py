"""Learning rate and tau as pure functions of the step (Grill et al. 2020, section 3.3 and appendix J)."""

import math


def learning_rate(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up from 0 to ``peak`` over ``warmup_steps``, then cosine decay to 0 at ``steps``.

    ``peak`` is base_lr * global batch size / 256. ``step`` counts from 0, so the first step of a warm-up has rate 0.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (math.cos(math.pi * progress) + 1) / 2


def tau(step: int, *, steps: int, tau_base: float) -> float:
    """Target decay: 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2, from tau_base at k = 0 to 1 at k = K."""
    return 1 - (1 - tau_base) * (math.cos(math.pi * step / steps) + 1) / 2
