"""Wrong formulas of the statistics over seeds and over images."""

from tests.mutations.mutation import Mutation

STATISTICS_FILE = "toolchain/byolt/evaluation/statistics.py"
IN_STATISTICS, IN_ACCURACIES = "tests/evaluation/test_statistics.py", "tests/evaluation/test_accuracies.py"

STATISTICS = [
    Mutation("exact interval for Wilson's", STATISTICS_FILE, 'proportion_ci(0.95, method="wilson")', 'proportion_ci(0.95, method="exact")', IN_ACCURACIES),
    Mutation("std with the divisor n", STATISTICS_FILE, "mean, float(metrics.std(ddof=1)),", "mean, float(metrics.std()),", IN_STATISTICS),
    Mutation("one-sided interval of a mean", STATISTICS_FILE, "confidence_interval(1 - ALPHA)", "confidence_interval(1 - 2 * ALPHA)", IN_STATISTICS),
    Mutation("seeds not paired", STATISTICS_FILE, "scipy_stats().ttest_rel(a, b)", "scipy_stats().ttest_ind(a, b)", IN_STATISTICS),
    Mutation("no Bonferroni in a family", STATISTICS_FILE, "confidence_interval(1 - ALPHA / family)", "confidence_interval(1 - ALPHA)", IN_STATISTICS),
    Mutation("one-sided p of the paired test", STATISTICS_FILE, "float(test.pvalue)", "float(test.pvalue) / 2", IN_STATISTICS),
    Mutation("p is not adjusted", STATISTICS_FILE, "one._replace(p_holm=p)", "one", IN_STATISTICS),
    Mutation("Holm without the running maximum", STATISTICS_FILE, "np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))", "p[order] * np.arange(len(p), 0, -1)", IN_STATISTICS),
    Mutation("better by the point estimate", STATISTICS_FILE, "if self.low > 0:", "if self.difference > 0:", IN_STATISTICS),
    Mutation("never better", STATISTICS_FILE, "if self.low > 0:", "if self.low > 1:", IN_STATISTICS),
    Mutation("verdict by Holm's p", STATISTICS_FILE, "if self.low > 0:", "if self.p_holm <= 0.05 and self.difference > 0:", IN_STATISTICS),
    Mutation("effect size without Hedges' correction", STATISTICS_FILE, "_hedges(n - 1) * mean / float", "mean / float", IN_STATISTICS),
    Mutation("gap's interval not turned with its sign", STATISTICS_FILE, "(-c.difference, -c.high, -c.low)", "(-c.difference, c.low, c.high)", IN_STATISTICS),
    Mutation("McNemar over all images", STATISTICS_FILE, "binomtest(only_a, apart, 0.5)", "binomtest(int(correct_a.sum()), n, 0.5)", IN_ACCURACIES),
    Mutation("difference of the models reversed", STATISTICS_FILE, "paired_difference(correct_a, correct_b)", "paired_difference(correct_b, correct_a)", IN_ACCURACIES),
    Mutation("rank p one-sided", STATISTICS_FILE, "np.abs((a * b).sum(axis))", "(a * b).sum(axis)", IN_STATISTICS),
    Mutation("Pearson for Spearman", STATISTICS_FILE, "stats.spearmanr(a, b)", "stats.pearsonr(a, b)", IN_STATISTICS),
]  # fmt: skip
