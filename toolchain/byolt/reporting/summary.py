"""What is known of a run, in one table: what it learned, whether it collapsed, whether its export is proven."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from byolt.run import Run, read_json

FEATURES = {
    "encoder": "learned encoder",
    "untrained": "untrained encoder",
    "start": "where learning started",
    "pixels": "raw pixels",
    "colours": "colour histogram",
}


def summarise(run: Run) -> dict[str, Any]:
    """Every figure of a run that was measured; what was not is absent."""
    known: dict[str, Any] = {"run": str(run.path)}
    parts = {
        "learning": run.result,
        **{name: run.figures(name) for name in ("collapse", *FEATURES, "finetune")},
        "parity": read_json(run.bundle / "parity.json"),
        "classifier_parity": read_json(run.classifier_bundle / "parity.json"),
    }
    return known | {name: part for name, part in parts.items() if part is not None}


def print_summary(run: Run, *, next_command: str) -> None:
    """The table, the verdicts, and the next command to type."""
    click.echo(f"run      {run.path}")
    result = run.result
    if result is not None:
        figures = [
            f"z-std {result['z_std_ratio']:.2f}",
            f"RankMe {result['rankme']:.1f} of {result['features']}",
        ]
        click.echo(f"verdict  {result['verdict']}  ({', '.join(figures)})")
    for name, measures in (run.figures("collapse") or {}).items():
        click.echo(f"frozen   {FEATURES[name]}: {_collapse(measures)}")
    rows = {name: run.figures(name) for name in FEATURES}
    if any(rows.values()):
        _print_accuracies(rows)
    for name, row in rows.items():
        if row and "folds" in row:
            click.echo(f"folds    {FEATURES[name]}: {_folds(row['folds'])}")
    for bundle in (run.bundle, run.classifier_bundle):
        for file in (read_json(bundle / "manifest.json") or {}).get("files", []):
            click.echo(f"parity   {bundle.name}/{file['name']} {file['verdict']}")
    click.echo(f"next     {next_command}")


def print_finetune(figures: dict[str, Any], next_command: str) -> None:
    """Probe, fine-tuned and from scratch, side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{figures['n_train']} labels, {len(figures['classes'])} classes")
    table.add_column("accuracy [95 % interval]")
    names = {"probe": "linear probe", "finetuned": "fine-tuned", "scratch": "from scratch"}
    for key, name in names.items():
        table.add_row(name, _percent(figures[key]))
    Console().print(table)
    click.echo(f"next     {next_command}")


def print_parity(report: dict[str, Any]) -> None:
    """A row a file and provider: the worst differences that were seen, and the negative controls."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "file",
        "provider",
        "relative L2, worst",
        "centred cosine, worst",
        "overlap@1",
        "controls",
        "verdict",
    ):
        table.add_column(heading)
    for file in report["files"]:
        golden, controls = file["golden"], file["controls"]
        caught = sum(control["state"] == "fails" for control in controls)
        meant = sum(control["state"] != "not applicable" for control in controls)
        figures = ["-"] * 3
        if golden:
            overlap = golden["overlap_at_1"]
            figures = [
                f"{golden['relative_l2_worst']:.1e} (image {golden['worst_image']})",
                f"{golden['centred_cosine_worst']:.7f}",
                "-" if overlap is None else f"{overlap:.1%}",
            ]
        provider = file["provider"].removesuffix("ExecutionProvider")
        table.add_row(file["name"], provider, *figures, f"{caught} of {meant} caught", file["verdict"])
    Console().print(table, highlight=False)


def _print_accuracies(rows: dict[str, dict[str, Any] | None]) -> None:
    first = next(figures for figures in rows.values() if figures)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{first['knn']['n_test']} test images")
    table.add_column(f"kNN, k = {first['knn']['k']}")
    table.add_column("linear probe [95 % interval]")
    for name, figures in rows.items():
        if figures:
            table.add_row(FEATURES[name], _percent(figures["knn"]), _percent(figures["linear"]))
    Console().print(table, highlight=False)


def _collapse(figures: dict[str, Any]) -> str:
    return (
        f"RankMe {figures['rankme']:.1f} of {min(figures['images'], figures['features'])}, "
        f"spread {figures['z_std_ratio']:.2f}, alignment {figures['alignment']:.2f}, "
        f"uniformity {figures['uniformity']:.2f}"
    )


def _folds(folds: dict[str, Any]) -> str:
    kinds = (("kNN", folds["knn"]), ("linear", folds["linear"]))
    parts = [f"{name} {figure['mean']:.1%} +/- {figure['std']:.1%}" for name, figure in kinds]
    return f"{', '.join(parts)} over {len(folds['images'])} folds"


def _percent(figure: dict[str, Any]) -> str:
    low, high = figure["interval_95"]
    return f"{figure['accuracy']:6.1%}  \\[{low:.1%}, {high:.1%}]"
