"""Figures of the bench from latencies made by hand, and the bench itself on a real bundle. Nothing asserts a speed."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.export import small
from tests.export.hungry import Hungry, absent

from byolt_export.arrays import Images, Outputs
from byolt_export.bench.candidates import bundle_candidates, choose_batches
from byolt_export.bench.memory import peak_memory_mib
from byolt_export.bench.run import Accuracy, Candidate, pareto_front, time_candidates
from byolt_export.errors import ByoltError, InputError, ParityFault
from byolt_export.files import dump_json, sha256
from byolt_export.proof.report import Measures, Report, Task
from byolt_export.proof.verify import verify_engines
from byolt_export.runtime.onnx_runner import CPU, OnnxRunner
from byolt_export.runtime.timing import filled, percentile, relative_speeds, time_in_turn
from byolt_export.tensorrt.add_engines import add_engines, choose_targets

MIB = 2**20


GALLERY = Measures(60, True, 2e-4, 5e-4, (60, *[0] * 35), 3, 0.9999, 0.999, 0.975, 0.96, None)
TASK = Task(30, 0.6, 0.99, -0.005, (-0.02, 0.01), 0.7, 0.99, 0.0, (-0.01, 0.01), 0.01, "not worse")


@pytest.fixture(scope="module")
def crowded(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle as if it had been proven in a gallery and on a task too."""
    folder = Path(shutil.copytree(report.path, tmp_path_factory.mktemp("bench") / "bundle"))
    parity = json.loads((folder / "parity.json").read_text())
    for file in parity["files"]:
        file |= {"gallery": asdict(GALLERY), "task": asdict(TASK)}
    (folder / "parity.json").write_bytes(dump_json(parity))
    edit_manifest(folder, lambda manifest: manifest.update(parity_sha256=sha256(folder / "parity.json")))
    return folder


