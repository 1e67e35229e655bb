"""Tables in a terminal of any width: no line is wider, and no cell is cut or broken."""

import re
from typing import Any

import pytest
from rich.cells import cell_len

from byolt.console.summary import print_parity
from byolt.console.tables import WIDTH, print_table
from byolt.reporting.speed import print_speed

PARITY: dict[str, Any] = {
    "golden": {"relative_l2_mean": 3.94e-7, "relative_l2_worst": 4.1e-7, "overlap_at_1": 1.0},
    "gallery": None,
    "agreement": {"overlap_at_1": {"value": 0.9667, "interval_95": [0.9412, 1.0]}},
    "remarks": ["overlap at 1 is close"],
    "task": {"knn_difference": -0.0125, "knn_interval_95": [-0.03, 0.005]},
    "controls": [{"state": "fails"}] * 7 + [{"state": "not noticed"}, {"state": "not applicable"}],
    "verdict": "not run here",
    "reasons": [],
}
FILES = (
    {"name": "encoder.onnx", "provider": "CPUExecutionProvider"} | PARITY,
    {"name": "encoder.int8-openvino.onnx", "provider": "OpenVINOExecutionProvider"} | PARITY,
)
SPEED: dict[str, Any] = {
    "rows": [
        {
            "name": "encoder.int8-cpu.onnx, CPU",
            "batch": 32,
            "calls": 9,
            **{f"latency_ms_p{share}": 1234.5 for share in (50, 90, 99)},
            "images_per_s": 12345.0,
            "relative_speed": 1.5,
            "relative_speed_range": [1.25, 1.75],
            "memory_mib": 123.4,
            "file_mib": 12.3,
            "accuracy": {
                "agreement": 1.0,
                "relative_l2_mean": 4e-7,
                "knn_difference": 0.01,
                "knn_interval_95": [-0.01, 0.02],
            },
        }
    ],
    "front": [0],
    "agreement": "overlap@1",
    "machine": {"processor": "a processor", "cores": 2},
    "threads": None,
    "rounds": 3,
    "seconds": 1.0,
    "warm_up": "3 calls",
    "baseline": "encoder.onnx, CPU",
    "memory": "resident",
}


@pytest.mark.parametrize("columns", [None, "80", "60", "40", "200"])
def test_no_line_is_wider_and_no_cell_is_cut(
    columns: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    width = WIDTH if columns is None else int(columns)
    arms = [["byol", "91.1 +/- 0.3 [90.0, 92.2]", "91.1 91.2 91.3 90.9 91.0", "finished", "method.tau_base=0.99"]] * 2
    print_table(["arm", "mean +/- std [95 % interval]", "each seed", "state", "sets"], arms, title="Without labels")
    print_table(["1000 test images", "kNN, k = 20"], [["where learning started", "98.0%  [97.0%, 98.8%]"]])
    print_table(["\u4e2d\u6587 images", "b"], [])
    print_parity({"files": FILES})
    print_speed(SPEED)
    text = capsys.readouterr().out
    others = r"(machine|timed|speed|memory|kept|kNN|controls|close|\*  ) "
    tables = [line for line in text.splitlines() if not re.match(others, line)]
    assert max(cell_len(line.rstrip()) for line in tables) <= width
    whole = ("98.0%  [97.0%, 98.8%]", "method.tau_base=0.99", "not run here", "encoder.int8-openvino.onnx", "3.9e-07")
    for cell in (
        *whole,
        "1234.50",
        "12345",
        "1.50x (1.25-1.75)",
        "+1.00 (-1.00 to +2.00)",
        "91.1 +/- 0.3 [90.0, 92.2]",
    ):
        assert cell in text, cell
    for cut in ("\u2026", "rel. L2 m\n", "run...", "..."):
        assert cut not in text


def test_a_table_keeps_its_rows_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a long heading of words", "n"], [["x", "1"], ["y", "22"]], numbers=["n"])
    heading, first, second = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert heading == "a long heading of words   n"
    assert first == f"x{'':<22}   1"
    assert second == f"y{'':<22}  22"


def test_a_row_without_room_becomes_a_block(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_table(["file", "mean", "worst", "why"], [["encoder.onnx", "1e-7", "2e-7", "a b c d e f g h i j k l"]])
    assert capsys.readouterr().out.splitlines() == [
        "file",
        "encoder.onnx",
        "  mean: 1e-7; worst: 2e-7",
        "  why: a b c d e f g h i j k l",
    ]


def test_the_table_of_parity_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_parity({"files": FILES[:1]})
    heading, row, kept, knn, controls, close = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert heading.split() == ["file", "run", "by", "rel.", "L2", "mean", "worst", "overlap@1", "verdict"]
    assert row.split() == [
        "encoder.onnx",
        "CPU",
        "3.9e-07",
        "4.1e-07",
        "96.7%",
        "not",
        "run",
        "here",
    ]
    assert kept == "kept     encoder.onnx (CPU): 96.7% [94.1, 100.0] of nearest neighbours"
    assert knn == "kNN      encoder.onnx (CPU): -1.25 points [-3.00, +0.50]"
    assert controls == "controls encoder.onnx (CPU): 7 of 8 wrong models noticed"
    assert close == "close    encoder.onnx (CPU): overlap at 1 is close"


def test_the_table_says_what_is_slower_than_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    timed = [{"batch": 1, "times_fp32": 9.0}, {"batch": 8, "times_fp32": 0.7125}]
    names = ("encoder.int8.onnx", "encoder.int8-cpu.onnx")
    slow, fast = ({**FILES[0], "name": name, "verdict": "passed", "speeds": timed} for name in names)
    fast["speeds"] = [{"batch": 8, "times_fp32": 2.61}]
    print_parity({"files": [slow, fast, FILES[0]]})
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line.startswith(("encoder", "speed"))]
    assert "fp32" in " ".join(lines[: lines.index(rows[0])])
    assert [row.split()[5:7] for row in rows[:3]] == [["0.71", "passed"], ["2.6", "passed"], ["-", "not"]]
    assert max(cell_len(row) for row in rows[:3]) <= 80
    assert [row for row in rows if row.startswith("speed")] == [
        "speed    encoder.int8.onnx (CPU): slower than fp32 here, 0.71 x"
    ]
