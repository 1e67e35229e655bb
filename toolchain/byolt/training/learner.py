"""One optimizer step of a method: forward, backward, optimizer, target; and the state to resume it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from byolt.methods.byol import Byol, Outcome
from byolt.networks import build_encoder, build_head
from byolt.training.optimizers import build_optimizer
from byolt.training.schedules import learning_rate, tau
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.schema import Method, Recipe


class Learner:
    """The networks and their optimizer on a device."""

    def __init__(self, recipe: "Recipe", device: torch.device, *, steps: int, steps_per_epoch: int) -> None:
        """Build the method by the recipe; ``steps`` is the run's length, which the schedules need."""
        self.device = device
        self.steps = steps
        self.warmup_steps = round(recipe.schedule.warmup_epochs * steps_per_epoch)
        self.peak_lr = recipe.optim.base_lr * recipe.optim.batch_size / 256
        self.accumulate = recipe.optim.accumulate
        self.settings: Method = recipe.method
        layout = torch.channels_last if recipe.machine.channels_last else torch.contiguous_format
        self.method = build_method(recipe).to(device, memory_format=layout)  # type: ignore[call-overload]
        self.forward: nn.Module = torch.compile(self.method) if recipe.machine.compile else self.method  # type: ignore[assignment]
        self.optimizer = build_optimizer(self.method, recipe.optim)
        self.bf16 = _takes_bf16(recipe.machine.precision, device)

    def learning_rate(self, step: int) -> float:
        """Rate of a step, for images of the whole batch."""
        return learning_rate(step, steps=self.steps, warmup_steps=self.warmup_steps, peak=self.peak_lr)

    def tau(self, step: int) -> float:
        """Target decay of a step."""
        if self.settings.tau_schedule == "constant":
            return self.settings.tau_base
        return tau(step, steps=self.steps, tau_base=self.settings.tau_base)

    def step(self, step: int, view_1: Tensor, view_2: Tensor) -> Outcome:
        """Take step number ``step``; the loss before it and the projections, detached and still on the device.

        With accumulation the batch goes through in equal parts, whose gradients are averaged: one optimizer
        step and one target update either way.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes = []
        for part_1, part_2 in zip(view_1.chunk(self.accumulate), view_2.chunk(self.accumulate), strict=True):
            with record_function("forward"), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                outcome = self.forward(part_1, part_2)
            with record_function("backward"):
                (outcome.loss / self.accumulate).backward()
            outcomes.append(Outcome(*(tensor.detach() for tensor in outcome)))
        with record_function("optimizer"):
            self.optimizer.step()
        with record_function("target"):
            self.method.update_target(self.tau(step))  # After the optimizer: the target follows the new weights.
        losses, z_1, z_2 = zip(*outcomes, strict=True)
        return Outcome(torch.stack(losses).mean(), torch.cat(z_1), torch.cat(z_2))

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


def build_method(recipe: "Recipe") -> Byol:
    """The recipe's method with freshly drawn weights, on the CPU."""
    model, seed = recipe.model, recipe.seed
    # Each part has a seed of its own, so that leaving one out does not move the weights of another.
    encoder, feature_dim = build_encoder(model, seed=weight_seed(seed), image_size_px=recipe.view_size_px)
    projector = build_head(feature_dim, model.projector, seed=weight_seed(seed, 1))
    predictor = None
    if recipe.method.predictor == "mlp":
        predictor = build_head(model.projector.out_dim, model.predictor, seed=weight_seed(seed, 2))
    return Byol(encoder, projector, predictor, moving_target=recipe.method.target == "ema")


def weight_seed(seed: int, part: int = 0) -> int:
    """Seed of the weights of the encoder (part 0), projector (1) or predictor (2) of a run."""
    return 3 * seed + part


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
