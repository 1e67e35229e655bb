"""What stderr shows while a run learns and images are decoded: one live line, or plain lines now and then."""

import logging
from io import StringIO

import pytest
from rich.console import Console

from byolt.console.progress import Progress
from byolt.console.status import StatusHandler
from byolt.training.logger import LogRecord


def record(step: int, **evaluation: float) -> LogRecord:
    return LogRecord(step, 100, 1, 10, 16.0, 0.0, 5.0, {"loss": 1.0, "z_std_ratio": 0.5}, evaluation)


def test_without_a_terminal_a_line_comes_every_15_s_and_at_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    shown = StringIO()
    with Progress(Console(file=shown)) as show:
        for step, seconds in ((10, 1), (20, 1), (30, 14.5), (90, 1), (100, 1), (100, 1)):  # Its evaluation last.
            now_s += seconds
            show(record(step))
    assert [line.split()[3] for line in shown.getvalue().splitlines()] == ["10/100", "30/100", "100/100"]


def test_in_a_terminal_one_line_is_renewed_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    with Progress(Console(file=shown, force_terminal=True, width=200)) as show:
        assert shown.getvalue() == ""  # Decoding comes before the first record, and has a line of its own.
        show(record(10))
        show.live.refresh()
        assert shown.getvalue().count("\n") == 0
        assert "step 10/100" in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[2K")


def logged(handler: logging.Handler, text: str, share: float | None) -> None:
    one = logging.LogRecord("byolt", logging.INFO, "", 0, text, None, None)
    if share is not None:
        one.share = share
    handler.emit(one)


def test_what_is_logged_of_progress_is_one_line_in_a_terminal_and_few_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = StatusHandler()
    for text, share in (("1/3", 1 / 3), ("2/3", 2 / 3), ("left out: a.png", None), ("3/3", 1.0), ("1/2", 1 / 2)):
        logged(handler, text, share)
    assert capsys.readouterr().err == "1/3\nleft out: a.png\n3/3\n1/2\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for number in (1, 2, 3):
        logged(handler, f"{number}/3", number / 3)
    assert capsys.readouterr().err == "\r\x1b[K1/3\r\x1b[K2/3\r\x1b[K3/3\n"
