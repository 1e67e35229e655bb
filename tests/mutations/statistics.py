"""Wrong formulas of the statistics over seeds and over images."""

from tests.mutations.mutation import Mutation

STATISTICS_FILE, IN_STATISTICS = "toolchain/byolt/evaluation/statistics.py", "tests/evaluation/test_statistics.py"

STATISTICS = [
    Mutation("std with the divisor n", STATISTICS_FILE, "values.std(ddof=1)", "values.std()", IN_STATISTICS),
    Mutation("standard deviation for standard error", STATISTICS_FILE, "n - 1)) * std / math.sqrt(n)", "n - 1)) * std", IN_STATISTICS),
    Mutation("normal quantile for Student's", STATISTICS_FILE, "_stats().t.isf(miss / 2, n - 1)", "_stats().norm.isf(miss / 2)", IN_STATISTICS),
    Mutation("one-sided interval quantile", STATISTICS_FILE, "t.isf(miss / 2, n - 1)", "t.isf(miss, n - 1)", IN_STATISTICS),
    Mutation("no Bonferroni in a family", STATISTICS_FILE, "n, ALPHA / family)", "n, ALPHA)", IN_STATISTICS),
    Mutation("one-sided p of the paired test", STATISTICS_FILE, "p = 2 * float(_stats().t.sf", "p = float(_stats().t.sf", IN_STATISTICS),
    Mutation("p is not adjusted", STATISTICS_FILE, "one._replace(p_holm=p)", "one", IN_STATISTICS),
    Mutation("Holm without the running maximum", STATISTICS_FILE, "np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))", "p[order] * np.arange(len(p), 0, -1)", IN_STATISTICS),
    Mutation("better by the point estimate", STATISTICS_FILE, "if self.low > 0:", "if self.difference > 0:", IN_STATISTICS),
    Mutation("never better", STATISTICS_FILE, "if self.low > 0:", "if self.low > 1:", IN_STATISTICS),
    Mutation("verdict by Holm's p", STATISTICS_FILE, "if self.low > 0:", "if self.p_holm <= 0.05 and self.difference > 0:", IN_STATISTICS),
    Mutation("effect size without Hedges' correction", STATISTICS_FILE, "_hedges(n - 1) * difference / std", "difference / std", IN_STATISTICS),
    Mutation("gap's interval not turned with its sign", STATISTICS_FILE, "(-c.difference, -c.high, -c.low)", "(-c.difference, c.low, c.high)", IN_STATISTICS),
    Mutation("paired interval without the correlation", STATISTICS_FILE, "- 2 * phi * x * y", "", IN_STATISTICS),
    Mutation("McNemar over all images", STATISTICS_FILE, "binomtest(only_a, apart, 0.5)", "binomtest(both + only_a, both + neither + apart, 0.5)", IN_STATISTICS),
    Mutation("difference of the models reversed", STATISTICS_FILE, "n, (only_a - only_b) / n, low", "n, (only_b - only_a) / n, low", IN_STATISTICS),
    Mutation("rank p one-sided", STATISTICS_FILE, "covariances = np.abs(len(a) * (orders @ a) - a.sum() * b.sum())", "covariances = len(a) * (orders @ a) - a.sum() * b.sum()", IN_STATISTICS),
    Mutation("Pearson for Spearman", STATISTICS_FILE, "stats.spearmanr(a, b)", "stats.pearsonr(a, b)", IN_STATISTICS),
]  # fmt: skip
