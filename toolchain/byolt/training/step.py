"""One optimizer step of a method: forward, backward, optimizer, target; and the state to resume it."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.nn.parallel import DistributedDataParallel

from byolt.device import computes_in_bf16
from byolt.distributed.batch_norm import synchronise_norms
from byolt.distributed.collectives import gather_rows, mean_over_processes, world_size
from byolt.methods.base import Method, Outcome, sum_of_terms
from byolt.methods.build import build_method
from byolt.networks.convolutions import speed_up_convolutions
from byolt.networks.recompute import recompute_blocks
from byolt.recipe.method_settings import MethodSettings
from byolt.training.compiled import compiled_encoders
from byolt.training.optimizers import build_optimizer
from byolt.training.schedules import learning_rate, tau
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe


# Of an optimizer's groups: how this machine computes, which a checkpoint of another one does not decide.
_MACHINE_KEYS = ("lr", "foreach", "fused", "capturable")


class Learner:
    """The networks and their optimizer on a device; of several processes each has its own, and all are alike."""

    def __init__(
        self,
        recipe: "Recipe",
        device: torch.device,
        *,
        steps: int,
        steps_per_epoch: int,
        classes: int = 0,
        device_rates: bool = False,
    ) -> None:
        """Build the method by the recipe.

        Args:
            recipe: What is learned, and how.
            device: Where.
            steps, steps_per_epoch: The run's length and an epoch's, in optimizer steps.
            classes: Labels of Mean Teacher.
            device_rates: Keep learning rates and tau on the device, for a step that is captured as a CUDA graph.

        Raises:
            InputError: The model or the method does not fit the recipe or the number of processes.
        """
        self.device, self.steps = device, steps
        self.warmup_steps = round(recipe.schedule.warmup_epochs * steps_per_epoch)
        self.heads_first_steps = round(recipe.schedule.heads_first_epochs * steps_per_epoch)
        self.peak_lr = recipe.optim.base_lr * recipe.optim.batch_size / 256
        self.accumulate = recipe.optim.accumulate
        self.settings = recipe.method
        method = build_method(recipe, classes)
        if world_size() > 1:
            _share(method, recipe.method, device)
        flat = all(weight.ndim < 5 for weight in method.parameters())  # torch lays out no 3-d kernel so.
        layout = torch.channels_last if recipe.machine.channels_last and flat else torch.contiguous_format
        self.method = method.to(device, memory_format=layout)  # type: ignore[call-overload]
        speed_up_convolutions(self.method.encoder, device)
        self.recomputed_blocks = recompute_blocks(self.method.encoder) if recipe.machine.recompute else 0
        self.forward, self._no_sync = _forward_of(self.method, compiled=recipe.machine.compile is True)
        self._compiled_encoders = compiled_encoders(self.method) if recipe.machine.compile == "encoder" else nullcontext
        self.optimizer = build_optimizer(
            self.method,
            recipe.optim,
            recipe.method.predictor_rate_rule,
            heads_first=self.heads_first_steps > 0,
            device_rates=device_rates,
        )
        self.decay: float | Tensor = torch.zeros((), device=device) if device_rates else 0.0
        self.bf16 = computes_in_bf16(recipe.machine.precision, device)

    def learning_rate(self, step: int) -> float:
        """Rate of a step, for images of the whole batch."""
        return learning_rate(step, steps=self.steps, warmup_steps=self.warmup_steps, peak=self.peak_lr)

    def tau(self, step: int) -> float | None:
        """Target decay of a step; None for a method without moving target."""
        decay = self.settings.target_decay
        if decay is None or decay.schedule == "constant":
            return None if decay is None else decay.base
        return tau(step, steps=self.steps, tau_base=decay.base)

    def step(self, step: int, *batch: Tensor) -> Outcome:
        """Take step number ``step``; the loss before it and the projections, detached and still on the device.

        With accumulation the batch goes through in equal parts, whose gradients are averaged: one optimizer
        step and one target update either way.

        Args:
            step: Counted from 0.
            batch: View 1 and view 2, (B, 3, H, W) each, and for a method that takes them the labels, (B,).
        """
        self.prepare(step)
        return self.advance(*batch)

    def prepare(self, step: int) -> None:
        """Set the rates of a step; what of it depends on the step's number."""
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            own = (self.peak_lr if group.get("constant_rate") else rate) * group.get("rate_multiplier", 1.0)
            own = 0.0 if group.get("waits") and step < self.heads_first_steps else own
            group["lr"] = group["lr"].fill_(own) if isinstance(group["lr"], Tensor) else own
        decay = self.tau(step)
        if decay is not None:
            self.decay = self.decay.fill_(decay) if isinstance(self.decay, Tensor) else decay
        self.method.set_progress(step / self.steps)

    def advance(self, *batch: Tensor) -> Outcome:
        """The step itself: the same work on the device whatever its number."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True))
        outcomes = []
        for part in parts:
            # Gradients of all processes are averaged once per step, with the last part's.
            with nullcontext() if part is parts[-1] else self._no_sync():
                outcomes.append(self._learn_from(part))
        with record_function("optimizer"):
            self.optimizer.step()
        with record_function("target"):
            if self.tau(0) is not None:
                self.method.update_target(self.decay)  # After the optimizer: the target follows the new weights.
        return _whole(outcomes)

    def _learn_from(self, part: tuple[Tensor, ...]) -> Outcome:
        """Forward and backward a term at a time, so that one term's activations are gone before the next one's come."""
        terms = iter(self.forward(*part))
        made: list[Outcome] = []
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
        while True:
            with record_function("forward"), autocast, self._compiled_encoders():
                term = next(terms, None)
            if term is None:
                return sum_of_terms(made)
            with record_function("backward"):
                torch.autograd.backward(term.loss / self.accumulate)
            made.append(term._replace(loss=term.loss.detach()))

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
        """Take up the state of a checkpoint, of whatever device and number of processes."""
        self.method.load_state_dict(state["method"])
        saved = dict(state["optimizer"])
        own = [{key: group[key] for key in _MACHINE_KEYS if key in group} for group in self.optimizer.param_groups]
        saved["param_groups"] = [group | mine for group, mine in zip(saved["param_groups"], own, strict=True)]
        self.optimizer.load_state_dict(saved)
        for weight, moments in self.optimizer.state.items():
            moments.update({name: _laid_out_as(weight, moment) for name, moment in moments.items()})


def _laid_out_as(weight: Tensor, moment: Any) -> Any:
    """A moment in its weight's strides: fused optimizers walk both by address, whatever their strides say."""
    alike = not isinstance(moment, Tensor) or moment.shape != weight.shape or moment.stride() == weight.stride()
    return moment if alike else torch.empty_like(weight, dtype=moment.dtype).copy_(moment)


