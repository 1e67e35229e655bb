"""Commands that deliver and prove: export, verify, build-engine, bench."""

from pathlib import Path
from typing import Any

import click

import byolt
from byolt.commands.options import JSON, PATH, RUN, RUNS_DIR, SET, FiniteRange, print_result, tell
from byolt.environment import command
from byolt_export.errors import InputError, MissingPart, ParityFault


@click.command()
@RUN
@RUNS_DIR
@click.option(
    "--onnx", is_flag=True, expose_value=False, help="Deliver ONNX files, which every bundle holds; the default."
)
@click.option("--trt", is_flag=True, help="Build TensorRT engines too.")
@click.option("--precision", metavar="fp32,fp16,int8", help="Files to make.  [default: fp32; with --trt fp32,fp16]")
@click.option(
    "--int8",
    type=click.Choice(("plain", "fastest", "safest", "tuned")),
    default="plain",
    help="How much becomes INT8 first: 80 % for TensorRT and all for a CPU, all, or half; tuned is plain, and learns.",
)
@click.option("--minutes", type=FiniteRange(0, min_open=True), help="That --int8 tuned learns.  [default: 10]")
@click.option("--openvino", is_flag=True, help="Make an INT8 file for OpenVINO too, and prove it there.")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="GPUs to build engines for: see build-engine.")
@click.option("--classifier", is_flag=True, help="Deliver the fine-tuned classifier, not the encoder.")
@click.option("--bisect", is_flag=True, help="Compare tensors on the way too; name the first node whose error jumps.")
@SET
@JSON
def export(
    run: "byolt.Run",
    trt: bool,
    precision: str | None,
    targets: tuple[str, ...],
    minutes: float | None,
    openvino: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Deliver a run's encoder as a bundle: ONNX, engines, golden vectors, and the verdict of each file."""
    from byolt.console.summary import print_parity, print_summary

    if minutes is not None and asked["int8"] != "tuned":
        raise InputError("--minutes is of --int8 tuned: add that, or leave it out")
    precisions = _precisions(precision or ("fp32,fp16" if trt else "fp32"))
    if openvino and "int8" not in precisions:
        raise InputError("--openvino is of INT8: add int8 to --precision, or leave it out")
    given: tuple[str, ...] = () if minutes is None else (f"export.int8_minutes={minutes}",)
    given += ("export.openvino=true",) if openvino else ()
    bundle = byolt.export(
        run,
        precisions=precisions,
        targets=targets if trt or targets else None,
        overrides=(*overrides, *given),
        on_log=tell,
        **asked,
    )
    report = bundle.report

    def text() -> None:
        print_parity(report.to_json())
        print_summary(run, next_command=command("verify", bundle.path))

    print_result(report.to_json(), as_json, text)
    _refuse_failed(report.verdict, report.reason, bundle.path)
    if bundle.missing is not None:
        raise bundle.missing


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    help="OpenVINO, or a provider of ONNX Runtime's.  [default: each of ONNX Runtime's that this machine can use]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of one call.  [default: one per core]")
@JSON
def verify(bundle: Path, providers: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Prove a bundle again on this machine, from its golden vectors, and keep the speeds; needs no torch."""
    from byolt.console.summary import print_parity
    from byolt.working import working
    from byolt_export import verify as prove

    with working(f"proving {bundle}"):
        report = prove(bundle, providers, threads=threads, on_log=tell)
    print_result(report.to_json(), as_json, lambda: print_parity(report.to_json()))
    _refuse_failed(report.verdict, report.reason, bundle)


@click.command("build-engine")
@click.argument("bundle", type=PATH)
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
@click.option("--cache-dir", type=PATH, help="Where timings are kept for the next build.")
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
    from byolt.console.engine_build import build_line
    from byolt.console.summary import print_parity
    from byolt.preflight import refuse_unwritable
    from byolt_export.proof.report import Report
    from byolt_export.proof.verify import verify_engines
    from byolt_export.tensorrt.add_engines import add_engines, choose_targets, trtexec_lines

    if print_trtexec:
        lines = trtexec_lines(bundle, precisions=_precisions(precision), workspace_mib=workspace_mib)
        print_result({"trtexec": lines}, as_json, lambda: click.echo("\n".join(lines)))
        return
    refuse_unwritable(bundle, f"copy {bundle} to it")
    if cache_dir is not None:
        refuse_unwritable(cache_dir, "--cache-dir DIR")
    chosen, gpus = choose_targets(targets, flavour)
    with build_line() as progress:
        add_engines(
            bundle,
            chosen,
            gpus,
            precisions=_precisions(precision),
            workspace_mib=workspace_mib,
            cache_dir=cache_dir,
            progress=progress,
        )
    report = Report(bundle, verify_engines(bundle))
    print_result(report.to_json(), as_json, lambda: print_parity(report.to_json()))
    if report.verdict == "failed":
        raise ParityFault(f"{bundle}: {report.reason}")
    if not as_json:
        click.echo(f"next     {command('verify', bundle)}")


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


@click.command()
@click.argument(
    "bundle",
    metavar="[BUNDLE]",
    required=False,
    type=PATH,
    callback=lambda context, _, path: path or byolt.open_run(None, context.meta["runs_dir"]).bundle,
)
@RUNS_DIR
@click.option("--batch", metavar="1,8,32", help="Batch sizes.  [default: those of 1,8,32 that the bundle takes]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of one call.  [default: each library's choice]")
@click.option(
    "--seconds",
    type=FiniteRange(0, 3600, min_open=True),
    default=1.0,
    show_default=True,
    help="Timed seconds per candidate and batch size.",
)
@click.option("--run", "run_path", type=PATH, help="Run of the PyTorch rows.  [default: BUNDLE's]")
@click.option("--compile", "compiled", is_flag=True, help="Time PyTorch through torch.compile too.")
@click.option("-o", "--output", type=PATH, help="Folder for bench.json and bench.svg.")
@JSON
def bench(
    bundle: Path,
    batch: str | None,
    threads: int | None,
    seconds: float,
    run_path: Path | None,
    compiled: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Speed, memory and size of each backend and precision of a bundle, with its accuracy beside them."""
    from byolt.preflight import refuse_unwritable
    from byolt.reporting.speed import print_speed, write_speed

    if output is not None:
        refuse_unwritable(output, "-o DIR")
    found = byolt.bench(
        bundle,
        run_path,
        batches=_numbers("--batch", batch),
        threads=threads,
        seconds=seconds,
        compiled=compiled,
        on_log=tell,
    )
    if output is not None:
        write_speed(found, output)
    print_result(found, as_json, lambda: print_speed(found))


def _numbers(option: str, listed: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in (listed or "").split(",") if number.strip())
    except ValueError as error:
        raise InputError(f"{option} {listed}: whole numbers with commas between them, for example 1,8,32") from error
