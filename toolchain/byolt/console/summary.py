"""What is known of a run, in one table: what it learned, whether it collapsed, whether its export is proven."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from byolt.console.tables import wide_console
from byolt.files import read_json
from byolt.run import Run

FEATURES = {
    "encoder": "learned encoder",
    "untrained": "untrained encoder",
    "start": "where learning started",
    "pixels": "raw pixels",
    "colours": "colour histogram",
}


def print_summary(run: Run, *, next_command: str) -> None:
    """The table, the verdicts, and the next command to type."""
    click.echo(f"run      {run.path}")
    result = run.result
    if result is not None:
        metrics = [
            f"z-std {result['z_std_ratio']:.2f}",
            f"RankMe {result['rankme']:.1f} of {result['features']}",
        ]
        click.echo(f"verdict  {result['verdict']}  ({', '.join(metrics)})")
    for name, measures in (run.metrics("collapse") or {}).items():
        click.echo(f"frozen   {FEATURES[name]}: {_collapse(measures)}")
    rows = {name: run.metrics(name) for name in FEATURES}
    if any(rows.values()):
        _print_accuracies(rows)
    for name, row in rows.items():
        if row and "folds" in row:
            click.echo(f"folds    {FEATURES[name]}: {_folds(row['folds'])}")
    for bundle in (run.bundle, run.classifier_bundle):
        manifest = read_json(bundle / "manifest.json") or {}
        for file in (*manifest.get("files", []), *manifest.get("engines", [])):
            click.echo(f"parity   {bundle.name}/{file['name']} {file['verdict']}")
    click.echo(f"next     {next_command}")


FINETUNED = {
    "probe": "linear probe",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
    "imagenet": "fine-tuned from ImageNet weights",
}


def print_finetune(shares: Sequence[Mapping[str, Any]], next_command: str) -> None:
    """For each share of the labels: probe, fine-tuned, from scratch, and the fine-tuned one less each of them."""
    for metrics in shares:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(f"{metrics['n_train']} labels, {len(metrics['classes'])} classes")
        table.add_column("accuracy [95 % interval]")
        table.add_column("fine-tuned less this, points [95 %]")
        table.add_column("McNemar's p")
        for key, name in FINETUNED.items():
            if key in metrics:
                table.add_row(name, _percent(metrics[key]), *_against(metrics["against"].get(key)))
        wide_console().print(table, highlight=False)
    click.echo(f"next     {next_command}")


def _against(test: dict[str, Any] | None) -> tuple[str, str]:
    if test is None:
        return "", ""
    difference, low, high = (100 * test[key] for key in ("difference", "low", "high"))
    return f"{difference:+.1f} \\[{low:+.1f}, {high:+.1f}]", f"{test['p']:.2g}"


def print_parity(report: dict[str, Any]) -> None:
    """A row a file and provider: what was measured, and the negative controls; then why a file is not green."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("file", "run by", "rel. L2 mean", "worst", "overlap@1", "kNN, points", "controls", "verdict"):
        table.add_column(heading, no_wrap=True)
    for file in report["files"]:
        states = [control["state"] for control in file["controls"]]
        caught = f"{states.count('fails')} of {len(states) - states.count('not applicable')}" if states else "-"
        provider = file["provider"].removesuffix("ExecutionProvider")
        table.add_row(file["name"], escape(provider), *_measured(file), caught, file["verdict"])
    wide_console().print(table, highlight=False)
    for file in report["files"]:
        if "bisection" in file:
            bad = file["bisection"]["first_bad"]
            found = f"node `{bad['name']}` ({bad['operator']}), {bad['share']:.0%} of all" if bad else "no node"
            click.echo(f"bisect   {file['name']}: the error jumps at {found}")
    for name, reason in {
        file["name"]: "; ".join(file["reasons"]) for file in report["files"] if file["reasons"]
    }.items():
        click.echo(f"why      {name}: {reason}")


def _measured(file: dict[str, Any]) -> list[str]:
    golden, gallery, task = file["golden"], file["gallery"], file["task"]
    if not golden:
        return ["-"] * 4
    seen = [measures for measures in (golden, gallery) if measures]
    overlap = (gallery or golden)["overlap_at_1"]
    low, high = (100 * bound for bound in task["knn_interval_95"]) if task else (0.0, 0.0)
    return [
        f"{max(m['relative_l2_mean'] for m in seen):.1e}",
        f"{max(m['relative_l2_worst'] for m in seen):.1e}",
        "-" if overlap is None else f"{overlap:.1%}",
        "-" if task is None else f"{100 * task['knn_difference']:+.2f} \\[{low:+.2f}, {high:+.2f}]",
    ]


def print_against(found: dict[str, Any]) -> None:
    """McNemar's test of two runs, one line per probe."""
    for probe, test in found.items():
        difference, p = _against(test)
        text = difference.replace("\\[", "[")
        click.echo(
            f"{probe:<8} {text} points [95 %], p {p}; {test['only_a']} and {test['only_b']} images right in one alone"
        )


def _print_accuracies(rows: dict[str, dict[str, Any] | None]) -> None:
    first = next(metrics for metrics in rows.values() if metrics)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{first['knn']['n_test']} test images")
    table.add_column(f"kNN, k = {first['knn']['k']}")
    table.add_column("linear probe [95 % interval]")
    for name, metrics in rows.items():
        if metrics:
            table.add_row(FEATURES[name], _percent(metrics["knn"]), _percent(metrics["linear"]))
    wide_console().print(table, highlight=False)


def _collapse(metrics: dict[str, Any]) -> str:
    return (
        f"RankMe {metrics['rankme']:.1f} of {min(metrics['images'], metrics['features'])}, "
        f"spread {metrics['z_std_ratio']:.2f}, alignment {metrics['alignment']:.2f}, "
        f"uniformity {metrics['uniformity']:.2f}"
    )


def _folds(folds: dict[str, Any]) -> str:
    kinds = (("kNN", folds["knn"]), ("linear", folds["linear"]))
    parts = [f"{name} {metric['mean']:.1%} +/- {metric['std']:.1%}" for name, metric in kinds]
    return f"{', '.join(parts)} over {len(folds['images'])} folds"


def _percent(metric: dict[str, Any]) -> str:
    low, high = metric["interval_95"]
    return f"{metric['accuracy']:6.1%}  \\[{low:.1%}, {high:.1%}]"
