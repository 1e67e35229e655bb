"""Wrong formulas, each put into a copy of the sources in turn: every one must make a test fail.

Run with ``python -m tests.mutations [NAME]``; prints a table and exits 1 where one survives.
"""

import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """One wrong formula: ``right`` stands once in ``file`` and becomes ``wrong``."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


BYOL = "toolchain/byolt/methods/byol.py"
LEARNER = "toolchain/byolt/training/learner.py"
OPTIMIZERS = "toolchain/byolt/training/optimizers.py"
SCHEDULES = "toolchain/byolt/training/schedules.py"
BATCHED = "toolchain/byolt/views/batched.py"
KNN = "toolchain/byolt/evaluation/knn.py"
LINEAR = "toolchain/byolt/evaluation/linear.py"
COLLAPSE = "toolchain/byolt/evaluation/collapse.py"
IN_METHODS, IN_TRAINING, IN_VIEWS, IN_EVALUATION = "tests/methods", "tests/training", "tests/views", "tests/evaluation"

MUTATIONS = [
    Mutation("loss with the sign flipped", BYOL, "(2 - 2 * F.cos", "(2 + 2 * F.cos", IN_METHODS),
    Mutation("loss a sum for a mean", BYOL, "dim=-1)).mean()", "dim=-1)).sum()", IN_METHODS),
    Mutation("loss at half its scale", BYOL, "(2 - 2 * F.cos", "(1 - F.cos", IN_METHODS),
    Mutation(
        "one direction counted twice",
        BYOL,
        "self.predictor(z_2), target_1",
        "self.predictor(z_1), target_2",
        IN_METHODS,
    ),
    Mutation(
        "a view predicts itself", BYOL, "self.predictor(z_1), target_2", "self.predictor(z_1), target_1", IN_METHODS
    ),
    Mutation(
        "no stop-gradient on a copied target",
        BYOL,
        "target_1, target_2 = z_1.detach(), z_2.detach()",
        "target_1, target_2 = z_1, z_2",
        IN_METHODS,
    ),
    Mutation("gradient through the target", BYOL, ".requires_grad_(False)", "", IN_METHODS),
    Mutation(
        "batch statistics shared by the views",
        BYOL,
        "z_1, z_2 = self.projector(self.encoder(view_1)), self.projector(self.encoder(view_2))",
        "z_1, z_2 = self.projector(self.encoder(torch.cat([view_1, view_2]))).chunk(2)",
        IN_METHODS,
    ),
    Mutation(
        "target in eval mode",
        BYOL,
        "target_1, target_2 = self.target(view_1)",
        "self.target.eval(); target_1, target_2 = self.target(view_1)",
        IN_METHODS,
    ),
    Mutation("target follows with tau for 1 - tau", BYOL, "online, 1 - tau)", "online, tau)", IN_METHODS),
    Mutation(
        "no predictor in the loss", BYOL, "regression_loss(self.predictor(z_1)", "regression_loss((z_1)", IN_METHODS
    ),
    Mutation(
        "target updated before the optimizer",
        LEARNER,
        '        with record_function("optimizer"):\n            self.optimizer.step()\n'
        '        with record_function("target"):\n'
        "            self.method.update_target(self.tau(step))",
        '        with record_function("target"):\n            self.method.update_target(self.tau(step))\n'
        '        with record_function("optimizer"):\n            self.optimizer.step()',
        IN_TRAINING,
    ),
    Mutation("tau off by one step", LEARNER, "return tau(step, ", "return tau(step + 1, ", IN_TRAINING),
    Mutation(
        "rate off by one step", LEARNER, "return learning_rate(step, ", "return learning_rate(step + 1, ", IN_TRAINING
    ),
    Mutation("rate not scaled by the batch", LEARNER, "recipe.optim.batch_size / 256", "1", IN_TRAINING),
    Mutation("accumulated gradients summed", LEARNER, "(outcome.loss / self.accumulate)", "outcome.loss", IN_TRAINING),
    Mutation("gradients carried over", LEARNER, "self.optimizer.zero_grad(set_to_none=True)", "pass", IN_TRAINING),
    Mutation("biases decayed", OPTIMIZERS, '"weight_decay": 0.0}', '"weight_decay": optim.weight_decay}', IN_TRAINING),
    Mutation("biases adapted by LARS", OPTIMIZERS, '"adapt"] = False', '"adapt"] = True', IN_TRAINING),
    Mutation(
        "trust ratio upside down", OPTIMIZERS, "weight_norm / update_norm,", "update_norm / weight_norm,", IN_TRAINING
    ),
    Mutation("trust ratio without decay", OPTIMIZERS, 'alpha=group["weight_decay"])', "alpha=0.0)", IN_TRAINING),
    Mutation(
        "momentum not decayed",
        OPTIMIZERS,
        '_foreach_mul_(momenta, group["momentum"])',
        "_foreach_mul_(momenta, 1.0)",
        IN_TRAINING,
    ),
    Mutation(
        "rate inside the momentum",
        OPTIMIZERS,
        "_foreach_add_(momenta, update)",
        "_foreach_add_(momenta, update, alpha=group['lr'])",
        IN_TRAINING,
    ),
    Mutation("step uphill", OPTIMIZERS, 'alpha=-group["lr"]', 'alpha=group["lr"]', IN_TRAINING),
    Mutation(
        "cosine over twice the steps",
        SCHEDULES,
        "math.cos(math.pi * progress)",
        "math.cos(math.pi * progress / 2)",
        IN_TRAINING,
    ),
    Mutation("decay counted from step 0", SCHEDULES, "(step - warmup_steps) / max", "step / max", IN_TRAINING),
    Mutation(
        "tau falls for rises",
        SCHEDULES,
        "(math.cos(math.pi * step / steps) + 1)",
        "(1 - math.cos(math.pi * step / steps))",
        IN_TRAINING,
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
        "torch.where(p.solarize, 1.0, 3.0)",
        "torch.where(p.solarize, 1.0, 1.0)",
        IN_VIEWS,
    ),
    Mutation("blur of a smaller sigma", BATCHED, "torch.exp(-0.5 * (distance", "torch.exp(-1.0 * (distance", IN_VIEWS),
    Mutation("shrunk without antialiasing", BATCHED, "scale.clamp_min(1)", "scale.clamp(1, 1)", IN_VIEWS),
    Mutation(
        "aspect uniform for log-uniform",
        BATCHED,
        "torch.exp(math.log(aspect_low) + aspects * math.log(aspect_high / aspect_low))",
        "aspect_low + aspects * (aspect_high - aspect_low)",
        IN_VIEWS,
    ),
    Mutation(
        "neighbours by dot product",
        KNN,
        "F.normalize(gallery, dim=1), F.normalize(queries, dim=1)",
        "gallery, queries",
        IN_EVALUATION + "/test_knn.py",
    ),
    Mutation(
        "votes without weight",
        KNN,
        "/ temperature).double().exp()",
        "/ temperature).double().exp().ceil()",
        IN_EVALUATION + "/test_knn.py",
    ),
    Mutation("probe's penalty doubled", LINEAR, "l2 / 2 * weight", "l2 * weight", IN_EVALUATION + "/test_linear.py"),
    Mutation(
        "probe refitted on a part",
        LINEAR,
        "weight, bias = _Standardised(features, labels, classes).fit(best)",
        "weight, bias = part.fit(best)",
        IN_EVALUATION + "/test_linear.py",
    ),
    Mutation(
        "RankMe of centred features",
        COLLAPSE,
        "svdvals(features.float())",
        "svdvals(features.float() - features.float().mean(0))",
        IN_EVALUATION + "/test_collapse.py",
    ),
    Mutation(
        "spread of projections of any length",
        COLLAPSE,
        "unit = F.normalize(z.double(), dim=1)\n",
        "unit = z.double()\n",
        IN_EVALUATION + "/test_collapse.py",
    ),
    Mutation(
        "interval without Wilson's centre",
        "toolchain/byolt/evaluation/intervals.py",
        "centre = (accuracy + z2 / (2 * n))",
        "centre = (accuracy)",
        IN_EVALUATION + "/test_intervals.py",
    ),
    Mutation(
        "deviation over folds biased",
        "toolchain/byolt/evaluation/figures.py",
        "ddof=1",
        "ddof=0",
        IN_EVALUATION + "/test_evaluate.py",
    ),
    Mutation(
        "folds left out",
        "toolchain/byolt/evaluation/evaluate.py",
        "np.flatnonzero(np.isin(train.kept, fold))",
        "train.kept",
        IN_EVALUATION + "/test_evaluate.py",
    ),
]


def main() -> int:
    """Try each mutation, print the table, and count survivors."""
    wanted = sys.argv[1:]
    known = [mutation.name for mutation in MUTATIONS]
    if unknown := [name for name in wanted if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        print(f"no mutation {unknown[0]!r}; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}")
        return 2
    survivors, chosen = 0, [mutation for mutation in MUTATIONS if not wanted or mutation.name in wanted]
    print(f"{'wrong formula':<42}{'file':<18}{'caught':<10}first test that fails")
    for mutation in chosen:
        failing = first_failing_test(mutation)
        survivors += failing is None
        verdict = "yes" if failing else "SURVIVED"
        print(f"{mutation.name:<42}{Path(mutation.file).name:<18}{verdict:<10}{failing or '-'}", flush=True)
    print(f"{len(chosen)} mutations, {survivors} survived")
    return 1 if survivors else 0


def first_failing_test(mutation: Mutation) -> str | None:
    """The id of the first test that fails on the mutated sources, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("toolchain", "export", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "cpp"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        source = copy / mutation.file
        text = source.read_text(encoding="utf-8")
        assert text.count(mutation.right) == 1, (
            f"{mutation.name}: {mutation.right!r} stands {text.count(mutation.right)} times"
        )
        source.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not full and not gpu"]
        environment = os.environ | {"PYTHONPATH": f"{copy / 'toolchain'}:{copy / 'export'}"}
        done = subprocess.run(
            [*command, mutation.tests], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode == 0:
        return None
    assert failed, f"{mutation.name}: the tests did not run:\n{done.stdout[-2000:]}"
    return failed[0].removeprefix("FAILED ").split(" - ")[0]


if __name__ == "__main__":
    sys.exit(main())
