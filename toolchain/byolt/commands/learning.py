"""Commands that learn and measure: pretrain, evaluate, finetune, embed, report."""

from pathlib import Path
from typing import Any

import click

import byolt
from byolt.commands.options import (
    JSON,
    PATH,
    RECIPE,
    RUN,
    RUNS_DIR,
    SET,
    FiniteRange,
    named,
    print_result,
    tell,
    with_sets,
)
from byolt.environment import command


@click.command()
@RECIPE
@SET
@click.option(
    "--resume",
    metavar="RUN|auto",
    type=PATH,
    help="Go on with an unfinished run's folder; auto: with that of this very recipe, if there is one.",
)
@click.option("--dry-run", is_flag=True, help="Take a few steps; print images/s, memory and time to finish.")
@click.option("--profile", is_flag=True, help="Take a few steps; print where a step's time goes.")
@JSON
def pretrain(
    recipe_path: Path, overrides: tuple[str, ...], resume: Path | None, dry_run: bool, profile: bool, as_json: bool
) -> None:
    """Learn an encoder from images by RECIPE; on many GPUs: torchrun --nproc-per-node=8 -m byolt pretrain RECIPE."""
    from byolt.console.progress import Progress
    from byolt.console.summary import print_summary
    from byolt.distributed.process_group import is_rank_zero

    settings = byolt.load_recipe(recipe_path, overrides)
    if dry_run or profile:
        measured = byolt.dry_run(settings, profiled=profile)
        if is_rank_zero():
            print_result(measured.to_dict(), as_json, lambda: click.echo(measured.to_text()))
        return
    with Progress() as progress:
        run = byolt.pretrain(settings, resume=resume, on_log=progress, source=recipe_path)
    if is_rank_zero():
        following = command("evaluate", *named(run.path))
        print_result(run.summary(), as_json, lambda: print_summary(run, next_command=following))


@click.command()
@RUN
@click.option("--against", "other", type=PATH, help="Evaluate nothing; compare with this run.")
@SET
@RUNS_DIR
@JSON
def evaluate(run: "byolt.Run", other: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """KNN, linear probe and collapse measures on frozen features, beside raw pixels and the untrained encoder.

    With --against two evaluated runs are compared on the same test images by McNemar's test.
    """
    from byolt.console.summary import print_against, print_summary

    if other is not None:
        found = byolt.compare(run, other)
        print_result(found, as_json, lambda: print_against(found))
        return
    metrics = byolt.evaluate(run, overrides)
    following = command("export", *named(run.path), "--onnx", *with_sets(overrides))
    worth = _study_of_starts(run) if "encoder" in metrics else ""
    print_result(metrics, as_json, lambda: print_summary(run, next_command=following, worth=worth))


def _study_of_starts(run: "byolt.Run") -> str:
    """The command that compares the run's start with others by the number of labels; empty of another method."""
    recipe = run.recipe
    if recipe.method.name != "byol":
        return ""
    starts = "scratch,byol" if recipe.model.init == "random" else "scratch,imagenet,byol,imagenet+byol"
    return command("study", run.path / "recipe.resolved.yaml", "--starts", starts)


@click.command()
@RUN
@click.option("--data", "data_root", required=True, type=PATH, help="Labelled folder.")
@click.option("--test", "test_root", type=PATH, help="Labelled folder held out.")
@click.option(
    "--labels",
    "shares",
    type=FiniteRange(0, 1, min_open=True),
    multiple=True,
    default=[1.0],
    show_default=True,
    help="Share of the labels; several for several metrics, the largest of which is kept.",
)
@click.option("--imagenet", is_flag=True, help="Fine-tune the encoder's ImageNet weights too, with the same budget.")
@SET
@RUNS_DIR
@JSON
def finetune(
    run: "byolt.Run",
    data_root: Path,
    test_root: Path | None,
    shares: tuple[float, ...],
    imagenet: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Adapt the encoder to a labelled folder: linear probe, then all weights, beside training from scratch."""
    from byolt.console.summary import print_finetune

    metrics = byolt.finetune(
        run,
        data_root,
        test_root,
        shares=shares,
        imagenet=imagenet,
        overrides=overrides,
        on_log=tell,
    )
    following = command("export", *named(run.path), "--onnx", "--classifier", *with_sets(overrides))
    result = metrics[0] if len(metrics) == 1 else {"shares": metrics}
    print_result(result, as_json, lambda: print_finetune(metrics, following))


@click.command()
@click.argument("source", metavar="RUN|BUNDLE", type=PATH)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="A .npz file to write.")
@click.option(
    "--precision",
    type=click.Choice(["fastest", "fp32", "fp16", "int8"]),
    help="Which of a bundle's files; fastest: as `byolt verify` found here.  [default: fp32, or what is there]",
)
@click.option("--gallery", type=PATH, help="A .npz file to compare with: refused where another file made it.")
@SET
@JSON
def embed(
    source: Path,
    folder: Path,
    output: Path,
    precision: Any,
    gallery: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Embeddings of every image below DIR in one .npz file: `embeddings`, `files`, and what they were `made_by`."""
    from byolt.delivery.embed import Embeddings, refuse_output

    refuse_output(output)
    known = None if gallery is None else Embeddings.load(gallery)
    vectors = byolt.embed(source, folder, overrides, precision=precision, gallery=known)
    vectors.save(output)
    images, dim = vectors.embeddings.shape
    found = {"images": images, "dim": dim, "output": str(output), "file": vectors.file}
    text = f"{images} embeddings of {dim} numbers by {vectors.file} in {output}"
    print_result(found, as_json, lambda: click.echo(text))


@click.command()
@RUN
@SET
@RUNS_DIR
@JSON
def report(run: "byolt.Run", overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a run's report.html: curves, verdict, neighbours, map of the embeddings, tables; one file, no server."""
    written = byolt.report(run, overrides)
    for reason in written.left_out:
        click.echo(f"left out: {reason}", err=True)
    result = {"report": str(written.path), "bytes": written.path.stat().st_size, "left_out": list(written.left_out)}
    print_result(result, as_json, lambda: click.echo(written.path))
