"""One optimizer step of a method: forward, backward, optimizer, target; and the state to resume it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from byolt.methods.method import Outcome
from byolt.sections import Section
from byolt.sections_of_methods import ByolMethod, MeanTeacherMethod, MocoV2Method, MovingTarget, SimSiamMethod
from byolt.training.assembly import build_method
from byolt.training.optimizers import build_optimizer
from byolt.training.recompute import recompute_blocks
from byolt.training.schedules import learning_rate, tau
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.schema import Recipe


class Learner:
    """The networks and their optimizer on a device."""

    def __init__(
        self, recipe: "Recipe", device: torch.device, *, steps: int, steps_per_epoch: int, classes: int = 0
    ) -> None:
        """Build the method by the recipe; ``steps`` is the run's length, ``classes`` the labels of Mean Teacher."""
        self.device = device
        self.steps = steps
        self.warmup_steps = round(recipe.schedule.warmup_epochs * steps_per_epoch)
        self.peak_lr = recipe.optim.base_lr * recipe.optim.batch_size / 256
        self.accumulate = recipe.optim.accumulate
        self.settings = recipe.method
        layout = torch.channels_last if recipe.machine.channels_last else torch.contiguous_format
        self.method = build_method(recipe, classes).to(device, memory_format=layout)  # type: ignore[call-overload]
        self.recomputed_blocks = recompute_blocks(self.method.encoder) if recipe.machine.recompute else 0
        self.forward: nn.Module = torch.compile(self.method) if recipe.machine.compile else self.method  # type: ignore[assignment]
        self.optimizer = build_optimizer(self.method, recipe.optim, **predictor_rates(recipe.method))
        self.bf16 = _takes_bf16(recipe.machine.precision, device)

    def learning_rate(self, step: int) -> float:
        """Rate of a step, for images of the whole batch."""
        return learning_rate(step, steps=self.steps, warmup_steps=self.warmup_steps, peak=self.peak_lr)

    def tau(self, step: int) -> float | None:
        """Target decay of a step; None for a method without moving target."""
        if isinstance(self.settings, MocoV2Method | MeanTeacherMethod):
            return self.settings.tau
        if not isinstance(self.settings, MovingTarget):
            return None
        if self.settings.tau_schedule == "constant":
            return self.settings.tau_base
        return tau(step, steps=self.steps, tau_base=self.settings.tau_base)

    def step(self, step: int, *batch: Tensor) -> Outcome:
        """Take step number ``step``; the loss before it and the projections, detached and still on the device.

        With accumulation the batch goes through in equal parts, whose gradients are averaged: one optimizer
        step and one target update either way.

        Args:
            step: Counted from 0.
            batch: View 1 and view 2, (B, 3, H, W) each, and for a method that takes them the labels, (B,).
        """
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = (self.peak_lr if group.get("constant_rate") else rate) * group.get("rate_multiplier", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self.method.set_progress(step / self.steps)
        outcomes = []
        for part in zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True):
            with record_function("forward"), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                outcome = self.forward(*part)
            with record_function("backward"):
                (outcome.loss / self.accumulate).backward()
            outcomes.append(outcome._replace(loss=outcome.loss.detach()))
        with record_function("optimizer"):
            self.optimizer.step()
        with record_function("target"):
            decay = self.tau(step)
            if decay is not None:
                self.method.update_target(decay)  # After the optimizer: the target follows the new weights.
        return _whole(outcomes)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer, for a checkpoint."""
        return {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}

    def is_finite(self) -> bool:
        """Whether every weight, statistic and moment of the optimizer is a finite number; waits for the device."""
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = [t for t in (*self.method.state_dict().values(), *moments) if isinstance(t, Tensor)]
        floats = [t for t in tensors if t.is_floating_point()]
        return bool(torch.stack([torch.isfinite(t).all().to(self.device) for t in floats]).all())

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])


def _whole(parts: list[Outcome]) -> Outcome:
    """The outcome of a batch from those of its equal parts."""
    predictions = [part.q_1 for part in parts if part.q_1 is not None]
    return Outcome(
        torch.stack([part.loss for part in parts]).mean(),
        torch.cat([part.z_1 for part in parts]),
        torch.cat([part.z_2 for part in parts]),
        torch.cat(predictions) if predictions else None,
    )


def predictor_rates(method: Section) -> dict[str, Any]:
    """How the predictor's learning rate departs from that of the rest, for ``build_optimizer``."""
    if isinstance(method, ByolMethod):
        return {"predictor_multiplier": method.predictor_lr_multiplier}
    if isinstance(method, SimSiamMethod):
        return {"predictor_constant": method.predictor_rate == "constant"}
    return {}


def pick_device(name: str) -> torch.device:
    """The device of the recipe; ``auto`` is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("machine.device: no CUDA device here; use device: auto, and see `byolt doctor`")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _takes_bf16(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"
