"""What is known of a run, in one table: what it learned, whether it collapsed, whether its export is proven."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from byolt.console.tables import print_table
from byolt.evaluation.outcome import outcome_of
from byolt.files import read_json
from byolt.run import Run
from byolt_export.errors import visible
from byolt_export.proof.report import SLOWER

FEATURES = {
    "encoder": "learned encoder",
    "untrained": "untrained encoder",
    "start": "where learning started",
    "pixels": "raw pixels",
    "colours": "colour histogram",
}
CHANCE = "chance: the largest class"
"""What naming the most frequent class of the test images every time comes to."""
AREA = "area under the ROC curve"
"""A half is chance, whatever the classes' shares."""
UNEQUAL = 0.6
"""Share of the largest of two classes above which the area is shown before the accuracy."""
FINETUNED = {
    "probe": "linear probe",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
    "imagenet": "fine-tuned from ImageNet weights",
}


def delivered_files(run: Run) -> dict[str, dict[str, Any]]:
    """Each file of the run's bundles as its manifest has it, by the bundle's folder and the file's name."""
    manifests = {
        bundle.name: read_json(bundle / "manifest.json", needs=("files", "engines"), mend="export the run again")
        for bundle in (run.bundle, run.classifier_bundle)
    }
    return {
        f"{bundle}/{file['name']}": file
        for bundle, manifest in manifests.items()
        if manifest is not None
        for file in (*manifest["files"], *manifest["engines"])
    }


def metrics_of_features(run: Run) -> dict[str, dict[str, Any]]:
    """kNN and linear probe of each kind of features that was measured, by its name."""
    return {name: metrics for kind, name in FEATURES.items() if (metrics := run.metrics(kind))}


def print_summary(run: Run, *, next_command: str, worth: str = "") -> None:
    """The table, the verdicts, the command that says whether learning was worth it, and the next command to type."""
    click.echo(f"run      {run.path}")
    if result := run.result:
        measures = f"z-std {result['z_std_ratio']:.2f}, RankMe {result['rankme']:.1f} of {result['features']}"
        click.echo(f"verdict  {result['verdict']}  ({measures})")
    if outcome := outcome_of(run):
        click.echo(f"outcome  {outcome.sentence}")
    for name, measures in (run.metrics("collapse") or {}).items():
        click.echo(
            f"frozen   {FEATURES[name]}: RankMe {measures['rankme']:.1f} of "
            f"{min(measures['images'], measures['features'])}, spread {measures['z_std_ratio']:.2f}, "
            f"alignment {measures['alignment']:.2f}, uniformity {measures['uniformity']:.2f}"
        )
    kinds = metrics_of_features(run)
    if kinds:
        _print_probes(kinds)
    for name, metrics in kinds.items():
        if folds := metrics.get("folds"):
            knn, linear = (f"{folds[kind]['mean']:.1%} +/- {folds[kind]['std']:.1%}" for kind in ("knn", "linear"))
            click.echo(f"folds    {name}: kNN {knn}, linear {linear} over {len(folds['images'])} folds")
    for name, file in delivered_files(run).items():
        click.echo(visible(f"parity   {name} {file['verdict']}"))
    if worth:
        click.echo(f"worth it with how many labels?  {worth}")
    click.echo(f"next     {next_command}")


def _print_probes(kinds: Mapping[str, Mapping[str, Any]]) -> None:
    """kNN and linear probe of each kind of features: accuracy, and of two classes the area under the ROC curve."""
    knn = next(iter(kinds.values()))["knn"]
    accuracy_first = [(f"{knn['n_test']} test images", _accuracy), (AREA, _area)]
    for heading, cell in reversed(accuracy_first) if area_first(knn) else accuracy_first:
        rows = [[name, cell(metrics["knn"]), cell(metrics["linear"])] for name, metrics in kinds.items()]
        if not any(knn_cell for _, knn_cell, _ in rows):
            continue  # More classes than two.
        if cell is _area:
            rows.append(["chance", *[f"{0.5:6.1%}"] * 2])
        elif "chance" in knn:  # Of runs evaluated since it is kept.
            rows.append([CHANCE, *[f"{knn['chance']:6.1%}"] * 2])
        print_table([heading, f"kNN, k = {knn['k']}", "linear probe [95 % interval]"], rows)


def area_first(metric: Mapping[str, Any]) -> bool:
    """Whether the area under the curve says more than accuracy: of two classes one is far more frequent."""
    return "auc" in metric and metric.get("chance", 0) > UNEQUAL


def print_finetune(shares: Sequence[Mapping[str, Any]], next_command: str) -> None:
    """For each share of the labels: probe, fine-tuned, from scratch, and the fine-tuned one less each of them."""
    for metrics in shares:
        labels = f"{metrics['n_train']} labels, {len(metrics['classes'])} classes"
        present = {key: name for key, name in FINETUNED.items() if key in metrics}
        if not present:
            click.echo(f"{labels}; no test images, so no accuracy is known")
            continue
        against = {key: metrics["against"].get(key) for key in present}
        beside = ["fine-tuned less this, points [95 %]", "McNemar's p"]
        rows = [(name, _accuracy(metrics[key]), *_against(against[key])) for key, name in present.items()]
        print_table([labels, "accuracy [95 % interval]", *beside], rows)
        if "auc" in metrics["finetuned"]:
            rows = [
                (name, _area(metrics[key]), *_against(against[key] and against[key]["auc"]))
                for key, name in present.items()
            ]
            print_table([AREA, "area [95 % interval]", beside[0], "DeLong's p"], rows)
    click.echo(f"next     {next_command}")


