"""Networks of the edge in fp16 and INT8: byolt's files beside ONNX Runtime's and NNCF's own, a row each.

    python benchmarks/int8_networks.py resnet18 --images FOLDER --minutes 10 --peers PYTHON --results FILE.csv

FOLDER holds train/<class>/ and test/<class>/, of CIFAR-10 in JPEG files for instance. The network of timm is trained
on its images at 64 px, with labels and for so many minutes, so that its outputs mean something: kNN before and after
stands in the rows. Then its encoder is delivered in fp32, fp16 and INT8, untuned and (--tuned MINUTES) tuned, proven
on 128 golden images and a gallery of the rest of the test images, and calibrated on training images. PYTHON is an
environment with onnxruntime, sympy and nncf, which quantise the same fp32 file by their defaults: byolt is given 2,048
training images, ONNX Runtime the first 512 of them, NNCF the 300 of its own default (int8_peers.py). All files are
timed in turn at batch 1, 8 and 32, in ONNX Runtime and in OpenVINO where it is installed, against fp32 in ONNX
Runtime. Rows of the same network in FILE.csv are replaced.
"""

import argparse
import csv
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from PIL import Image
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from byolt_export import BundleOptions, ProofImages, build_bundle
from byolt_export.arrays import Function, Images, Labels, Outputs
from byolt_export.bundle.folder import FILES, read_manifest
from byolt_export.errors import InputError, MissingPart
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.agreement import wilson_interval_95
from byolt_export.proof.measures import QUERIES, measure
from byolt_export.proof.task import knn_predict
from byolt_export.runtime.onnx_runner import CPU, OnnxRunner
from byolt_export.runtime.openvino_runner import OpenVinoRunner
from byolt_export.runtime.processor import cpu_name
from byolt_export.runtime.resize import to_square
from byolt_export.runtime.timing import filled, relative_speeds, time_in_turn

SIZE_PX, BATCH, GOLDEN, CALIBRATION, TUNING, ASKED = 64, 64, 128, 2048, 4096, 1000
BATCHES, RUNTIMES = (1, 8, 32), ("onnxruntime", "openvino")
OPTIONS = BundleOptions(opt_batch=8, max_batch=32)
# Branches behind a layer scale of 1e-5 or so would be drowned by what goes past them, and no error in them be seen.
ARGUMENTS: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {"img_size": SIZE_PX, "patch_size": 8},
    "levit_128s": {"img_size": SIZE_PX},
    "convnext_atto": {"ls_init_value": 1.0},
    "edgenext_xx_small": {"ls_init_value": 1.0},
    "efficientformerv2_s0": {"layer_scale_init_value": 1.0},
    "fastvit_t8": {"layer_scale_init_value": 1.0},
}


@dataclass(frozen=True)
class Pictures:
    """Images (N, H, W, 3) of a folder's train and test part, with the numbers of their classes.

    Those that INT8 is calibrated and tuned on are of the train part too, but not learned from: a network that learned
    with labels draws the images that it learned from together by their classes, and says nothing of how near new ones
    come.
    """

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels
    calibration: Images
    tuning: Images

    @classmethod
    def of(cls, folder: Path, per_class: int, per_test_class: int) -> "Pictures":
        """So many of each class, in the order of their names."""
        classes = sorted(each.name for each in (folder / "train").iterdir() if each.is_dir())
        unseen = -(-(CALIBRATION + TUNING) // len(classes))
        train, shown, test = [], [], []
        for name in classes:
            found = _read(folder / "train" / name, per_class + unseen)
            train.append(found[:per_class])
            shown.append(found[per_class:])
            test.append(_read(folder / "test" / name, per_test_class))
        labels = [np.repeat(np.arange(len(classes)), [len(each) for each in of]) for of in (train, test)]
        joined = [np.concatenate(each) for each in (train, test, shown)]
        order = np.random.default_rng(2).permutation(len(joined[2]))
        parts = (joined[2][order[:CALIBRATION]], joined[2][order[CALIBRATION:][:TUNING]])
        return cls(joined[0], labels[0], joined[1], labels[1], *parts)


def _read(folder: Path, most: int) -> Images:
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[:most]]
    return np.stack([to_square(frame, SIZE_PX, "crop") for frame in frames])


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
    knn_untrained: float
    knn: float
    trained_s: float
    threads: int
    cpu: str


def _say(line: str) -> None:
    print(line, flush=True)


