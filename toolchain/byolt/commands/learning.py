"""Commands that learn and measure: pretrain, evaluate, finetune, embed, report."""

from pathlib import Path

import click

from byolt.commands.options import JSON, RECIPE, RUN, RUNS_DIR, SET, named, print_result


@click.command()
@RECIPE
@SET
@click.option(
    "--resume",
    metavar="RUN|auto",
    type=click.Path(path_type=Path),
    help="Go on with an unfinished run's folder; auto: with that of this very recipe, if there is one.",
)
@click.option("--dry-run", is_flag=True, help="Take a few steps; print images/s, memory and time to finish.")
@click.option("--profile", is_flag=True, help="Take a few steps; print where a step's time goes.")
@JSON
def pretrain(
    recipe_path: Path, overrides: tuple[str, ...], resume: Path | None, dry_run: bool, profile: bool, as_json: bool
) -> None:
    """Learn an encoder from images by RECIPE; on many GPUs: torchrun --nproc-per-node=8 -m byolt pretrain RECIPE."""
    from byolt.recipe.load import load_recipe

    settings = load_recipe(recipe_path, overrides)
    if dry_run or profile:
        from byolt.distributed.process_group import is_rank_zero
        from byolt.training.dry_run import dry_run as measure

        measured = measure(settings, profiled=profile)
        if is_rank_zero():
            print_result(measured.to_dict(), as_json, lambda: click.echo(measured.to_text()))
        return
    from rich.console import Console

    from byolt.console.summary import print_summary, summarise
    from byolt.distributed.process_group import is_rank_zero
    from byolt.training.loop import pretrain as learn

    run = learn(
        settings,
        recipe_path.read_text(encoding="utf-8"),
        resume="auto" if resume == Path("auto") else resume,
        console=Console(stderr=True),
    )
    if is_rank_zero():
        following = f"byolt evaluate{named(run.path)}"
        print_result(summarise(run), as_json, lambda: print_summary(run, next_command=following))


@click.command()
@RUN
@click.option("--against", "other", type=click.Path(path_type=Path), help="Evaluate nothing; compare with this run.")
@SET
@RUNS_DIR
@JSON
def evaluate(
    run_path: Path | None, other: Path | None, overrides: tuple[str, ...], runs_dir: Path, as_json: bool
) -> None:
    """KNN, linear probe and collapse measures on frozen features, beside raw pixels and the untrained encoder.

    With --against two evaluated runs are compared on the same test images by McNemar's test.
    """
    from byolt.console.summary import print_against, print_summary, summarise
    from byolt.evaluation.evaluate import evaluate_run
    from byolt.evaluation.predictions import compare_runs
    from byolt.run import open_run

    run = open_run(run_path, runs_dir)
    if other is not None:
        found = compare_runs(run, open_run(other))
        print_result(found, as_json, lambda: print_against(found))
        return
    evaluate_run(run, overrides)
    following = f"byolt export{named(run.path)} --onnx"
    print_result(summarise(run), as_json, lambda: print_summary(run, next_command=following))


@click.command()
@RUN
@click.option("--data", "data_root", required=True, type=click.Path(path_type=Path), help="Labelled folder.")
@click.option("--test", "test_root", type=click.Path(path_type=Path), help="Labelled folder held out.")
@click.option(
    "--labels",
    "shares",
    type=click.FloatRange(0, 1, min_open=True),
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
    run_path: Path | None,
    data_root: Path,
    test_root: Path | None,
    shares: tuple[float, ...],
    imagenet: bool,
    overrides: tuple[str, ...],
    runs_dir: Path,
    as_json: bool,
) -> None:
    """Adapt the encoder to a labelled folder: linear probe, then all weights, beside training from scratch."""
    from byolt.console.summary import print_finetune
    from byolt.evaluation.downstream import finetune_run
    from byolt.run import open_run

    def progress(what: str, epoch: int, epochs: int) -> None:
        click.echo(f"{what}: epoch {epoch}/{epochs}", err=True)

    run = open_run(run_path, runs_dir)
    metrics = finetune_run(run, data_root, test_root, shares, overrides, progress, imagenet=imagenet)
    following = f"byolt export{named(run.path)} --onnx --classifier"
    result = metrics[0] if len(metrics) == 1 else {"shares": metrics}
    print_result(result, as_json, lambda: print_finetune(metrics, following))


@click.command()
@click.argument("source", metavar="RUN|BUNDLE", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npz file to write.")
@SET
@JSON
def embed(source: Path, folder: Path, output: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Embeddings of every image below DIR: arrays `embeddings` and `files` in one .npz file."""
    from byolt.delivery.export import embed_folder

    found = embed_folder(source, folder, output, overrides)
    print_result(
        found, as_json, lambda: click.echo(f"{found['images']} embeddings of {found['dim']} numbers in {output}")
    )


@click.command()
@RUN
@SET
@RUNS_DIR
@JSON
def report(run_path: Path | None, overrides: tuple[str, ...], runs_dir: Path, as_json: bool) -> None:
    """Write a run's report.html: curves, verdict, neighbours, map of the embeddings, tables; one file, no server."""
    from byolt.reporting.report import report_run
    from byolt.run import open_run

    written = report_run(open_run(run_path, runs_dir), overrides)
    for reason in written.left_out:
        click.echo(f"left out: {reason}", err=True)
    result = {"report": str(written.path), "bytes": written.path.stat().st_size, "left_out": list(written.left_out)}
    print_result(result, as_json, lambda: click.echo(written.path))
