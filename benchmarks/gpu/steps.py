"""Commands taken one after the other on a machine that is lent for minutes: one that fails stops none of the others."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STOP_S = 30.0
"""Seconds for a command to put away what it has, once its time is over."""


class Steps:
    """Python processes that print JSON, each kept in a file of its own, within one time for all of them."""

    def __init__(self, out: Path, minutes: float = float("inf")) -> None:
        """``out`` is made; ``minutes`` are counted from here."""
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.ends_s = out, time.monotonic() + 60 * minutes
        self.taken: list[tuple[str, int, float, str]] = []

    def left_s(self) -> float:
        """Seconds until the time for all is over."""
        return self.ends_s - time.monotonic()

    def take(self, name: str, *words: object, limit_s: float = float("inf")) -> dict[str, Any] | None:
        """What Python found by ``words``; ``None`` when it found nothing. Its words of failure stay with the step.

        A command is asked to stop (SIGTERM) after ``limit_s``, or when the time for all is over.
        """
        started_s = time.monotonic()
        command = [sys.executable, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            given_s = max(1.0, min(limit_s, self.left_s()))
            try:
                stdout, stderr = process.communicate(timeout=None if given_s == float("inf") else given_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    stdout, stderr = process.communicate(timeout=STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    stdout, stderr = process.communicate()
                stderr += f"\nstopped after {given_s:.0f} s"
        told = (stderr.strip().splitlines() or [""])[-1] if process.returncode else ""
        self.note(name, process.returncode, time.monotonic() - started_s, told)
        try:
            found: dict[str, Any] = json.loads(stdout)
        except json.JSONDecodeError:
            return None
        (self.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        return found

    def byolt(self, name: str, *words: object, limit_s: float = float("inf")) -> dict[str, Any] | None:
        """``take`` of one of byolt's commands."""
        return self.take(name, "-m", "byolt", *words, "--json", limit_s=limit_s)

    def note(self, name: str, code: int, seconds: float, told: str) -> None:
        """Keep how a step ended, and say so."""
        self.taken.append((name, code, seconds, told))
        print(f"{name}: exit {code}, {seconds:.0f} s {told}", flush=True)

    def end(self, *tables: list[str]) -> int:
        """Write ``summary.md``: how each step ended, and ``tables``; the exit code of the whole."""
        lines = ["| step | exit | seconds | told |", "|---|---|---|---|"]
        lines += [f"| {name} | {code} | {seconds:.0f} | {told} |" for name, code, seconds, told in self.taken]
        for table in tables:
            lines += ["", *table]
        (self.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))
        # What is not installed here (5) is no failure of what was to be shown.
        return int(any(code not in (0, 5) for _, code, _, _ in self.taken))