def print_parity(report: dict[str, Any]) -> None:
    """A row per file and provider; then wrong models, what labels say, what is close, and why a file is not green."""
    timed = any(file.get("speeds") for file in report["files"])
    headings = ("file", "run by", "rel. L2 mean", "worst", "overlap@1", *(("x fp32",) if timed else ()), "verdict")
    print_table(headings, [_parity_cells(file, timed=timed) for file in report["files"]])
    for file in report["files"]:
        for line in _parity_lines(file):
            click.echo(visible(line))
    for file in report["files"]:
        if "bisection" in file:
            bad = file["bisection"]["first_bad"]
            found = f"node `{bad['name']}` ({bad['operator']}), {bad['share']:.0%} of all" if bad else "no node"
            click.echo(visible(f"bisect   {file['name']}: the error jumps at {found}"))
    for file in report["files"]:
        if (ratio := _times_fp32(file)) is not None and ratio < SLOWER:
            click.echo(f"speed    {file['name']} ({_provider(file)}): slower than fp32 here, {ratio:.2g} x")
    for name, reasons in {file["name"]: file["reasons"] for file in report["files"] if file["reasons"]}.items():
        click.echo(visible(f"why      {name}: {'; '.join(reasons)}"))


def _parity_lines(file: Mapping[str, Any]) -> Iterator[str]:
    which = f"{file['name']} ({_provider(file)})"
    if share := _kept(file):
        low, high = (100 * value for value in share["interval_95"])
        yield f"kept     {which}: {share['value']:.1%} [{low:.1f}, {high:.1f}] of nearest neighbours"
    if task := file["task"]:
        difference, low, high = (100 * value for value in (task["knn_difference"], *task["knn_interval_95"]))
        yield f"kNN      {which}: {difference:+.2f} points [{low:+.2f}, {high:+.2f}]"
    if states := [control["state"] for control in file["controls"]]:
        caught = f"{states.count('fails')} of {len(states) - states.count('not applicable')}"
        yield f"controls {which}: {caught} wrong models noticed"
    for remark in file.get("remarks", ()):  # Of bundles that were made since they are kept.
        yield f"close    {which}: {remark}"


def _times_fp32(file: Mapping[str, Any]) -> float | None:
    """Of the batch size that the bundle is tuned for, which is the last."""
    speeds = file.get("speeds")
    return speeds[-1]["times_fp32"] if speeds else None


def _parity_cells(file: dict[str, Any], *, timed: bool) -> list[str]:
    mean, worst, overlap = "-", "-", "-"
    if file["golden"]:
        measured = [measures for measures in (file["golden"], file["gallery"]) if measures]
        mean, worst = (f"{max(m[key] for m in measured):.1e}" for key in ("relative_l2_mean", "relative_l2_worst"))
        share = _kept(file)
        value = measured[-1]["overlap_at_1"] if share is None else share["value"]
        overlap = "-" if value is None else f"{value:.1%}"
    ratio = _times_fp32(file)
    speed = ["-" if ratio is None else f"{ratio:.2g}"] if timed else []
    return [file["name"], _provider(file), mean, worst, overlap, *speed, file["verdict"]]


def _kept(file: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Nearest neighbours kept, of golden and gallery images as one set; bundles have it since it is judged."""
    share: Mapping[str, Any] | None = (file.get("agreement") or {}).get("overlap_at_1")
    return share


def _provider(file: Mapping[str, Any]) -> str:
    return str(file["provider"]).removesuffix("ExecutionProvider")


def print_against(found: dict[str, Any]) -> None:
    """McNemar's test of two runs, one line per probe; of two classes DeLong's below it."""
    for probe, test in found.items():
        difference, p = _against(test)
        alone = f"{test['only_a']} and {test['only_b']} images right in one alone"
        click.echo(f"{probe:<8} {difference} points [95 %], p {p}; {alone}")
        if "auc" in test:
            difference, p = _against(test["auc"])
            click.echo(f"{probe:<8} {difference} points of the {AREA} [95 %], DeLong's p {p}")


def _against(test: Mapping[str, Any] | None) -> tuple[str, str]:
    if test is None:
        return "", ""
    difference, low, high = (100 * test[key] for key in ("difference", "low", "high"))
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]", f"{test['p']:.2g}"


def _area(metric: Mapping[str, Any]) -> str:
    return _with_interval(metric["auc"]["area"], metric["auc"]["interval_95"]) if "auc" in metric else ""


def _accuracy(metric: Mapping[str, Any]) -> str:
    return _with_interval(metric["accuracy"], metric["interval_95"])


def _with_interval(share: float, ends: Sequence[float]) -> str:
    low, high = ends
    return f"{share:6.1%}  [{low:.1%}, {high:.1%}]"
