"""What several commands share: their options, how a result is printed, how a run is named."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

RUN = click.argument("run_path", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
RUNS_DIR = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs are kept."
)
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))


def print_result(result: dict[str, Any], as_json: bool, text: Callable[[], None]) -> None:
    """One JSON text, or the lines for people."""
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        text()


def named(run_path: Path) -> str:
    """The run as the next command has to name it: not at all where that command would take it anyway."""
    from byolt.run import open_run

    default = Path("runs")
    in_default = run_path.resolve().parent == default.resolve()
    if in_default and open_run(None, default).path.resolve() == run_path.resolve():
        return ""
    return f" {shlex.quote(str(run_path))}"
