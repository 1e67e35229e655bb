"""The GPU's one run: nothing of it is lost whenever it is killed, and no step stops those after it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu.measure import by_kind
from benchmarks.gpu.out_folder import MOST_FILES, OutFolder, Summary
from benchmarks.gpu.pack import carried
from benchmarks.gpu.plan import after_smoke, attempts

from tests.test_command_line import draw_folder

ROOT = Path(__file__).resolve().parents[1]
SHORT = """
import sys
from benchmarks.gpu import one_run, workers
workers.MODULE, workers.GRACE_S = "one_run_stub", 1.0
one_run.PROBE_S, one_run.IMAGES_S = 2.0, 5.0
sys.exit(one_run.main())
"""
DEADLINES = ("--smoke-until", "60", "--measure-until", "90", "--learn-until", "120", "--until", "150")
KILLS, FEW_KILLS = 8, 3
"""At random moments, one in each part of the run; those of `make test`."""


def begin(folder: Path, *options: str, fails: str = "", spoils: str = "") -> subprocess.Popen[str]:
    """The whole of it over steps that take no time."""
    folder.mkdir()
    (folder / "data").mkdir()
    command = [sys.executable, "-c", SHORT, "--data", str(folder / "data"), "--out", str(folder / "out")]
    environment = os.environ | {
        "ONE_RUN_JOURNAL": str(folder / "journal"),
        "ONE_RUN_FAILS": fails,
        "ONE_RUN_SPOILS": spoils,
    }
    environment |= {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT / "tests")])}
    return subprocess.Popen(
        [*command, "--step-seconds", "0.8", *(options or DEADLINES)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def journal_of(folder: Path, event: str) -> list[dict[str, Any]]:
    path = folder / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == event]


def assert_true_so_far(folder: Path, printed: str) -> dict[str, Any]:
    """At most 8 files; the summary parses, says nothing that did not happen, and no file that it names is another."""
    out = folder / "out"
    if not out.exists() or not any(out.iterdir()):
        assert not printed  # Killed before the first step.
        return {}
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    names = {path.name for path in out.iterdir()}
    assert len(names) <= MOST_FILES
    assert all(path.stat().st_size <= 16_000_000 for path in out.iterdir())
    assert summary["files"].keys() <= names
    for name, told in summary["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == told["sha256"]
    ended = {(line["step"], line["state"]) for line in journal_of(folder, "end")}
    told_of = {(step, how["state"]) for step, how in summary["steps"].items() if how["state"] == "passed"}
    assert told_of <= ended
    assert {line.split("  ")[-1].rpartition(": ")[0] for line in printed.splitlines()} <= summary["steps"].keys()
    happened = [{k: v for k, v in line.items() if k != "event"} for line in journal_of(folder, "evaluation")]
    kept = [{k: v for k, v in line.items() if k != "elapsed_s"} for line in summary["learning"]["evaluations"]]
    assert kept == happened[: len(kept)]
    if "encoder" in summary:
        parts = summary["encoder"]["join"].split()[1:-2]
        whole = b"".join((out / part).read_bytes() for part in parts)
        assert hashlib.sha256(whole).hexdigest() == summary["encoder"]["sha256"]
    for name in names:
        if name.startswith("run-"):
            with tarfile.open(out / name) as archive:
                assert archive.getmembers()
    return summary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, float]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    started_s = time.monotonic()
    process = begin(folder)
    printed, errors = process.communicate()
    assert process.returncode == 1, errors  # Steps failed.
    return assert_true_so_far(folder, printed), folder, time.monotonic() - started_s


def test_a_step_that_fails_hangs_or_crashes_stops_none_after_it(whole: tuple[dict[str, Any], Path, float]) -> None:
    summary, _, _ = whole
    states = {step: how["state"] for step, how in summary["steps"].items()}
    failed = {step for step, state in states.items() if state != "passed"}
    broken = {step for step in failed if step.startswith("learn:captured+compiled")}
    assert failed == {"against_cpu:sgd", "captured:simclr", "kernels:captured", *broken}
    assert len(broken) == 1
    assert summary["steps"]["against_cpu:sgd"]["told"][0].startswith("its process ended with code -11")
    assert {"probe", "lightly", "captured:simsiam", "speed:eager:512", "images"} <= states.keys()
    assert summary["state"] == "finished"
    assert summary["running"] == []
    assert "faults" not in summary
    assert summary["share_of_ceiling"] == pytest.approx(0.4)  # 400 images/s of 1e9 operations each, of 1e12.


def test_learning_takes_the_fastest_that_is_right_and_goes_on_with_a_plainer_one(
    whole: tuple[dict[str, Any], Path, float],
) -> None:
    summary, folder, _ = whole
    assert [plan["variant"] for plan in summary["chosen"]] == ["captured+compiled", "captured", "eager"]
    assert [step for step in summary["steps"] if step.startswith("learn")] == [
        "learn:captured+compiled:1024:400.0::1",
        "learn:captured:1024:200.0:20:2",
    ]
    assert [line["epoch"] for line in summary["learning"]["evaluations"]] == [1, 2, 3, 4, 5, 6]
    with tarfile.open(next((folder / "out").glob("run-*.tar.gz"))) as archive:
        names = archive.getnames()
    assert "runs/one/metrics.jsonl" in names
    assert any(name.startswith("logs/") for name in names)
    assert len([name for name in summary["files"] if name.startswith("encoder-")]) == 2


@pytest.mark.parametrize(
    ("number", "kills"),
    [(number, FEW_KILLS) for number in range(FEW_KILLS)]
    + [pytest.param(number, KILLS, marks=pytest.mark.full) for number in range(KILLS)],
)
def test_killed_at_any_moment_it_leaves_what_is_true_so_far(
    number: int, kills: int, whole: tuple[dict[str, Any], Path, float], tmp_path: Path
) -> None:
    _, _, whole_s = whole
    moment_s = random.Random(number).uniform((number + 0.2) / kills, (number + 1) / kills) * whole_s
    process = begin(tmp_path / "run")
    time.sleep(moment_s)
    os.killpg(process.pid, signal.SIGKILL)
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    assert process.returncode in (-9, 1)
    if summary.get("state") == "finished":  # All that it had to do was done, and it was killed on its way out, or not.
        assert summary["steps"]["probe"]["state"] == "passed"
    else:
        assert not summary or summary["state"] == "running"


def test_asked_to_stop_it_packs_what_there_is(tmp_path: Path) -> None:
    process = begin(tmp_path / "run")
    assert process.stdout is not None
    first = process.stdout.readline()
    process.terminate()
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", first + printed)
    assert summary["state"] == "stopped by SIGTERM"
    assert process.returncode == 1
    assert {"run-1.tar.gz", "summary.json"} == {path.name for path in (tmp_path / "run" / "out").iterdir()}


def test_after_a_failed_capture_learning_goes_on_without_a_graph(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", fails="captured:byol")
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    assert summary["cuda_graph"] is False
    assert summary["steps"]["speed:captured:1024"]["state"].startswith("left out")
    assert [plan["variant"] for plan in summary["chosen"]] == ["eager"]
    assert any(step.startswith("learn:eager:1024:100.0") for step in summary["steps"])
    assert summary["steps"]["probe"]["state"] == "passed"


def test_learning_begins_though_nothing_could_be_measured(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", fails="speed")
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    assert [tuple(plan.values()) for plan in summary["chosen"]] == [("captured", "1024", ""), ("eager", "1024", "")]
    assert len(summary["learning"]["evaluations"]) == 6


def test_learning_begins_though_what_was_measured_makes_no_sense(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", spoils="speed:eager:1024")
    printed, errors = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    assert "KeyError" in errors
    assert [plan["variant"] for plan in summary["chosen"]] == ["eager"]
    assert len(summary["learning"]["evaluations"]) == 6


def test_learning_that_fails_each_time_is_tried_once_more_at_its_plainest(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", fails="learn")
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    tried = [step.split(":")[1] for step in summary["steps"] if step.startswith("learn")]
    assert tried == ["captured+compiled", "captured", "eager", "eager"]
    assert summary["state"] == "finished"


def test_the_clock_leaves_steps_out_and_not_learning(tmp_path: Path) -> None:
    deadlines = ("--smoke-until", "0.5", "--measure-until", "1.0", "--learn-until", "30", "--until", "40")
    process = begin(tmp_path / "run", *deadlines)
    printed, _ = process.communicate()
    summary = assert_true_so_far(tmp_path / "run", printed)
    states = [how["state"] for how in summary["steps"].values()]
    assert "out of time" in states
    assert len(summary["learning"]["evaluations"]) == 6
    assert summary["elapsed_s"] < 30


def test_no_file_too_many_and_none_too_large(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    out = OutFolder(tmp_path / "out", tmp_path / "scratch")
    with pytest.raises(ValueError, match="more than"):
        out.put("large", bytes(16_000_001))
    for number in range(MOST_FILES):
        out.put(f"file{number}", b"")
    out.put("file0", b"again")
    with pytest.raises(ValueError, match="a file too many"):
        out.put("ninth", b"")
    assert len(list((tmp_path / "out").iterdir())) == MOST_FILES
    with pytest.raises(ValueError, match="not empty"):
        OutFolder(tmp_path / "out", tmp_path / "scratch")


def with_speeds(tmp_path: Path, speeds: dict[str, tuple[float, list[float]]]) -> Summary:
    (tmp_path / "scratch").mkdir()
    summary = Summary(OutFolder(tmp_path / "out", tmp_path / "scratch"), {})
    for step, (rate, losses) in speeds.items():
        summary.ended(f"speed:{step}", "passed", found={"images_per_s": rate, "losses": losses})
    return summary


def test_another_batch_has_to_be_worth_it(tmp_path: Path) -> None:
    # 104 is no twentieth more than 100; 110 is.
    losses = [1.0]
    summary = with_speeds(tmp_path, {"eager:1024": (100.0, losses), "captured:2048": (104.0, losses)})
    assert attempts(summary, captures=True)[0] == ("eager", "1024", "100.0")
    summary.ended("speed:captured:512", "passed", found={"images_per_s": 110.0, "losses": losses})
    assert attempts(summary, captures=True)[0] == ("captured", "512", "110.0")
    assert attempts(summary, captures=False)[0] == ("eager", "1024", "100.0")


def test_a_variant_whose_losses_part_is_not_taken(tmp_path: Path) -> None:
    speeds = {"eager:1024": (100.0, [4.0, 3.5]), "captured:1024": (200.0, [4.0, 3.6])}  # 2.9 % off.
    assert attempts(with_speeds(tmp_path, speeds), captures=True)[0].variant == "eager"


def test_a_failed_capture_forbids_what_is_captured() -> None:
    taken, left_out = after_smoke(
        ["speed:eager:RECIPE", "kernels:captured", "speed:captured:OTHER"], ["8", "16"], captures=False
    )
    assert taken == ["speed:eager:8"]
    assert left_out == ["kernels:captured", "speed:captured:16"]


def test_kernels_before_the_first_convolution_are_the_views() -> None:
    events = [
        ("void at::native::vectorized_elementwise_kernel<4>", 1.0),
        ("ampere_sgemm_128x64_tn", 2.0),
        ("sm90_xmma_fprop_implicit_gemm_bf16", 4.0),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW", 8.0),
        ("triton_poi_fused__native_batch_norm_legit_functional_convolution_relu_3", 16.0),
        ("triton_poi_fused__to_copy_convolution_1", 32.0),
        ("nvjet_tst_128x128_gemm", 64.0),
        ("void at::native::multi_tensor_apply_kernel<LpNormFunctor>", 128.0),
    ]
    found = by_kind(events)
    assert found["ms_by_kind"] == {
        "views": 3.0,
        "convolution": 4.0,
        "BatchNorm": 24.0,
        "elementwise": 32.0,
        "matrix product": 64.0,
        "optimizer and target": 128.0,
    }
    assert found["kernels"] == 8
    assert found["ms"] == 255.0
    assert not by_kind([])["ok"]


def test_a_folder_that_was_not_packed_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make it with --pack"):
        carried(tmp_path)


@pytest.mark.full
def test_all_of_it_runs_small_on_this_machine(tmp_path: Path) -> None:
    draw_folder(tmp_path / "set" / "train", classes=2, images=32)
    draw_folder(tmp_path / "set" / "test", classes=2, images=8)
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "set", ".")
    sizes = ["--tiny", "--epochs", "2", "--timed-seconds", "0.1", "--lightly-seconds", "1", "--workers", "0"]
    sizes += ["--step-seconds", "600"]
    clock = ["--smoke-until", "600", "--measure-until", "1200", "--learn-until", "1800", "--until", "2000"]
    command = [sys.executable, "-m", "benchmarks.gpu.one_run", "--data", str(tmp_path / "images.tar.xz")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *sizes, *clock],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert done.returncode == 0, (done.stderr, summary)
    states = {step: how["state"] for step, how in summary["steps"].items()}
    on_gpu = {step for step, state in states.items() if state == "needs a GPU"}
    assert on_gpu >= {"captured:byol", "against_cpu:lars", "resume", "ceilings", "no_waits:captured"}
    assert states.pop("lightly") in ("passed", "not installed")
    assert {step for step, state in states.items() if state == "passed"} >= {"images", "operations", "probe"}
    assert len(summary["learning"]["evaluations"]) == 2
    assert 0 <= summary["steps"]["probe"]["linear"] <= 1
    assert summary["encoder"]["from"] == "the finished run"
