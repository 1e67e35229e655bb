"""Speed beside accuracy: the table, and the plot of what no other beats."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from byolt.console.tables import wide_console
from byolt.files import write_json, write_text


def print_speed(found: dict[str, Any]) -> None:
    """A row a candidate and batch size; what did not run says why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("candidate", no_wrap=True)
    heads = ("batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "speed", "memory MiB", "file MiB", found["agreement"])
    for head in (*heads, "relative L2", "kNN"):
        table.add_column(head, justify="right")
    front = {id(found["rows"][k]) for k in found["front"]}
    for row in found["rows"]:
        if row["calls"]:
            table.add_row(("* " if id(row) in front else "  ") + escape(row["name"]), *_cells(row))
    wide_console().print(table, highlight=False)
    refused = {row["name"]: row["reason"] for row in found["rows"] if not row["calls"]}
    for name, reason in refused.items():
        click.echo(f"not run   {name}: {reason}")
    machine, threads = found["machine"], found["threads"] or "as each library chooses"
    click.echo(f"machine   {machine['processor']}, {machine['cores']} cores; threads: {threads}")
    click.echo(
        f"timed     {found['rounds']} rounds in turn, {found['seconds']:g} s each in all; warm-up: {found['warm_up']}"
    )
    click.echo(f"speed     over `{found['baseline']}`, by the p50 within each round: the rounds' median and range")
    click.echo(f"memory    {found['memory']}")
    click.echo("*         no other is both faster and closer to PyTorch")


def write_speed(found: dict[str, Any], folder: Path) -> None:
    """``bench.json`` in a folder, which is made, and ``bench.svg`` where there is what draws it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", found)
    if missing := [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]:
        click.echo(f'note      no bench.svg: {missing[0]} is not installed; pip install "byolt[train]"', err=True)
        return
    write_text(folder / "bench.svg", plot_speed(found))


def _cells(row: dict[str, Any]) -> list[str]:
    accuracy = row["accuracy"] or {}
    cells = [str(row["batch"]), *(f"{row[f'latency_ms_p{share}']:.2f}" for share in (50, 90, 99))]
    cells.append(f"{row['images_per_s']:.0f}")
    if row["relative_speed"] is None:
        cells.append("-")
    else:
        low, high = row["relative_speed_range"]
        cells.append(f"{row['relative_speed']:.2f}x ({low:.2f}-{high:.2f})")
    cells += ["-" if row[key] is None else f"{row[key]:.1f}" for key in ("memory_mib", "file_mib")]
    cells.append(f"{accuracy['agreement']:.1%}" if accuracy else "-")
    cells.append(f"{accuracy['relative_l2_mean']:.1e}" if accuracy else "-")
    difference = accuracy.get("knn_difference")
    if difference is None:
        return [*cells, "-"]
    low, high = accuracy["knn_interval_95"]
    return [*cells, f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"]


def plot_speed(found: dict[str, Any]) -> str:
    """An SVG: agreement with PyTorch against images/s, a colour per candidate, its batch size at each point.

    Raises:
        MissingPart: matplotlib is not installed.
    """
    from byolt.reporting.charts import MARKS, canvas, finished, plain
    from byolt.reporting.theme import FAINT, PALETTE, series_style, standalone

    rows = [row for row in found["rows"] if row["calls"] and row["accuracy"]]
    names = list(dict.fromkeys(row["name"] for row in rows))
    title = f"{found['agreement']} with PyTorch against images/s"
    with canvas() as figure:
        figure.set_size_inches(7, 4.2 + 0.2 * len(names))
        axes = figure.subplots()
        axes.plot(*_places([found["rows"][k] for k in found["front"]]), "--", color=FAINT, linewidth=1)
        for number, name in enumerate(names):
            own = [row for row in rows if row["name"] == name]
            look = {"color": series_style(number)[0], "marker": MARKS[number // len(PALETTE) % len(MARKS)]}
            axes.scatter(*_places(own), s=36, alpha=0.8, linewidths=0, zorder=3, **look)
            axes.scatter([], [], label=f"\u200a{plain(name, 80)}", **look)  # Also where a name starts with _.
            for row, place in zip(own, zip(*_places(own), strict=True), strict=True):
                axes.annotate(row["batch"], place, (0, 5), textcoords="offset points", ha="center", fontsize=8)
        if rows:
            speeds, lost = _places(rows)[0], max(1, 100 - min(_places(rows)[1]))
            axes.set_xscale("log")
            axes.set_xlim(min(speeds) / 1.25, max(speeds) * 1.25)
            axes.set_ylim(100 - 1.1 * lost, 100 + 0.1 * lost)
            ticks = [factor * 10.0**power for power in range(-2, 8) for factor in (1, 2, 5)]
            ticks = [tick for tick in ticks if min(speeds) / 1.25 <= tick <= max(speeds) * 1.25]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            figure.legend(loc="outside lower left", frameon=False)
        axes.set_title(title, loc="left")
        axes.set_xlabel("images/s")
        axes.set_ylabel("agreement (%)")
        return standalone(str(finished(figure, "speed", title)))


def _places(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Images/s and agreement in per cent of each row."""
    return [row["images_per_s"] for row in rows], [100 * row["accuracy"]["agreement"] for row in rows]
