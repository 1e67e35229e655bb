"""The commands: parse, call one function, print. Heavy imports come inside the command that needs them."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click

from byolt import __version__
from byolt.faults import as_ours
from byolt_export.errors import InputError, MissingPart, ParityFault

if TYPE_CHECKING:
    from byolt.study.figures import StudyFigures

P = ParamSpec("P")

RUN = click.argument("run_path", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
RUNS_DIR = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs are kept."
)
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="byolt")
@click.option("--debug", is_flag=True, help="Show the traceback of a fault.")
def cli(debug: bool) -> None:
    """Learn an image encoder from unlabelled images, and deliver it with proof."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; a fault of the user or the machine is one sentence and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(arguments, prog_name="byolt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        fault = as_ours(error)
        if fault is None or "--debug" in arguments:
            raise
        click.echo(str(fault), err=True)
        sys.exit(fault.exit_code)
    sys.exit(0)


def _print(result: dict[str, Any], as_json: bool, text: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        text()


def _named(run_path: Path) -> str:
    """The run as the next command has to name it: not at all where that command would take it anyway."""
    from byolt.run import open_run

    default = Path("runs")
    in_default = run_path.resolve().parent == default.resolve()
    if in_default and open_run(None, default).path.resolve() == run_path.resolve():
        return ""
    return f" {shlex.quote(str(run_path))}"


@cli.group()
def recipe() -> None:
    """Look at a recipe."""


@recipe.command("show")
@RECIPE
@SET
def recipe_show(recipe_path: Path, overrides: tuple[str, ...]) -> None:
    """Print every key of a recipe with its value, defaults included."""
    from byolt.recipe import dump_recipe, load_recipe

    click.echo(dump_recipe(load_recipe(recipe_path, overrides)), nl=False)


@recipe.command("explain")
@click.argument("words", metavar="[RECIPE] [KEY]", nargs=-1)
@JSON
def recipe_explain(words: tuple[str, ...], as_json: bool) -> None:
    """What each key means, from the schema, and with RECIPE what it is set to.

    KEY narrows it, for example `optim` or `optim.base_lr`.
    """
    from byolt.explain import explain
    from byolt.recipe import load_recipe
    from byolt.reporting.tables import print_explanation

    if len(words) > 2:
        raise click.UsageError(f"one recipe and one key at most, got: {' '.join(words)}")
    is_file = bool(words) and (len(words) == 2 or words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file())
    settings = load_recipe(Path(words[0])) if is_file else None
    rows = explain(next(iter(words[is_file:]), None), settings)
    told = [row._asdict() if is_file else {k: v for k, v in row._asdict().items() if k != "value"} for row in rows]
    _print({"keys": told}, as_json, lambda: print_explanation(rows, with_values=is_file))


@cli.group()
def data() -> None:
    """Look at images."""


@data.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--test", "test_path", type=click.Path(path_type=Path), help="Held-out folder to compare with.")
@JSON
def data_check(path: Path, test_path: Path | None, as_json: bool) -> None:
    """Counts, sizes, modes, mean and std, corrupt files, duplicates, leakage into a test folder."""
    from byolt.data.check import check_folder

    report = check_folder(path, test_path)
    _print(report.to_dict(), as_json, lambda: click.echo(report.to_text()))


@cli.command()
@RECIPE
@SET
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with an unfinished run's folder.")
@click.option("--dry-run", is_flag=True, help="Take a few steps; print images/s, memory and time to finish.")
@click.option("--profile", is_flag=True, help="Take a few steps; print where a step's time goes.")
@JSON
def pretrain(
    recipe_path: Path, overrides: tuple[str, ...], resume: Path | None, dry_run: bool, profile: bool, as_json: bool
) -> None:
    """Learn an encoder from images by RECIPE."""
    from byolt.recipe import load_recipe

    settings = load_recipe(recipe_path, overrides)
    if dry_run or profile:
        from byolt.training.rehearsal import rehearse

        rehearsal = rehearse(settings, profiled=profile)
        _print(rehearsal.to_dict(), as_json, lambda: click.echo(rehearsal.to_text()))
        return
    from rich.console import Console

    from byolt.reporting.summary import print_summary, summarise
    from byolt.training.loop import pretrain as learn

    run = learn(settings, recipe_path.read_text(encoding="utf-8"), resume=resume, console=Console(stderr=True))
    _print(summarise(run), as_json, lambda: print_summary(run, next_command=f"byolt evaluate{_named(run.path)}"))


@cli.command()
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
    from byolt.evaluation.evaluate import evaluate_run
    from byolt.evaluation.predictions import compare_runs
    from byolt.reporting.summary import print_against, print_summary, summarise
    from byolt.run import open_run

    run = open_run(run_path, runs_dir)
    if other is not None:
        found = compare_runs(run, open_run(other))
        _print(found, as_json, lambda: print_against(found))
        return
    evaluate_run(run, overrides)
    following = f"byolt export{_named(run.path)} --onnx"
    _print(summarise(run), as_json, lambda: print_summary(run, next_command=following))


@cli.command()
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
    help="Share of the labels; several for several figures, the largest of which is kept.",
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
    from byolt.evaluation.downstream import finetune_run
    from byolt.reporting.summary import print_finetune
    from byolt.run import open_run

    def progress(what: str, epoch: int, epochs: int) -> None:
        click.echo(f"{what}: epoch {epoch}/{epochs}", err=True)

    run = open_run(run_path, runs_dir)
    figures = finetune_run(run, data_root, test_root, shares, overrides, progress, imagenet=imagenet)
    following = f"byolt export{_named(run.path)} --onnx --classifier"
    told = figures[0] if len(figures) == 1 else {"shares": figures}
    _print(told, as_json, lambda: print_finetune(figures, following))


@cli.command()
@click.argument("source", metavar="RUN|BUNDLE", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npz file to write.")
@SET
@JSON
def embed(source: Path, folder: Path, output: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Embeddings of every image below DIR: arrays `embeddings` and `files` in one .npz file."""
    from byolt.delivery import embed_folder

    found = embed_folder(source, folder, output, overrides)
    _print(found, as_json, lambda: click.echo(f"{found['images']} embeddings of {found['dim']} numbers in {output}"))


@cli.command()
@RUN
@RUNS_DIR
@click.option("--onnx", is_flag=True, help="Deliver ONNX files, which every bundle holds; the default.")
@click.option("--trt", is_flag=True, help="Build TensorRT engines too.")
@click.option("--precision", metavar="fp32,fp16,int8", help="Files to make.  [default: fp32; with --trt fp32,fp16]")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="GPUs to build engines for: see build-engine.")
@click.option("--classifier", is_flag=True, help="Deliver the fine-tuned classifier, not the encoder.")
@click.option("--bisect", is_flag=True, help="Compare tensors on the way too; name the first node whose error jumps.")
@SET
@JSON
def export(
    run_path: Path | None,
    runs_dir: Path,
    onnx: bool,
    trt: bool,
    precision: str | None,
    targets: tuple[str, ...],
    classifier: bool,
    bisect: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Deliver a run's encoder as a bundle: ONNX, engines, golden vectors, and the verdict of each file."""
    from byolt.delivery import export_run
    from byolt.reporting.summary import print_parity, print_summary
    from byolt.run import open_run

    run = open_run(run_path, runs_dir)
    report, missing = export_run(
        run,
        classifier=classifier,
        precisions=_precisions(precision or ("fp32,fp16" if trt else "fp32")),
        targets=targets if trt or targets else None,
        bisects=bisect,
        overrides=overrides,
        say=lambda line: click.echo(line, err=True),
    )

    def text() -> None:
        print_parity(report.to_json())
        print_summary(run, next_command=f"byolt verify {shlex.quote(str(report.path))}")

    _print(report.to_json(), as_json, text)
    _refuse_failed(report.verdict, report.reason, report.path)
    if missing is not None:
        raise missing


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--provider", "providers", multiple=True, help="ONNX Runtime's provider.  [default: each that this machine can use]"
)
@JSON
def verify(bundle: Path, providers: tuple[str, ...], as_json: bool) -> None:
    """Prove a bundle again on this machine, from its golden vectors; needs no torch."""
    from byolt.reporting.summary import print_parity
    from byolt_export.equip import record_verdicts
    from byolt_export.verify import verify_bundle

    report = verify_bundle(bundle, providers)
    record_verdicts(bundle, report.files)
    _print(report.to_json(), as_json, lambda: print_parity(report.to_json()))
    _refuse_failed(report.verdict, report.reason, bundle)


@cli.command("build-engine")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="here, rtx, rtx20, rtx30, rtx40, rtx50 or smXX.  [default: here; with TensorRT for RTX: rtx]",
)
@click.option("--precision", metavar="fp32,fp16,int8", help="Which of the bundle's files.  [default: all]")
@click.option("--flavour", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="Which TensorRT, where both are here.")
@click.option("--workspace-mib", type=click.IntRange(1), default=1024, show_default=True, help="Most scratch memory.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where timings are kept for the next build.")
@click.option(
    "--print-trtexec", is_flag=True, help="Build nothing; print the same build as lines for NVIDIA's trtexec."
)
@JSON
def build_engine(
    bundle: Path,
    targets: tuple[str, ...],
    precision: str | None,
    flavour: Any,
    workspace_mib: int,
    cache_dir: Path | None,
    print_trtexec: bool,
    as_json: bool,
) -> None:
    """Build a bundle's engines on the device that will run them; needs no torch."""
    from byolt.reporting.building import build_line
    from byolt.reporting.summary import print_parity
    from byolt_export.equip import add_engines, choose_targets, trtexec_lines
    from byolt_export.verify import Report

    if print_trtexec:
        lines = trtexec_lines(bundle, precisions=_precisions(precision), workspace_mib=workspace_mib)
        _print({"trtexec": lines}, as_json, lambda: click.echo("\n".join(lines)))
        return
    chosen, gpus = choose_targets(targets, flavour)
    with build_line() as progress:
        engines = add_engines(
            bundle,
            chosen,
            gpus,
            precisions=_precisions(precision),
            workspace_mib=workspace_mib,
            cache_dir=cache_dir,
            progress=progress,
        )
    report = Report(bundle, engines)
    _print(report.to_json(), as_json, lambda: print_parity(report.to_json()))
    if report.verdict == "failed":
        raise ParityFault(f"{bundle}: {report.reason}")
    if not as_json:
        click.echo(f"next     byolt verify {shlex.quote(str(bundle))}")


def _precisions(names: str | None) -> tuple[Any, ...]:
    """Names of precisions between commas."""
    known, found = ("fp32", "fp16", "int8"), [name.strip() for name in (names or "").split(",") if name.strip()]
    if unknown := [name for name in found if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--precision")
    if names is not None and not found:
        raise click.BadParameter("names nothing", param_hint="--precision")
    return tuple(found)


def _refuse_failed(verdict: str, reason: str, bundle: Path) -> None:
    if verdict == "failed":
        raise ParityFault(f"{bundle}: parity failed: {reason}")
    if verdict != "passed":
        raise MissingPart(f"{bundle}: nothing of it could be run here: {reason}")


@cli.command()
@click.argument("bundle", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
@RUNS_DIR
@click.option("--batch", metavar="1,8,32", help="Batch sizes.  [default: those of 1,8,32 that the bundle takes]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of one call.  [default: each library's choice]")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Timed seconds a candidate and batch size.",
)
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path), help="Run of the PyTorch rows.  [default: BUNDLE's]"
)
@click.option("--compile", "compiled", is_flag=True, help="Time PyTorch through torch.compile too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for bench.json and bench.svg.")
@JSON
def bench(
    bundle: Path | None,
    runs_dir: Path,
    batch: str | None,
    threads: int | None,
    seconds: float,
    run_path: Path | None,
    compiled: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Speed, memory and size of each backend and precision of a bundle, with its accuracy beside them."""
    from byolt.benching import bench_bundle, run_of_bundle
    from byolt.reporting.speed import print_speed, write_speed
    from byolt.run import open_run

    bundle = open_run(None, runs_dir).bundle if bundle is None else bundle
    found = bench_bundle(
        bundle,
        run_of_bundle(bundle) if run_path is None else open_run(run_path, runs_dir),
        batches=_numbers("--batch", batch),
        threads=threads,
        seconds=seconds,
        compiled=compiled,
        say=lambda line: click.echo(line, err=True),
    )
    if output is not None:
        write_speed(found, output)
    _print(found, as_json, lambda: print_speed(found))


def _numbers(option: str, listed: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in (listed or "").split(",") if number.strip())
    except ValueError as error:
        raise InputError(f"{option} {listed}: whole numbers with commas between them, for example 1,8,32") from error


RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("docs/results"),
    show_default=True,
    help="Folder of the CSV, the page and the plot.",
)
JOBS = click.option("--jobs", type=click.IntRange(1), help="Runs at once.  [default: as many as fit the cores]")


@cli.command()
@RECIPE
@SET
@click.option(
    "--methods", default="byol,simclr,simsiam,moco_v2,moco_v3", show_default=True, help="Names with commas between."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each method.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Also with settings chosen by study.tuning.")
@JOBS
@RESULTS
@JSON
def study(
    recipe_path: Path,
    overrides: tuple[str, ...],
    methods: str,
    seeds: int,
    tune: bool,
    jobs: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """Compare methods on RECIPE over several seeds, with intervals and paired tests.

    Finished runs are rows of <results>/<recipe>.csv; the same command makes those that are missing.
    """
    from byolt.recipe import load_recipe
    from byolt.study.command import study_recipe
    from byolt.study.runner import at_once_default

    settings = load_recipe(recipe_path, overrides)
    figures = study_recipe(
        settings,
        recipe_path.read_text(encoding="utf-8"),
        [name.strip() for name in methods.split(",") if name.strip()],
        seeds=seeds,
        results=results,
        at_once=jobs or at_once_default(settings),
        tunes=tune,
        say=lambda line: click.echo(line, err=True),
    )
    _tell_study(figures, results, f"byolt ablate {shlex.quote(str(recipe_path))} target", as_json)


@cli.command()
@RECIPE
@click.argument("name", metavar="tau|batch|augment|target|predictor|beta")
@SET
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each row.")
@JOBS
@RESULTS
@JSON
def ablate(
    recipe_path: Path,
    name: str,
    overrides: tuple[str, ...],
    seeds: int,
    jobs: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """One of the paper's ablations on RECIPE, with the published values beside ours.

    Rows that collapse are results: they are told, and the command goes on.
    """
    from byolt.recipe import load_recipe
    from byolt.study.command import ablate_recipe
    from byolt.study.runner import at_once_default

    settings = load_recipe(recipe_path, overrides)
    figures = ablate_recipe(
        settings,
        recipe_path.read_text(encoding="utf-8"),
        name,
        seeds=seeds,
        results=results,
        at_once=jobs or at_once_default(settings),
        say=lambda line: click.echo(line, err=True),
    )
    _tell_study(figures, results, f"byolt study {shlex.quote(str(recipe_path))}", as_json)


def _tell_study(figures: "StudyFigures", results: Path, following: str, as_json: bool) -> None:
    from byolt.reporting.study_page import study_chart, write_study_report
    from byolt.reporting.study_text import print_study, write_markdown
    from byolt.run import write_text

    page, plot, report = (results / f"{figures.name}.{kind}" for kind in ("md", "svg", "html"))
    write_markdown(figures, page, shlex.join(["byolt", *sys.argv[1:]]))
    write_text(plot, study_chart(figures))
    write_study_report(report, figures)
    _print(figures.to_dict(), as_json, lambda: print_study(figures, [page, plot, report], following))


@cli.command()
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
    told = {"report": str(written.path), "bytes": written.path.stat().st_size, "left_out": list(written.left_out)}
    _print(told, as_json, lambda: click.echo(written.path))


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """What this machine can do, and the line that mends what is missing."""
    from byolt.doctor import examine, to_json, to_text
    from byolt.machine import survey

    findings = examine(survey())
    _print(to_json(findings), as_json, lambda: click.echo(to_text(findings)))
