"""Wrong formulas of evaluation, of the measures of collapse, and of studies."""

from tests.mutations.mutation import Mutation

KNN = "toolchain/byolt/evaluation/knn.py"
LINEAR = "toolchain/byolt/evaluation/linear.py"
FEW = "toolchain/byolt/evaluation/few_labels.py"
COLLAPSE = "toolchain/byolt/evaluation/collapse.py"
DYNAMICS = "toolchain/byolt/evaluation/dynamics.py"
NORMS = "toolchain/byolt/evaluation/norm_statistics.py"
STUDY = "toolchain/byolt/studies"
IN_EVALUATION, IN_STUDY = "tests/evaluation", "tests/studies"
IN_NORMS = f"{IN_EVALUATION}/test_norm_statistics.py"
IN_DYNAMICS = f"{IN_EVALUATION}/test_dynamics.py"

EVALUATION = [
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
    Mutation("labels of what is held out", FEW, "kept, out = np.delete(draw, held), draw[held]", "kept, out = draw, draw[held]", IN_EVALUATION + "/test_few_labels.py"),
    Mutation("probe's penalty doubled", LINEAR, "l2 / 2 * weight", "l2 * weight", IN_EVALUATION + "/test_linear.py"),
    Mutation(
        "probe refitted on a part",
        LINEAR,
        "weight, bias = _Standardised(features, labels, classes).fit(best)",
        "weight, bias = part.fit(best)",
        IN_EVALUATION + "/test_linear.py",
    ),
    Mutation(
        "variance between batches left out",
        NORMS,
        "+ shift.square() * (count * part / whole)",
        "",
        IN_NORMS,
    ),
    Mutation(
        "statistics in the order of the files",
        NORMS,
        "np.random.default_rng([seed, 0]).permutation(spread(len(images), IMAGES))",
        "spread(len(images), IMAGES)",
        IN_NORMS,
    ),
    Mutation("variance of the batch with the wrong divisor", NORMS, "max(self.count - 1, 1)", "self.count", IN_NORMS),
    Mutation("a rank alone ends a run", COLLAPSE, "agreed=True,", "agreed=False,", IN_EVALUATION + "/test_collapse.py"),
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
        "deviation over folds biased",
        "toolchain/byolt/evaluation/probe_metrics.py",
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
    Mutation("spectrum not centred", DYNAMICS, "    centred = z - z.mean(0)\n", "    centred = z\n", IN_DYNAMICS),
    Mutation("spectrum of any scale", DYNAMICS, "/ len(z) / scale)", "/ len(z))", IN_DYNAMICS),
    Mutation("rank without the logarithm's exp", DYNAMICS, "torch.exp(torch.special.entr(p).sum())", "torch.special.entr(p).sum()", IN_DYNAMICS),
    Mutation("alignment of every axis alike", DYNAMICS, "(variances * cosines).sum() / variances.sum()", "cosines.mean()", IN_DYNAMICS),
    Mutation("alignment by the transposed map", DYNAMICS, "images = q.T @ z @ axes", "images = z.T @ q @ axes", IN_DYNAMICS),
    Mutation("alignment without centring", DYNAMICS, "z, q = z.double() - z.double().mean(0), q.double() - q.double().mean(0)", "z, q = z.double(), q.double()", IN_DYNAMICS),
    Mutation("distance not relative", DYNAMICS, "torch.stack(list(apart)).norm() / size", "torch.stack(list(apart)).norm()", IN_DYNAMICS),
    Mutation("a run of another seed is taken", f"{STUDY}/ledger.py", "return recipe_hash(result_keys(recipe), fingerprint)", 'return recipe_hash({k: v for k, v in result_keys(recipe).items() if k != "seed"}, fingerprint)', IN_STUDY),
    Mutation("a run of another tau is taken", f"{STUDY}/ledger.py", "return recipe_hash(result_keys(recipe), fingerprint)", 'return recipe_hash({k: v for k, v in result_keys(recipe).items() if "tau" not in k}, fingerprint)', IN_STUDY),
    Mutation("a run of other views is taken", f"{STUDY}/ledger.py", "return recipe_hash(result_keys(recipe), fingerprint)", 'return recipe_hash({k: v for k, v in result_keys(recipe).items() if "view" not in k}, fingerprint)', IN_STUDY),
    Mutation("settings chosen on test images", f"{STUDY}/study.py", '_number(self.of(arm, seed)["validation"])', '_number(self.of(arm, seed)["linear"])', IN_STUDY),
    Mutation("a known row is learned again", f"{STUDY}/runner.py", "if key not in rows}", "}", IN_STUDY),
    Mutation("supervised learning keeps the consistency", f"{STUDY}/plan.py", '({"method.consistency": 0.0} if name == SUPERVISED else {})', "{}", IN_STUDY),
    Mutation("a collapse is told as finished", f"{STUDY}/runner.py", 'state = "collapsed" if', 'state = "finished" if', IN_STUDY),
]  # fmt: skip
