"""Commands before a run: recipe, data, doctor. All look and change nothing, but for ``data pack``."""

from pathlib import Path

import click

import byolt
from byolt.commands.options import JSON, PATH, RECIPE, SET, FiniteRange, print_result


@click.group()
def recipe() -> None:
    """Look at a recipe."""


@recipe.command("show")
@RECIPE
@SET
def recipe_show(recipe_path: Path, overrides: tuple[str, ...]) -> None:
    """Print every key of a recipe with its value, defaults included."""
    from byolt.recipe.load import dump_recipe

    click.echo(dump_recipe(byolt.load_recipe(recipe_path, overrides)), nl=False)


@recipe.command("explain")
@click.argument("words", metavar="[RECIPE] [KEY]", nargs=-1)
@JSON
def recipe_explain(words: tuple[str, ...], as_json: bool) -> None:
    """What each key means, from the schema, and with RECIPE what it is set to.

    KEY narrows it, for example `optim` or `optim.base_lr`.
    """
    from byolt.console.tables import print_explanation

    if len(words) > 2:
        raise click.UsageError(f"one recipe and one key at most, got: {' '.join(words)}")
    is_file = bool(words) and (len(words) == 2 or words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file())
    settings = byolt.load_recipe(words[0]) if is_file else None
    rows = byolt.explain(next(iter(words[is_file:]), None), settings)
    keys = [row._asdict() if is_file else {k: v for k, v in row._asdict().items() if k != "value"} for row in rows]
    print_result({"keys": keys}, as_json, lambda: print_explanation(rows, with_values=is_file))


@click.group()
def data() -> None:
    """Look at images, or pack them."""


@data.command("check")
@click.argument("path", type=PATH)
@click.option("--test", "test_path", type=PATH, help="Held-out folder to compare with.")
@JSON
def data_check(path: Path, test_path: Path | None, as_json: bool) -> None:
    """Counts, sizes, modes, mean and std, corrupt files, duplicates, leakage into a test folder."""
    report = byolt.check_folder(path, test_path)
    print_result(report.to_dict(), as_json, lambda: click.echo(report.to_text()))


@data.command("pack")
@click.argument("path", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--shard-mb",
    type=FiniteRange(min=0, min_open=True),
    default=256,
    show_default=True,
    help="Largest size of a tar file, in 10^6 bytes.",
)
@JSON
def data_pack(path: Path, out: Path, shard_mb: float, as_json: bool) -> None:
    """Write a folder of images as tar files (webdataset's format) with an index, for `data.name: shards`."""
    packed = byolt.pack(path, out, int(shard_mb * 1e6))
    print_result(packed.to_dict(), as_json, lambda: click.echo(packed.to_text()))


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """What this machine can do, and the line that mends what is missing."""
    from byolt.doctor.findings import to_json, to_text
    from byolt.working import working

    with working("looking at this machine, and taking a few steps with one thread and with all"):
        findings = byolt.examine()
    print_result(to_json(findings), as_json, lambda: click.echo(to_text(findings)))
