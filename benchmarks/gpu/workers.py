"""Steps taken in processes of their own: one that fails, hangs or breaks the GPU's context stops none after it."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.out_folder import Summary
from benchmarks.gpu.settings import CHECKOUT

MODULE = "benchmarks.gpu.items"
START_S, GRACE_S, TAIL_LINES = 90.0, 12.0, 12
"""Seconds for a process to begin its first step; seconds to put away what it has when asked to stop; lines of a log."""
Tell = Callable[[dict[str, Any]], None]


class Worker:
    """A process of ``MODULE`` that takes steps one after the other and tells of each."""

    _all: set["Worker"] = set()  # noqa: RUF012 - one list for the whole process.

    def __init__(self, steps: Sequence[str], settings: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(settings), *steps],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=CHECKOUT,
                env=dict(environment),
                process_group=0,  # So that what it starts ends with it.
            )
        Worker._all.add(self)

    def messages(self, silent_until: Callable[[], float]) -> Iterator[dict[str, Any] | None]:
        """What it tells; None where it told nothing by ``silent_until()``, asked anew each time. Ends when it does."""
        assert self.process.stdout is not None
        pipe, held = self.process.stdout.fileno(), b""
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, silent_until() - time.monotonic()))
            if not ready:
                yield None
                continue
            told = os.read(pipe, 1 << 16)
            if not told:
                self.process.wait()
                return
            *lines, held = (held + told).split(b"\n")
            for line in lines:
                with suppress(json.JSONDecodeError):  # Cut off by a fault of the process, or not ours.
                    yield json.loads(line)

    def ask_to_stop(self) -> None:
        """SIGTERM: the step puts away what it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started."""
        Worker._all.discard(self)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> list[str]:
        """The last lines of what it wrote for people."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line[:400] for line in lines[-TAIL_LINES:]]

    @classmethod
    def kill_all(cls) -> None:
        """End every process that is still there."""
        for worker in list(cls._all):
            worker.kill()


class Workers:
    """Runs steps in processes and writes into the summary how each ended."""

    def __init__(self, summary: Summary, settings: Path, logs: Path, environment: Mapping[str, str]) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.summary, self.settings, self.logs, self.environment = summary, settings, logs, environment
        self._numbers, self._lock, self._over = 0, threading.Lock(), False

    def take(
        self,
        steps: Sequence[str],
        until: float,
        *,
        limit_s: float = float("inf"),
        tell: Tell | None = None,
        gently: bool = False,
    ) -> None:
        """Take ``steps`` in their order, until ``until`` on ``time.monotonic``'s clock.

        Args:
            steps: Names of ``items.ITEMS``, with arguments behind colons.
            until: When the step at hand is ended and the others are left out.
            limit_s: Seconds in which a step has to tell something; one that does not is ended, the others go on.
            tell: Given what a step tells on its way.
            gently: Ask the step at hand to stop first.
        """
        waiting = list(steps)
        while waiting and not self._over:
            if time.monotonic() >= until:
                for step in waiting:
                    self.summary.ended(step, "out of time")
                return
            waiting = self._take_in_one_process(waiting, until, limit_s, tell, gently)

    def stop(self) -> None:
        """End every process, and begin no other."""
        self._over = True
        Worker.kill_all()

    def _take_in_one_process(
        self, waiting: list[str], until: float, limit_s: float, tell: Tell | None, gently: bool
    ) -> list[str]:
        """The steps that are still to be taken when the process has ended, or was."""
        with self._lock:
            self._numbers += 1
            log = self.logs / f"{self._numbers:02d}-{waiting[0].replace(':', '-')}.log"
        worker = Worker(waiting, self.settings, log, self.environment)
        begun, begun_s, heard_s, asked_s = "", time.monotonic(), time.monotonic(), 0.0
        given = len(waiting)

        def silent_until() -> float:
            if asked_s:
                return asked_s + GRACE_S
            return min(until, heard_s + (limit_s if begun else max(limit_s, START_S)))

        try:
            for message in worker.messages(silent_until):
                if message is None:
                    if gently and begun and not asked_s:
                        worker.ask_to_stop()
                        asked_s = time.monotonic()
                        continue
                    break
                heard_s = time.monotonic()
                if message["event"] == "begin":
                    begun, begun_s = message["step"], heard_s
                    self.summary.begins(begun)
                elif message["event"] == "end":
                    self.summary.ended(begun, message["state"], heard_s - begun_s, message["found"])
                    waiting.remove(begun)
                    begun = ""
                elif tell is not None:
                    tell(message["found"])
        finally:
            worker.kill()
        # Where a step broke the GPU its process ends of itself, and the next one takes the others.
        if not self._over and (begun or len(waiting) == given):
            self._note_failure(worker, begun or waiting[0], time.monotonic() - begun_s, until)
            waiting.remove(begun or waiting[0])
        return waiting

    def _note_failure(self, worker: Worker, step: str, took_s: float, until: float) -> None:
        """A step whose process ended within it, or was ended."""
        state = "out of time" if time.monotonic() >= until else "failed"
        ended = f"its process ended with code {worker.process.returncode} after {took_s:.0f} s"
        self.summary.ended(step, state, took_s, {"told": [ended, *worker.tail()]})