def network(name: str) -> nn.Module:
    """The encoder by timm's name, with random weights."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=0, **ARGUMENTS.get(name, {}))
    return model


def train(model: nn.Module, pictures: Pictures, minutes: float) -> float:
    """Train with labels for so long: AdamW, mirrored and shifted images; the seconds that it took."""
    pixels = OPTIONS.input_of(SIZE_PX)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (pixels.mean, pixels.std))

    def ready(images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std

    images, labels = torch.from_numpy(pictures.train), torch.from_numpy(pictures.train_labels)
    with torch.no_grad():
        dim = model.eval()(ready(images[:2])).shape[1]
    head = nn.Linear(dim, int(labels.max()) + 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3, weight_decay=0.02)
    model.train()
    started = time.perf_counter()
    step = 0
    while (passed := (time.perf_counter() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 30) * (1 - passed) + 1e-5
        drawn = torch.randint(len(images), (BATCH,))
        batch = ready(images[drawn])
        batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
        batch = torch.roll(batch, [int(shift) for shift in torch.randint(-6, 7, (2,))], (2, 3))
        loss = F.cross_entropy(head(model(batch)), labels[drawn], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    model.eval()
    return time.perf_counter() - started


def trained(model: nn.Module, pictures: Pictures, minutes: float, kept: Path | None) -> float:
    """Train, or take the weights that were kept; the seconds that it took."""
    if kept is not None and kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["weights"])
        model.eval()
        return float(state["trained_s"])
    seconds = train(model, pictures, minutes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": model.state_dict(), "trained_s": seconds}, kept)
    return seconds


def knn_accuracy(model: nn.Module, pictures: Pictures) -> float:
    """Of test images among four times as many training images."""
    pixels = OPTIONS.input_of(SIZE_PX)
    rng = np.random.default_rng(1)
    some = rng.permutation(len(pictures.train))[: 4 * ASKED]
    asked = rng.permutation(len(pictures.test))[:ASKED]
    gallery, queries = (
        torch_outputs(model.eval(), images, pixels=pixels, normalize=False)
        for images in (pictures.train[some], pictures.test[asked])
    )
    found = knn_predict(gallery, pictures.train_labels[some], queries)
    return float((found == pictures.test_labels[asked]).mean())


def proof_images(pictures: Pictures) -> ProofImages:
    """Golden images and gallery of the test part, calibration and tuning of the train part."""
    order = np.random.default_rng(0).permutation(len(pictures.test))
    golden, gallery = pictures.test[order[:GOLDEN]], pictures.test[order[GOLDEN:]]
    return ProofImages(
        golden,
        "dataset",
        gallery=gallery,
        calibration=pictures.calibration,
        calibration_source="train",
        tuning=pictures.tuning,
    )


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
        """In each runtime that is installed."""
        yield "onnxruntime", OnnxRunner(self.path, CPU, torch.get_num_threads(), self.placement)
        if self.placement != "tensorrt":  # OpenVINO reads it too, but it is placed for another engine.
            try:
                yield "openvino", OpenVinoRunner(self.path, torch.get_num_threads())
            except MissingPart:
                return


def deliver(model: nn.Module, images: ProofImages, folder: Path, tuned_minutes: float) -> Iterator[Delivered]:
    """byolt's files: fp32, fp16, INT8 as it is and after it has learned."""
    for kind, options in (("untuned", {}), ("tuned", {"int8": "tuned", "minutes": tuned_minutes})):
        if kind == "tuned" and not tuned_minutes:
            return
        precisions = ("fp32", "fp16", "int8") if kind == "untuned" else ("int8",)
        how = BundleOptions(**{**asdict(OPTIONS), **options})
        given = {"images": images, "size_px": SIZE_PX, "precisions": precisions, "options": how, "on_log": _say}
        try:
            report = build_bundle(model, folder / kind, **given)
        except InputError as error:
            _say(f"{kind}: {error}")
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
            _say(f"{by} fails: exit code {done.returncode}")


def speeds(delivered: list[Delivered], images: Images) -> dict[tuple[Path, str, int], float]:
    """Times fp32 in ONNX Runtime, by file, runtime and batch."""
    runs = {f"{k} {runtime}": run for k, each in enumerate(delivered) for runtime, run in each.runs()}
    found = {}
    for batch in BATCHES:
        taken, failed = time_in_turn(runs, filled(images, batch), seconds=1.0)
        for name, why in failed.items():
            _say(f"batch {batch}, {delivered[int(name.split()[0])].path.name} in {name.split()[1]}: {why}")
        for name, times in taken.items():
            number, runtime = name.split()
            ratio = median(relative_speeds(times, taken["0 onnxruntime"]))
            found[delivered[int(number)].path, runtime, batch] = round(ratio, 2)
    return found


def outputs_of(run: Function, images: Images) -> Outputs:
    """Of all images."""
    return np.concatenate([run(images[k : k + 32]) for k in range(0, len(images), 32)])


def rows_of(name: str, given: argparse.Namespace) -> list[Row]:
    """Train, deliver, measure."""
    pictures = Pictures.of(given.images, given.per_class, given.per_test_class)
    model = network(name)
    before = knn_accuracy(model, pictures)
    trained_s = trained(model, pictures, given.minutes, given.trained and given.trained / f"{name}.pt")
    model = reparameterize_model(model).eval()
    after = knn_accuracy(model, pictures)
    _say(f"{name}: kNN {before:.1%} untrained, {after:.1%} after {trained_s:.0f} s")
    about = {
        "network": name,
        "knn_untrained": round(before, 4),
        "knn": round(after, 4),
        "trained_s": round(trained_s),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
    }
    images = proof_images(pictures)
    shown = np.concatenate([images.golden, images.gallery])
    reference = torch_outputs(model, shown, pixels=OPTIONS.input_of(SIZE_PX), normalize=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        delivered = list(deliver(model, images, folder, given.tuned))
        delivered += peers(given.peers, folder, folder / "untuned" / FILES["fp32"], images)
        times = speeds(delivered, images.golden)
        return [Row(**about, **_measured(each, shown, reference, times)) for each in delivered]


def _measured(
    file: Delivered, images: Images, reference: Outputs, times: dict[tuple[Path, str, int], float]
) -> dict[str, object]:
    """A file's own columns."""
    run = OnnxRunner(file.path, CPU, torch.get_num_threads(), file.placement)
    found = measure(reference, outputs_of(run, images), logits=False)
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


def write(path: Path, name: str, rows: list[Row]) -> None:
    """Put the network's rows into the file, in place of earlier ones of it."""
    kept = [row for row in csv.DictReader(path.open()) if row["network"] != name] if path.exists() else []
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *map(asdict, rows)])


def main() -> None:
    """Measure one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--images", type=Path, required=True)
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
        write(given.results, name, rows_of(name, given))


if __name__ == "__main__":
    main()