class Clock:
    """Time that passes only when a run says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def run(self, *latencies_s: float, calls: list[str] | None = None, name: str = "") -> "Timed":
        return Timed(self, iter(latencies_s * 1000), [] if calls is None else calls, name)


class Timed:
    def __init__(self, clock: Clock, latencies_s: Iterator[float], calls: list[str], name: str) -> None:
        self.clock, self.latencies_s, self.calls, self.name = clock, latencies_s, calls, name

    def __call__(self, images: Images) -> Outputs:
        self.calls.append(self.name)
        self.clock.now_s += next(self.latencies_s)
        return np.zeros((len(images), 2), np.float32)


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (50, 4, 2),
        (50, 5, 3),
        (90, 10, 9),
        (90, 11, 10),
        (99, 10, 10),
        (99, 100, 99),
        (99, 101, 100),
        (99, 1000, 990),
        (50, 1, 1),
    ],
)
def test_percentiles_are_latencies_that_were_seen(share: float, count: int, expected: int) -> None:
    latencies = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert percentile(list(latencies), share) == expected


def test_the_front_is_what_no_other_beats() -> None:
    points = [(10, 0.9), (20, 0.8), (15, 0.7), (20, 0.75), (5, 0.95), (5, 0.9), (30, 0.1), (20, 0.8)]
    # (15, 0.7), (20, 0.75) and (5, 0.9) are beaten; the two equal points both stay.
    assert pareto_front(points) == [4, 0, 1, 7, 6]
    assert pareto_front([(1, 1), (2, 1), (1, 2)]) == [2, 1]
    assert pareto_front([]) == []


def test_speeds_are_compared_within_the_round() -> None:
    # The machine is three times slower in the second round, for both alike.
    assert relative_speeds([[1, 1], [3, 3]], [[2], [6]]) == [2, 2]
    assert relative_speeds([[2, 2, 90]], [[1]]) == [0.5]  # One call that was held up does not count.


def test_candidates_take_turns_after_a_warm_up() -> None:
    clock, calls = Clock(), list[str]()
    runs = {name: clock.run(1.0, calls=calls, name=name) for name in "abc"}
    taken, failed = time_in_turn(runs, small.images(2), seconds=9, rounds=3, warm_up_s=2, clock=clock)
    assert failed == {}
    # Three calls of warm-up each; then in each round one call uncounted and three of one second each.
    turns = "aaabbbccc" + "aaaabbbbcccc" + "bbbbccccaaaa" + "ccccaaaabbbb"
    assert "".join(calls) == turns
    assert taken == {name: [[1.0] * 3] * 3 for name in "abc"}


def test_slow_calls_are_taken_twice_a_round_at_least() -> None:
    clock = Clock()
    taken, _ = time_in_turn({"slow": clock.run(8.0)}, small.images(2), seconds=1, rounds=2, warm_up_s=0, clock=clock)
    assert taken == {"slow": [[8.0, 8.0], [8.0, 8.0]]}


def test_one_that_does_not_run_a_batch_leaves_the_others_their_turns() -> None:
    def refuses(images: Images) -> Outputs:
        raise ByoltError("no such batch")

    clock = Clock()
    runs = {"refuses": refuses, "runs": clock.run(1.0)}
    taken, failed = time_in_turn(runs, small.images(2), seconds=2, rounds=1, warm_up_s=0, clock=clock)
    assert failed == {"refuses": "no such batch"}
    assert taken == {"runs": [[1.0, 1.0]]}


def test_a_batch_is_filled_from_the_start() -> None:
    images = small.images(3)
    assert np.array_equal(filled(images, 7), images[[0, 1, 2, 0, 1, 2, 0]])
    assert np.array_equal(filled(images, 2), images[:2])


def test_batches_are_the_bundles() -> None:
    assert choose_batches((), 10) == (1, 8)
    assert choose_batches((), 64) == (1, 8, 32)
    assert choose_batches((4, 1, 4), 10) == (1, 4)
    for batch in (0, 11):
        with pytest.raises(InputError, match=rf"^--batch {batch}: the bundle takes batches of 1 to 10$"):
            choose_batches((1, batch), 10)


def test_memory_is_that_of_a_process_of_its_own(crowded: Path) -> None:
    opened = partial(OnnxRunner, crowded / "encoder.onnx", "CPUExecutionProvider", 1)
    light, heavy = peak_memory_mib(opened, small.images(8), (1, 8))
    assert light is not None
    assert heavy is not None
    assert 20 < light <= heavy < 200  # This process, with torch in it, holds more.
    grown = peak_memory_mib(partial(Hungry, 300), small.images(8), (8, 1))
    assert grown[0] is not None
    assert grown[1] is not None
    assert 300 < grown[0] < 500
    assert grown[1] < grown[0] - 200  # Batch 1 ran first, though it was asked for last.
    assert peak_memory_mib(absent, small.images(2), (1, 2)) == [None, None]
    assert peak_memory_mib(lambda: Hungry(1), small.images(2), (1,)) == [None]  # It cannot go to another process.


def test_a_bundle_brings_each_file_with_its_accuracy(crowded: Path) -> None:
    every = [candidate.name for candidate in bundle_candidates(crowded, threads=1).candidates]
    assert "fp32 in OpenVINO, CPU" not in every  # Only where it is asked for.
    setup = bundle_candidates(crowded, providers=(CPU,), threads=1)
    assert [c.name for c in setup.candidates] == ["fp32 in ONNX Runtime, CPU", "fp16 in ONNX Runtime, CPU"]
    assert setup.baseline == "fp32 in ONNX Runtime, CPU"
    for candidate, name in zip(setup.candidates, ("encoder.onnx", "encoder.fp16.onnx"), strict=True):
        assert candidate.accuracy == Accuracy(60, 0.975, 2e-4, -0.005, (-0.02, 0.01))
        assert candidate.file_bytes == (crowded / name).stat().st_size


def test_without_a_gallery_the_accuracy_is_that_of_the_golden_images(report: Report) -> None:
    candidate = bundle_candidates(report.path, threads=1).candidates[0]
    assert candidate.accuracy is not None
    assert candidate.accuracy.images == len(small.images())
    assert candidate.accuracy.knn_difference is None
    assert 0 < candidate.accuracy.relative_l2_mean < 1e-5


def test_every_candidate_has_a_row_at_every_batch(crowded: Path) -> None:
    setup = bundle_candidates(crowded, threads=1)
    missing = Candidate("not here", "fp16", absent)
    candidates = [missing, *setup.candidates]
    rows = time_candidates(candidates, setup.images, (1, 8), baseline=setup.baseline, seconds=0.02)
    assert [(row.name, row.batch) for row in rows] == [(c.name, batch) for batch in (1, 8) for c in candidates]
    for row in rows:
        if row.name == missing.name:
            assert (row.calls, row.reason, row.images_per_s) == (0, "it is not installed", None)
            continue
        assert row.reason == ""
        assert row.calls >= 10
        assert row.latency_ms_p50 is not None
        assert row.latency_ms_p90 is not None
        assert row.latency_ms_p99 is not None
        assert 0 < row.latency_ms_p50 <= row.latency_ms_p90 <= row.latency_ms_p99
        assert row.relative_speed_range is not None
        assert row.relative_speed is not None
        assert row.relative_speed_range[0] <= row.relative_speed <= row.relative_speed_range[1]
        assert row.memory_mib is not None
        assert row.file_mib == pytest.approx((crowded / file_of(row.precision)).stat().st_size / MIB)
        json.dumps(row.to_json(), allow_nan=False)
    assert [row.relative_speed for row in rows if row.name == setup.baseline] == [1, 1]


def test_an_engine_that_does_not_run_here_says_so(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    folder = Path(shutil.copytree(report.path, tmp_path / "bundle"))
    add_engines(folder, *choose_targets(("rtx30",), "tensorrt_rtx"), precisions=("fp16",))
    (judged,) = verify_engines(folder)
    setup = bundle_candidates(folder, threads=1)
    engine = setup.candidates[-1]
    assert engine.name.startswith("fp16.rtx30 in tensorrt_rtx 1.")
    assert engine.file_bytes == (folder / judged.name).stat().st_size
    (row,) = time_candidates([engine], setup.images, (4,), baseline=setup.baseline, seconds=0.01)
    if judged.parity.verdict == "not run here":
        assert (row.calls, row.reason, row.accuracy) == (0, judged.parity.reasons[0], None)
    else:
        assert row.calls >= 10
        assert row.accuracy is not None


def file_of(precision: str) -> str:
    return {"fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx"}[precision]


def test_a_bundle_that_is_damaged_or_does_not_pass_is_refused(crowded: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(crowded, tmp_path / name))

    with pytest.raises(InputError, match="holds no bundle"):
        bundle_candidates(tmp_path)
    damaged = copy("damaged")
    content = bytearray((damaged / "encoder.fp16.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "encoder.fp16.onnx").write_bytes(content)
    with pytest.raises(InputError, match="is not the file that manifest.json names"):
        bundle_candidates(damaged, threads=1)
    told_failed = copy("failed")
    edit_manifest(told_failed, lambda manifest: manifest["files"][1].update(verdict="failed", reason="too far"))
    with pytest.raises(ParityFault, match=r"encoder.fp16.onnx failed when it was made \(too far\): the speed of wrong"):
        bundle_candidates(told_failed, threads=1)
    tightened = copy("tightened")
    edit_manifest(tightened, lambda manifest: manifest["files"][1]["gates"].update(relative_l2_worst_max=1e-9))
    with pytest.raises(ParityFault, match="encoder.fp16.onnx fails here"):
        bundle_candidates(tightened, threads=1)


@pytest.mark.parametrize("content", [b"{}", b'{"files": [{"name": 1}]}', b"\xff", b'{"files": [{"name": "a"}]}'])
def test_a_hostile_parity_file_is_refused(crowded: Path, tmp_path: Path, content: bytes) -> None:
    folder = Path(shutil.copytree(crowded, tmp_path / "bundle"))
    (folder / "parity.json").write_bytes(content)
    edit_manifest(folder, lambda manifest: manifest.update(parity_sha256=sha256(folder / "parity.json")))
    with pytest.raises(InputError, match=r"parity\.json does not fit: .*; export it again"):
        bundle_candidates(folder, threads=1)


def edit_manifest(folder: Path, edit: Callable[[Any], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_bytes(dump_json(manifest))
