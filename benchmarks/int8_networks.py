"""Networks of the edge in fp16 and INT8: byolt's files beside ONNX Runtime's and NNCF's own, a row each.

    python benchmarks/int8_networks.py resnet18 --images FOLDER --minutes 10 --peers PYTHON --results FILE.csv

FOLDER holds train/<class>/ and test/<class>/, of CIFAR-10 in JPEG files for instance. The network of timm is trained
on its images at 64 px, with labels and for so many minutes, so that its outputs mean something: kNN before and after
stands in the rows. Then its encoder is delivered in fp32, fp16 and INT8, untuned and (--tuned MINUTES) tuned, proven
on 128 golden images and a gallery of the rest of the test images, and calibrated on training images. PYTHON is an
environment with onnx, onnxruntime, sympy and nncf, which quantise the same fp32 file by their defaults: byolt is given
2,048 training images, ONNX Runtime the first 512 of them, NNCF the 300 of its own default (int8_peers.py). All files
are timed in turn at batch 1, 8 and 32, in ONNX Runtime and in OpenVINO where it is installed, which has an INT8 file of
its own then, against fp32 in ONNX Runtime. Rows of the same network in FILE.csv are replaced.

In place of a network's name a run's folder may stand: its encoder, and the images that ``byolt export`` would take.
"""

import argparse
import csv
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from int8_subjects import Subject, of_run, of_timm

from byolt_export import ProofImages, build_bundle
from byolt_export.arrays import Function, Images, Outputs
from byolt_export.bundle.folder import FILES, read_manifest
from byolt_export.errors import InputError
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.agreement import wilson_interval_95
from byolt_export.proof.measures import QUERIES, measure
from byolt_export.proof.parity import run_filled
from byolt_export.runtime.onnx_runner import CPU, OnnxRunner
from byolt_export.runtime.openvino_runner import OpenVinoRunner, has_openvino
from byolt_export.runtime.processor import cpu_name
from byolt_export.runtime.timing import filled, relative_speeds, time_in_turn

BATCHES, RUNTIMES = (1, 8, 32), ("onnxruntime", "openvino")
say = partial(print, flush=True)


@dataclass(frozen=True)
class Row:
    """One file; times are those of fp32 in ONNX Runtime over its own, empty where it does not run."""

    network: str
    file: str
    by: str
    verdict: str
    int8_share: float | None
    overlap_at_1: float
    overlap_low: float
    overlap_high: float
    images: int
    relative_l2_mean: float
    onnxruntime_1: float | None
    onnxruntime_8: float | None
    onnxruntime_32: float | None
    openvino_1: float | None
    openvino_8: float | None
    openvino_32: float | None
    knn_untrained: float | None
    knn: float | None
    trained_s: float | None
    threads: int
    cpu: str


@dataclass(frozen=True)
class Delivered:
    """A file of somebody's."""

    path: Path
    file: str
    by: str
    verdict: str = ""
    int8_share: float | None = None
    placement: str | None = None

    def runs(self) -> Iterator[tuple[str, Function]]:
        """In each runtime that is installed and that it may be for, the one that it is placed for first."""
        if self.placement != "openvino":
            yield "onnxruntime", OnnxRunner(self.path, CPU, torch.get_num_threads(), self.placement)
        if self.placement != "tensorrt" and has_openvino():  # OpenVINO reads that too, but it is for another engine.
            yield "openvino", OpenVinoRunner(self.path, torch.get_num_threads())


def deliver(subject: Subject, folder: Path, tuned_minutes: float) -> Iterator[Delivered]:
    """byolt's files: fp32, fp16, INT8 as it is and after it has learned."""
    for kind, options in (("untuned", {}), ("tuned", {"int8": "tuned", "minutes": tuned_minutes})):
        if kind == "tuned" and not tuned_minutes:
            return
        precisions = ("fp32", "fp16", "int8") if kind == "untuned" else ("int8",)
        given = {"images": subject.images, "size_px": subject.size_px, "precisions": precisions, "on_log": say}
        try:
            how = replace(subject.options, openvino=has_openvino(), **options)
            report = build_bundle(subject.model, folder / kind, options=how, **given)
        except InputError as error:
            say(f"{kind}: {error}")
            return
        verdicts = {file.name: file.parity.verdict for file in report.files}
        for entry in (entry for entry in read_manifest(report.path).files if entry.is_made):
            share = None if entry.shares is None else entry.shares.get("int8", 0.0)
            by = "byolt" if kind == "untuned" or entry.precision != "int8" else "byolt, tuned"
            name = entry.name.removeprefix("encoder.").removesuffix(".onnx").replace("onnx", "fp32")
            yield Delivered(report.path / entry.name, name, by, verdicts[entry.name], share, entry.placement)


