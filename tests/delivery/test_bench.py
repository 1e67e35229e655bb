"""`byolt bench` as a user types it, on a bundle of a real run: the table, the plot, and what is refused."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.test_command_line import byolt, draw_folder, one_sentence, only_run, write_recipe

from byolt.reporting.speed import plot_speed, write_speed


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny run was learned and exported."""
    folder = tmp_path_factory.mktemp("delivered")
    recipe = write_recipe(folder, draw_folder(folder / "images", classes=3, images=96))
    done = byolt("pretrain", recipe, "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0", folder=folder)
    assert done.returncode == 0, done.stderr
    done = byolt("export", "--precision", "fp32,fp16", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_latest_bundle_beside_its_pytorch_model(delivered: Path) -> None:
    done = byolt(
        *("bench", "--batch", "1,8", "--seconds", "0.02", "--threads", "1", "--json", "-o", "speed"), folder=delivered
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((delivered / "speed" / "bench.json").read_text())
    names = ["fp32 in PyTorch, eager, CPU", "fp32 in ONNX Runtime, CPU", "fp16 in ONNX Runtime, CPU"]
    rows = [(row["name"], row["batch"]) for row in found["rows"]]
    assert rows == [(name, b) for b in (1, 8) for name in names]
    assert all(row["calls"] >= 10 and row["memory_mib"] > 20 for row in found["rows"])
    torch, fp32 = found["rows"][:2]
    assert torch["accuracy"]["agreement"] == 1
    assert torch["accuracy"]["relative_l2_mean"] < 1e-5
    parity = json.loads((only_run(delivered) / "export" / "parity.json").read_text())["files"][0]
    assert fp32["accuracy"]["agreement"] == parity["gallery"]["overlap_at_1"]
    assert fp32["accuracy"]["knn_difference"] == parity["task"]["knn_difference"]
    assert (found["baseline"], fp32["relative_speed"]) == (names[1], 1)
    assert found["machine"]["cores"] >= 1
    assert found["threads"] == 1
    assert len(points(ET.parse(delivered / "speed" / "bench.svg"))) == len(found["rows"])


def test_the_table_has_every_row_and_says_how_it_was_measured(delivered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # Not a terminal, so nothing is cut.
    bundle = delivered / "elsewhere"
    shutil.copytree(only_run(delivered) / "export", bundle, dirs_exist_ok=True)
    done = byolt("bench", bundle, "--batch", "2", "--seconds", "0.02", folder=delivered)
    assert done.returncode == 0, done.stderr
    assert "fp32 in ONNX Runtime, CPU" in done.stdout
    assert "fp16 in ONNX Runtime, CPU" in done.stdout
    assert "PyTorch, eager" not in done.stdout
    assert "PyTorch is not timed: the bundle lies in no run's folder; name its run with --run" in done.stderr
    for said in ("p50 ms", "p99 ms", "images/s", "overlap@1", "warm-up: 3 calls", "cores; threads: as each", "memory "):
        assert said in done.stdout


def test_what_is_refused(delivered: Path, tmp_path: Path) -> None:
    assert "no run in runs" in last(byolt("bench", folder=tmp_path), 2)
    assert "holds no bundle" in last(byolt("bench", tmp_path, folder=tmp_path), 2)
    assert "--batch 9: the bundle takes batches of 1 to 8" in last(byolt("bench", "--batch", "9", folder=delivered), 2)
    assert "--batch 1,x: whole numbers" in one_sentence(byolt("bench", "--batch", "1,x", folder=delivered), 2)
    bundle = tmp_path / "bundle"
    shutil.copytree(only_run(delivered) / "export", bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][0]["verdict"] = "failed"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "the speed of wrong outputs says nothing" in last(byolt("bench", bundle, folder=tmp_path), 4)


def test_another_run_is_not_passed_off_as_the_bundles(delivered: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(only_run(delivered), other)
    weights = load_file(other / "encoder.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, other / "encoder.safetensors")
    done = byolt("bench", only_run(delivered) / "export", "--run", other, folder=delivered)
    assert "other is not the run that the bundle was made from" in last(done, 2)


def last(done: Any, code: int) -> str:
    """The sentence of a fault, which comes below the lines on what was being done."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stderr.strip().splitlines()[-1])


def row(name: str, batch: int, images_per_s: float, agreement: float) -> dict[str, Any]:
    accuracy = {"agreement": agreement}
    return {"name": name, "batch": batch, "calls": 9, "images_per_s": images_per_s, "accuracy": accuracy}


def points(plot: Any) -> list[tuple[float, float]]:
    """(x, y) of each point of a plot; those of the legend and the ticks are not clipped to the axes."""
    svg = "{http://www.w3.org/2000/svg}"
    clipped = [group for group in plot.iter(f"{svg}g") if "clip-path" in group.attrib]
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for group in clipped for use in group.iter(f"{svg}use")]


def test_the_plot_places_points_by_speed_and_agreement() -> None:
    rows = [row("a <b> & c", 1, 10, 1.0), row("a <b> & c", 8, 100, 1.0), row("fast", 1, 1000, 0.9)]
    refused = {"name": "absent", "batch": 1, "calls": 0, "accuracy": None}
    found = {"rows": [*rows, refused], "front": [1, 2], "agreement": "overlap@1"}
    plot = ET.fromstring(plot_speed(found))
    x, y = zip(*points(plot), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=1e-3)  # A decade each.
    assert x[0] < x[1] < x[2]
    assert y[0] == y[1] < y[2]  # Downwards in px is less agreement.
    text = [element.text for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert {"overlap@1 with PyTorch against images/s", "\u200aa <b> & c", "\u200afast"} <= set(text)
    assert text.count("8") == 1
    front = [
        p for p in plot.iter("{http://www.w3.org/2000/svg}path") if "stroke-dasharray" in p.attrib.get("style", "")
    ]
    ends = [float(number) for number in re.findall(r"[\d.]+", front[0].attrib["d"])]
    assert ends == pytest.approx([x[1], y[1], x[2], y[2]], abs=1e-3)
    ET.fromstring(plot_speed(found | {"rows": [refused], "front": []}))


def test_without_what_draws_the_numbers_are_written_and_the_line_that_installs_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("byolt.reporting.speed.find_spec", lambda name: None)
    write_speed({"rows": []}, tmp_path / "speed")
    assert [path.name for path in (tmp_path / "speed").iterdir()] == ["bench.json"]
    assert 'no bench.svg: matplotlib is not installed; pip install "byolt[train]"' in capsys.readouterr().err
