"""Speed beside accuracy: the table, and the plot of what no other beats."""

import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import click
from rich.markup import escape as plain
from rich.table import Table

from byolt.console.tables import wide_console
from byolt.files import write_json, write_text

_COLOURS = ("#1b6ca8", "#c2571a", "#2e7d4f", "#8a3f8f", "#a8891b", "#5b5b5b", "#b3344a", "#2a8f94")
_LEFT, _TOP, _WIDTH, _HEIGHT = 70, 46, 560, 300  # Of the plot's inside, px.


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
            table.add_row(("* " if id(row) in front else "  ") + plain(row["name"]), *_cells(row))
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
    """``bench.json`` and ``bench.svg`` in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", found)
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
    """An SVG: agreement with PyTorch against images/s, a colour a candidate, its batch size at each point."""
    rows = [row for row in found["rows"] if row["calls"] and row["accuracy"]]
    names = list(dict.fromkeys(row["name"] for row in rows))
    height = _TOP + _HEIGHT + 60 + 18 * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 40} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{_LEFT}" y="24" font-size="15">'
        f"{escape(found['agreement'])} with PyTorch against images/s</text>",
    ]
    if not rows:
        return "\n".join([*parts, "</svg>\n"])
    across, up = _speed_axis(rows), _agreement_axis(rows)
    parts += [*_grid(across, up)]
    front = [found["rows"][k] for k in found["front"]]
    places = " ".join(f"{across(r['images_per_s']):.1f},{up(r['accuracy']['agreement']):.1f}" for r in front)
    parts.append(f'<polyline class="front" points="{places}" fill="none" stroke="#999" stroke-dasharray="5 4"/>')
    for row in rows:
        x, y = across(row["images_per_s"]), up(row["accuracy"]["agreement"])
        colour = _COLOURS[names.index(row["name"]) % len(_COLOURS)]
        told = f"{row['name']}, batch {row['batch']}: {row['images_per_s']:.0f} images/s"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.8"><title>{escape(told)}</title>'
            f'</circle><text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle" font-size="10">{row["batch"]}</text>'
        )
    for k, name in enumerate(names):
        y = _TOP + _HEIGHT + 58 + 18 * k
        parts.append(
            f'<circle cx="{_LEFT + 5}" cy="{y - 4}" r="5" fill="{_COLOURS[k % len(_COLOURS)]}"/>'
            f'<text x="{_LEFT + 16}" y="{y}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """From a value to px."""

    def __init__(self, low: float, high: float, start_px: float, end_px: float) -> None:
        self.low, self.high, self.start_px, self.end_px = low, high, start_px, end_px

    def __call__(self, value: float) -> float:
        return self.start_px + (value - self.low) / (self.high - self.low) * (self.end_px - self.start_px)


class _LogAxis(_Axis):
    def __call__(self, value: float) -> float:
        return super().__call__(math.log10(value))


def _speed_axis(rows: list[dict[str, Any]]) -> _LogAxis:
    speeds = [math.log10(row["images_per_s"]) for row in rows]
    return _LogAxis(min(speeds) - 0.1, max(speeds) + 0.1, _LEFT, _LEFT + _WIDTH)


def _agreement_axis(rows: list[dict[str, Any]]) -> _Axis:
    lost = max(0.01, 1 - min(row["accuracy"]["agreement"] for row in rows))
    return _Axis(1 - 1.1 * lost, 1 + 0.1 * lost, _TOP + _HEIGHT, _TOP)


def _grid(across: _LogAxis, up: _Axis) -> list[str]:
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#bbb"/>']
    speeds = [factor * 10.0**power for power in range(-2, 8) for factor in (1, 2, 5)]
    for speed in (s for s in speeds if across.low <= math.log10(s) <= across.high):
        x = across(speed)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{speed:g}</text>')
    for k in range(5):
        agreement = 1 - k / 4 * (1 - up.low) / 1.1
        y = up(agreement)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{agreement:.2%}</text>')
    return [*parts, f'<text x="{right}" y="{bottom + 36}" text-anchor="end">images/s</text>']