def peers(python: Path | None, folder: Path, fp32: Path, images: ProofImages) -> Iterator[Delivered]:
    """Files of ONNX Runtime's and NNCF's own quantisation of the fp32 file."""
    if python is None:
        return
    np.save(folder / "calibration.npy", images.calibration)
    for by in ("quantize_static", "nncf"):
        path = folder / f"{by}.onnx"
        program = Path(__file__).with_name("int8_peers.py")
        done = subprocess.run([python, program, by, fp32, folder / "calibration.npy", path], check=False)
        if done.returncode == 0:
            yield Delivered(path, "int8", by)
        else:
            say(f"{by} fails: exit code {done.returncode}")


def speeds(delivered: list[Delivered], images: Images) -> dict[tuple[Path, str, int], float]:
    """Times fp32 in ONNX Runtime, by file, runtime and batch."""
    runs = {f"{k} {runtime}": run for k, each in enumerate(delivered) for runtime, run in each.runs()}
    found = {}
    for batch in BATCHES:
        taken, failed = time_in_turn(runs, filled(images, batch), seconds=1.0)
        for name, why in failed.items():
            say(f"batch {batch}, {delivered[int(name.split()[0])].path.name} in {name.split()[1]}: {why}")
        for name, times in taken.items():
            number, runtime = name.split()
            ratio = median(relative_speeds(times, taken["0 onnxruntime"]))
            found[delivered[int(number)].path, runtime, batch] = round(ratio, 2)
    return found


def rows_of(name: str, given: argparse.Namespace) -> list[Row]:
    """Train, deliver, measure."""
    subject = of_run(Path(name)) if Path(name).is_dir() else of_timm(name, given)
    about = {
        "network": subject.name,
        "knn_untrained": subject.knn_untrained,
        "knn": subject.knn,
        "trained_s": subject.trained_s,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
    }
    images = subject.images
    shown = np.concatenate([images.golden, images.gallery])
    pixels = subject.options.input_of(subject.size_px)
    reference = torch_outputs(subject.model, shown, pixels=pixels, normalize=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        delivered = list(deliver(subject, folder, given.tuned))
        delivered += peers(given.peers, folder, folder / "untuned" / FILES["fp32"], images)
        times = speeds(delivered, images.golden)
        return [Row(**about, **_measured(each, shown, reference, times)) for each in delivered]


def _measured(
    file: Delivered, images: Images, reference: Outputs, times: dict[tuple[Path, str, int], float]
) -> dict[str, object]:
    """A file's own columns."""
    _, run = next(file.runs())
    found = measure(reference, run_filled(run, images, BATCHES[-1])[: len(images)], logits=False)
    low, high = wilson_interval_95(found.overlap_at_1, min(QUERIES, len(images)))
    return {
        "file": file.file,
        "by": file.by,
        "verdict": file.verdict,
        "int8_share": None if file.int8_share is None else round(file.int8_share, 3),
        "overlap_at_1": round(found.overlap_at_1, 4),
        "overlap_low": round(low, 4),
        "overlap_high": round(high, 4),
        "images": len(images),
        "relative_l2_mean": float(f"{found.relative_l2_mean:.3g}"),
        **{f"{runtime}_{b}": times.get((file.path, runtime, b)) for runtime in RUNTIMES for b in BATCHES},
    }


def write(path: Path, rows: list[Row]) -> None:
    """Put the network's rows into the file, in place of earlier ones of it."""
    name = rows[0].network
    kept = [row for row in csv.DictReader(path.open()) if row["network"] != name] if path.exists() else []
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *map(asdict, rows)])


def main() -> None:
    """Measure one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="names of timm, or folders of runs")
    parser.add_argument("--images", type=Path, help="of a network that is trained here")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tuned", type=float, default=0, help="minutes that INT8 learns; 0: not")
    parser.add_argument("--trained", type=Path, help="folder that weights are kept in, and taken from")
    parser.add_argument("--peers", type=Path, help="Python of an environment with onnxruntime and nncf")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-class", type=int, default=1500)
    parser.add_argument("--per-test-class", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.networks:
        write(given.results, rows_of(name, given))


if __name__ == "__main__":
    main()
