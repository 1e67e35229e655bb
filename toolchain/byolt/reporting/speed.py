"""Speed beside accuracy: the table, and the plot of what no other beats."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from byolt.console.tables import print_table
from byolt.files import write_json, write_text
from byolt_export.errors import visible


def print_speed(found: dict[str, Any]) -> None:
    """A row per candidate and batch size; what did not run says why."""
    heads = ("batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "speed", "memory MiB", "file MiB", found["agreement"])
    columns = [*heads, "relative L2", "kNN"]
    rows = [
        [f"{'*' if number in found['front'] else ' '} {row['name']}", *_cells(row)]
        for number, row in enumerate(found["rows"])
        if row["calls"]
    ]
    print_table(["candidate", *columns], rows, numbers=columns)
    for name, reason in {row["name"]: row["reason"] for row in found["rows"] if not row["calls"]}.items():
        click.echo(visible(f"not run   {name}: {reason}"))
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
    speed, knn = "-", "-"
    if row["relative_speed"] is not None:
        low, high = row["relative_speed_range"]
        speed = f"{row['relative_speed']:.2f}x ({low:.2f}-{high:.2f})"
    if accuracy.get("knn_difference") is not None:
        difference, low, high = (100 * value for value in (accuracy["knn_difference"], *accuracy["knn_interval_95"]))
        knn = f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"
    return [
        str(row["batch"]),
        *(f"{row[f'latency_ms_p{share}']:.2f}" for share in (50, 90, 99)),
        f"{row['images_per_s']:.0f}",
        speed,
        *(_known(row[key], ".1f") for key in ("memory_mib", "file_mib")),
        _known(accuracy.get("agreement"), ".1%"),
        _known(accuracy.get("relative_l2_mean"), ".1e"),
        knn,
    ]


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def plot_speed(found: dict[str, Any]) -> str:
    """An SVG file: agreement with PyTorch against images/s, a colour per candidate, its batch size at each point."""
    from matplotlib.ticker import LogLocator

    from byolt.reporting.charts import GREY, MARKS, PALETTE, canvas, shortened, svg_of

    rows = [row for row in found["rows"] if row["calls"] and row["accuracy"]]
    names = list(dict.fromkeys(row["name"] for row in rows))
    with canvas(7, 4.2 + 0.2 * len(names)) as (figure, (axes,)):
        axes.plot(*_places([found["rows"][k] for k in found["front"]]), "--", color=GREY, linewidth=1)
        for number, name in enumerate(names):
            own = [row for row in rows if row["name"] == name]
            look: Any = {"color": f"C{number}", "marker": MARKS[number // len(PALETTE) % len(MARKS)]}
            label = f"\u200a{shortened(name, 80)}"  # Also where a name starts with _.
            axes.scatter(*_places(own), s=36, alpha=0.8, linewidths=0, zorder=3, label=label, **look)
            for row, place in zip(own, zip(*_places(own), strict=True), strict=True):
                axes.annotate(row["batch"], place, (0, 5), textcoords="offset points", ha="center", fontsize=8)
        if rows:
            lost = max(1, 100 - min(_places(rows)[1]))
            axes.set(xscale="log", ylim=(100 - 1.1 * lost, 100 + 0.1 * lost))
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.margins(x=0.1)
            figure.legend(loc="outside lower left")
        axes.set_title(f"{found['agreement']} with PyTorch against images/s", loc="left")
        axes.set(xlabel="images/s", ylabel="agreement (%)")
        return svg_of(figure)


def _places(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Images/s and agreement in per cent of each row."""
    return [row["images_per_s"] for row in rows], [100 * row["accuracy"]["agreement"] for row in rows]
