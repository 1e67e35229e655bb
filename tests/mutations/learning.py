"""Wrong formulas of the training step, the schedules, the optimizer and the views."""

from tests.mutations.mutation import Mutation

LEARNER = "toolchain/byolt/training/step.py"
OPTIMIZERS = "toolchain/byolt/training/optimizers.py"
SCHEDULES = "toolchain/byolt/training/schedules.py"
CONVOLUTIONS = "toolchain/byolt/networks/convolutions.py"
FROZEN = "toolchain/byolt/networks/frozen.py"
PARAMETERS = "toolchain/byolt/views/parameters.py"
BATCHED = "toolchain/byolt/views/batched.py"
IN_LEARNER, IN_OPTIMIZERS, IN_SCHEDULES = (
    f"tests/training/test_{name}.py" for name in ("step", "optimizers", "schedules")
)
IN_FROZEN = "tests/training/test_frozen_norms.py"
IN_TURNS = "tests/views/test_quarter_turns.py"
IN_VIEWS = "tests/views/test_batched.py"
IN_CONVOLUTIONS = "tests/networks/test_convolutions.py"

LEARNING = [
    Mutation(
        "target updated before the optimizer",
        LEARNER,
        "self.optimizer.step()",
        "self.method.update_target(self.decay), self.optimizer.step(), setattr(self, 'decay', 1.0)",
        IN_LEARNER,
    ),
    Mutation("tau off by one step", LEARNER, "return tau(step, ", "return tau(step + 1, ", IN_LEARNER),
    Mutation(
        "rate off by one step", LEARNER, "return learning_rate(step, ", "return learning_rate(step + 1, ", IN_LEARNER
    ),
    Mutation("rate not scaled by the batch", LEARNER, "recipe.optim.batch_size / 256", "1", IN_LEARNER),
    Mutation(
        "frozen norms in train mode",
        FROZEN,
        "norm.train = partial(_left_alone, norm)",
        "norm.train()",
        IN_FROZEN,
    ),
    Mutation(
        "the encoder waits a step too long",
        LEARNER,
        "step < self.heads_first_steps",
        "step <= self.heads_first_steps",
        "tests/training/test_heads_first.py",
    ),
    Mutation(
        "frozen parts learn",
        FROZEN,
        ".requires_grad_(False)",
        ".requires_grad_(True)",
        "tests/training/test_frozen_parts.py",
    ),
    Mutation("accumulated gradients summed", LEARNER, "(term.loss / self.accumulate)", "(term.loss)", IN_LEARNER),
    Mutation(
        "moments left in another layout",
        LEARNER,
        "return moment if alike else",
        "return moment if True else",
        IN_LEARNER,
    ),
    Mutation("gradients carried over", LEARNER, "self.optimizer.zero_grad(set_to_none=True)", "pass", IN_LEARNER),
    Mutation(
        "biases decayed", OPTIMIZERS, '"weight_decay": 0.0}', '"weight_decay": optim.weight_decay}', IN_OPTIMIZERS
    ),
    Mutation("biases adapted by LARS", OPTIMIZERS, '{"adapt": False}', '{"adapt": True}', IN_OPTIMIZERS),
    Mutation(
        "trust ratio upside down", OPTIMIZERS, "weight_norm / update_norm,", "update_norm / weight_norm,", IN_OPTIMIZERS
    ),
    Mutation("trust ratio without decay", OPTIMIZERS, 'alpha=group["weight_decay"])', "alpha=0.0)", IN_OPTIMIZERS),
    Mutation(
        "momentum not decayed",
        OPTIMIZERS,
        '_foreach_mul_(momenta, group["momentum"])',
        "_foreach_mul_(momenta, 1.0)",
        IN_OPTIMIZERS,
    ),
    Mutation(
        "rate inside the momentum",
        OPTIMIZERS,
        "_foreach_add_(momenta, update)",
        "_foreach_add_(momenta, update, alpha=group['lr'])",
        IN_OPTIMIZERS,
    ),
    Mutation(
        "taps mirrored",
        CONVOLUTIONS,
        "_Tap(number, slice(first, end), inputs)",
        "_Tap(kernel - 1 - number, slice(first, end), inputs)",
        IN_CONVOLUTIONS,
    ),
    Mutation(
        "the last output on the map left out",
        CONVOLUTIONS,
        "(side - 1 - number + padding) // stride + 1)",
        "(side - 1 - number + padding) // stride)",
        IN_CONVOLUTIONS,
    ),
    Mutation(
        "rows of the kernel for columns",
        CONVOLUTIONS,
        "out=weights[:, down.number, right.number]",
        "out=weights[:, right.number, down.number]",
        IN_CONVOLUTIONS,
    ),
    Mutation("step uphill", OPTIMIZERS, 'alpha=-group["lr"]', 'alpha=group["lr"]', IN_OPTIMIZERS),
    Mutation(
        "cosine over twice the steps",
        SCHEDULES,
        "math.cos(math.pi * progress)",
        "math.cos(math.pi * progress / 2)",
        IN_SCHEDULES,
    ),
    Mutation("decay counted from step 0", SCHEDULES, "(step - warmup_steps) / max", "step / max", IN_SCHEDULES),
    Mutation(
        "tau falls for rises",
        SCHEDULES,
        "(math.cos(math.pi * step / steps) + 1)",
        "(1 - math.cos(math.pi * step / steps))",
        IN_SCHEDULES,
    ),
    Mutation(
        "hue turned the other way",
        BATCHED,
        "add_(turns[:, None, None] + 2)",
        "sub_(turns[:, None, None] - 2)",
        IN_VIEWS,
    ),
    Mutation(
        "every image solarized",
        BATCHED,
        "torch.where(chosen, 1.0, 3.0)",
        "torch.where(chosen, 1.0, 1.0)",
        IN_VIEWS,
    ),
    Mutation("blur of a smaller sigma", BATCHED, "torch.exp(-0.5 * (distance", "torch.exp(-1.0 * (distance", IN_VIEWS),
    Mutation(
        "turned by 90 to the other side",
        BATCHED,
        "p.flip ^ (turns == 1) ^ (turns == 2)",
        "p.flip ^ (turns == 3) ^ (turns == 2)",
        IN_TURNS,
    ),
    Mutation(
        "no turn as a fourth turn",
        PARAMETERS,
        "1 + (3 * number / share).long().clamp_max(2)",
        "(4 * number / share).long().clamp_max(3)",
        IN_TURNS,
    ),
    Mutation("shrunk without antialiasing", BATCHED, "scale.clamp_min(1)", "scale.clamp(1, 1)", IN_VIEWS),
    Mutation(
        "aspect uniform for log-uniform",
        PARAMETERS,
        "torch.exp(math.log(aspect_low) + aspects * math.log(aspect_high / aspect_low))",
        "aspect_low + aspects * (aspect_high - aspect_low)",
        "tests/views/test_distributions.py",
    ),
]
