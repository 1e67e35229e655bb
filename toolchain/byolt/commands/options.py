"""What several commands share: their options, how a result is printed, how a run is named."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

import byolt
from byolt_export.errors import visible


def _named_run(context: click.Context, parameter: click.Parameter, path: Path | None) -> "byolt.Run":
    return byolt.open_run(path, context.meta["runs_dir"])


def _keep_runs_dir(context: click.Context, parameter: click.Parameter, path: Path) -> None:
    context.meta["runs_dir"] = path


class UserPath(click.Path):
    """A path in which a leading ``~`` is the home folder: no shell expands it in ``--data=~/images``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path in full."""
        try:
            return super().convert(Path(value).expanduser(), param, ctx)
        except RuntimeError:
            self.fail(f"no home folder is known for {value}; write the path in full", param, ctx)


PATH = UserPath(path_type=Path)
RUN = click.argument("run", metavar="[RUN]", required=False, type=PATH, callback=_named_run)
RUNS_DIR = click.option(  # Read before the others: it says where the latest run lies.
    "--runs-dir",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    is_eager=True,
    expose_value=False,
    callback=_keep_runs_dir,
    help="Where runs are kept.",
)
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
RECIPE = click.argument("recipe_path", metavar="RECIPE", type=PATH)


class FiniteRange(click.FloatRange):
    """A range of numbers that nan, which is neither above nor below anything, does not slip through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number within the range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def tell(line: str) -> None:
    """A line for people on stderr."""
    click.echo(visible(line), err=True)


def print_result(result: Mapping[str, Any], as_json: bool, text: Callable[[], None]) -> None:
    """One JSON text, or the lines for people."""
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        text()


def with_sets(overrides: tuple[str, ...]) -> list[str]:
    """``--set`` of each override, for the next command, which reads the same images with the same keys."""
    return [word for override in overrides for word in ("--set", override)]


def named(run_path: Path) -> list[str]:
    """The run as the next command has to name it: not at all where that command would take it anyway."""
    default = Path("runs")
    in_default = run_path.resolve().parent == default.resolve()
    if in_default and byolt.open_run(None, default).path.resolve() == run_path.resolve():
        return []
    return [str(run_path)]
