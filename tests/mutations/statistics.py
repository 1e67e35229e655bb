"""Wrong formulas of the statistics over seeds and over images."""

from tests.mutations.mutation import Mutation

STATISTICS_FILE = "toolchain/byolt/evaluation/statistics.py"
ROC, IN_ROC = "toolchain/byolt/evaluation/roc.py", "tests/evaluation/test_roc.py"
COMPONENTS_FILE = "toolchain/byolt/evaluation/variance_components.py"
EFFICIENCY_FILE = "toolchain/byolt/evaluation/label_efficiency.py"
IN_COMPONENTS, IN_EFFICIENCY = (
    "tests/evaluation/test_variance_components.py",
    "tests/evaluation/test_label_efficiency.py",
)
GAPS, LENGTHS = "toolchain/byolt/studies/lengths_results.py", "toolchain/byolt/studies/lengths.py"
IN_LENGTHS = "tests/studies/test_lengths.py"
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
    Mutation("ties do not count half", ROC, "(below[lower] + below[not_above]) / 2", "below[lower]", IN_ROC),
    Mutation("DeLong's variance with the divisor n", ROC, "part.var(ddof=1)", "part.var()", IN_ROC),
    Mutation("areas compared as if on other images", ROC, "_variance(apart)", "_variance(_placements(scores_a, labels)) + _variance(_placements(scores_b, labels))", IN_ROC),
    Mutation("logit without its slope", ROC, " / (area * (1 - area))\n", "\n", IN_ROC),
    Mutation("variance between seeds with the divisor n", COMPONENTS_FILE, "centred.T / max(n - 1, 1)", "centred.T / n", IN_COMPONENTS),
    Mutation("noise of one seed taken for what the images share", COMPONENTS_FILE, "(total[:, None] * total - same) / (n * (n - 1))", "total[:, None] * total / n**2", IN_COMPONENTS),
    Mutation("an interval narrower than that of the seeds", COMPONENTS_FILE, "np.maximum(of_all, of_units)", "of_all", IN_COMPONENTS),
    Mutation("covariance of the images taken for known", COMPONENTS_FILE, " + self.images * by_image.var(-1, ddof=1) / 2", "", IN_COMPONENTS),
    Mutation("negatives placed upside down", ROC, "1 - below / positive.sum()", "below / positive.sum()", IN_COMPONENTS),
    Mutation("seeds left out of the interval", EFFICIENCY_FILE, "return self._seeds == 1 or starts <= self.fixed", "return True", IN_EFFICIENCY),
    Mutation("better on the draws of one seed", EFFICIENCY_FILE, "return self._seeds > 1 or starts <= self.fixed", "return True", IN_EFFICIENCY),
    Mutation("no Bonferroni over pairs and budgets", EFFICIENCY_FILE, "half_width(weights, ALPHA / family)", "half_width(weights, ALPHA)", IN_EFFICIENCY),
    Mutation("delta method upside down", EFFICIENCY_FILE, "found.scaled(1 / (mean * (1 - mean)))", "found.scaled(mean * (1 - mean))", IN_EFFICIENCY),
    Mutation("lines between shares, not log-odds", EFFICIENCY_FILE, "_replace(mean=np.log(mean / (1 - mean)))", "_replace(mean=mean)", IN_EFFICIENCY),
    Mutation("a curve made to rise by its running minimum", EFFICIENCY_FILE, "max(min(curve[i : j + 1].mean() for j in ks[k:]) for i in ks[: k + 1])", "min(curve[k:])", IN_EFFICIENCY),
    Mutation("an end without censoring", EFFICIENCY_FILE, "high_censored=bool(kept[-1]) or", "high_censored=", IN_EFFICIENCY),
    Mutation("a gap's change without where it began", GAPS, "[b - a for a, b in", "[b for a, b in", IN_LENGTHS),
    Mutation("a gap over seeds in their places", GAPS, "arm.accuracies[arm.seeds.index(seed)]", "arm.accuracies[-1 - arm.seeds.index(seed)]", IN_LENGTHS),
    Mutation("every setting tried again at the second length", LENGTHS, "best[:AGAIN]]", "best]", IN_LENGTHS),
]  # fmt: skip