def gathered(outcome: Outcome) -> Outcome:
    """The outcome of the global batch, in every process."""
    z = tuple(gather_rows(one) for one in outcome.z)
    return Outcome(mean_over_processes(outcome.loss), z, None if outcome.q is None else gather_rows(outcome.q))


def _share(method: Method, settings: MethodSettings, device: torch.device) -> None:
    """Make a method that is one of several processes': statistics over the global batch, or over its parts."""
    refuse_uneven_norms(settings)
    if settings.norm_parts is None:
        synchronise_norms(method, device)


def refuse_uneven_norms(settings: MethodSettings) -> None:
    """Refuse parts of a batch that are no multiple of the processes.

    Raises:
        InputError: They are not.
    """
    if settings.norm_parts is not None and settings.norm_parts % world_size():
        raise InputError(
            f"method.norm_groups {settings.norm_parts} must be a multiple of the {world_size()} processes: each "
            "normalises as many parts of a batch"
        )


def _forward_of(
    method: Method, *, compiled: bool
) -> tuple[Callable[..., Iterable[Outcome]], Callable[[], AbstractContextManager[Any]]]:
    """A method's terms, and a context in which the processes' gradients are not averaged.

    Compiled or of several processes a method is called whole: one graph, one reduction that overlaps its backward.
    """
    if not compiled and world_size() == 1:
        return method.terms, nullcontext
    whole: Any = torch.compile(method) if compiled else method
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext
    if world_size() > 1:
        # The statistics' buffers are equal already; sent between two forwards they would spoil the first's backward.
        known = signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # Before torch 2.15.
        how: dict[str, Any] = {name: False}
        whole = DistributedDataParallel(whole, gradient_as_bucket_view=True, **how)
        no_sync = whole.no_sync

    def terms(*batch: Tensor) -> Iterable[Outcome]:
        yield whole(*batch)

    return terms, no_sync


def _whole(parts: list[Outcome]) -> Outcome:
    """The outcome of a batch from those of its equal parts."""
    predictions = [part.q for part in parts if part.q is not None]
    return Outcome(
        torch.stack([part.loss for part in parts]).mean(),
        tuple(torch.cat(view) for view in zip(*(part.z for part in parts), strict=True)),
        torch.cat(predictions) if predictions else None,
    )
