"""All that one GPU has to show, in one call of nine minutes, of which nothing is lost whenever it ends.

    python -m benchmarks.gpu.one_run --pack FOLDER --data ARCHIVE     # where there is a network: what has to be carried
    python -m benchmarks.gpu.one_run --carried FOLDER --out OUT       # where the GPU is, from the checkout's root

Nothing is fetched in the second, and byolt need not be installed. By the clock, in seconds from the start:

- smoke, to 120: one fp32 step on the CPU against the GPU, captured steps against ordinary ones, resume under replay;
  meanwhile the images are unpacked and the compiler's cache is filled;
- measure, to 250: ceilings of the card, the variants of the step, waits, kinds of kernels, lightly's own loop;
- learn, to 500: `recipes/cifar10-gpu.yaml` by the fastest variant that passed, kNN every tenth, a linear probe;
- pack, to 535.

Each step is taken in another process, and one that fails or hangs is noted and left. Where captured steps fail,
learning goes on without a CUDA graph. OUT holds at most 8 files of at most 16 MB at every moment: `summary.json`,
written anew after every step; `run-N.tar.gz`, the run's files and all logs; the encoder in fp16, in parts. docs/gpu.md
tells more.
"""

import argparse
import io
import os
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.out_folder import MOST_BYTES, OutFolder, Summary
from benchmarks.gpu.pack import carried, pack
from benchmarks.gpu.plan import MEASURED, PLAINEST, SMOKE, after_smoke, attempts, captures_well, share_of_ceiling
from benchmarks.gpu.settings import CHECKOUT, Settings
from benchmarks.gpu.workers import Workers

PROBE_S, IMAGES_S, COMPILES = 30.0, 20.0, 1.5
"""Seconds kept for the probe; waited for images to measure on, in whose place generated ones are taken. Times as long
as another has a step that may compile; in as long learning has to tell something."""
LARGEST_LOG = 2_000_000
LEFT_OUT = ("checkpoints", "encoder.safetensors", "images.npz")
"""Of a run's folder: too large, or carried in parts."""


def main() -> int:
    """Pack what has to be carried, or take every step; 0 when none failed."""
    arguments = parse()
    if arguments.pack is not None:
        pack(arguments.pack, arguments.data, arguments.for_python)
        return 0
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _stop)
    with tempfile.TemporaryDirectory(prefix="one-run-", ignore_cleanup_errors=True) as scratch:
        flight = Flight(arguments, Path(scratch))
        try:
            flight.fly()
            flight.summary.note(state="finished")
        except KeyboardInterrupt as stopped:
            flight.summary.note(state=f"stopped by {stopped}" if str(stopped) else "stopped")
        finally:
            for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(name, signal.SIG_IGN)
            flight.workers.stop()
            flight.end()
    tree = flight.summary.tree
    failed = "failed" in [step["state"] for step in tree["steps"].values()] or "faults" in tree
    return int(failed or tree["state"] != "finished")


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.one_run", description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="Write what has to be carried, and end.")
    parser.add_argument("--for-python", default="3.12", help="Python where the GPU is; of --pack.")
    parser.add_argument("--carried", type=Path, metavar="FOLDER", help="What --pack wrote.")
    parser.add_argument("--data", type=Path, help="CIFAR-10's images, an archive or a folder, of train/ and test/.")
    parser.add_argument("--wheels", type=Path, help="Folder of wheels to take packages from, before those here.")
    parser.add_argument("--out", type=Path, help="Folder for what was found: new, or empty.")
    parser.add_argument("--smoke-until", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--measure-until", type=float, default=250.0, metavar="SECONDS")
    parser.add_argument("--learn-until", type=float, default=500.0, metavar="SECONDS")
    parser.add_argument("--until", type=float, default=535.0, metavar="SECONDS", help="The end of all.")
    parser.add_argument("--step-seconds", type=float, default=60.0, help="In which one step has to end.")
    parser.add_argument("--epochs", type=int, default=200, help="Most epochs.")
    parser.add_argument("--matrix", type=int, default=8192, help="Side of the matrices whose product is the ceiling.")
    parser.add_argument("--timed-seconds", type=float, default=2.0, help="Of a variant's timed steps, at least.")
    parser.add_argument("--lightly-seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Of lightly's DataLoader.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="A key of the recipe.")
    parser.add_argument("--tiny", action="store_true", help="A small encoder and few images, to see that all runs.")
    parser.add_argument(
        "--rehearse", action="store_true", help="Take steps that need a GPU on a CPU, where they can be."
    )
    arguments = parser.parse_args()
    if arguments.carried is not None:
        found = carried(arguments.carried)
        arguments.data, arguments.wheels = arguments.data or found.data, arguments.wheels or found.wheels
        arguments.commit = found.commit
    if arguments.data is None or (arguments.pack is None and arguments.out is None):
        parser.error("--data (or --carried) and --out are needed; with --pack, --data")
    return arguments


def _stop(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


class Flight:
    """The steps by the clock. What fails in this process itself is noted too, and the next part begun."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        started_s = time.monotonic()
        self.smoke_s, self.measure_s, self.learn_s, self.until_s = (
            started_s + getattr(arguments, name) for name in ("smoke_until", "measure_until", "learn_until", "until")
        )
        self.scratch, self.logs, self.tiny = scratch, scratch / "logs", arguments.tiny
        self.step_s = arguments.step_seconds
        try:
            out = OutFolder(arguments.out.resolve(), scratch)
        except ValueError as error:
            sys.exit(f"--out: {error}")
        self.summary = Summary(out, {"commit": getattr(arguments, "commit", None), "tiny": arguments.tiny})
        settings = Settings(
            archive=str(arguments.data.resolve()),
            scratch=str(scratch),
            tiny=arguments.tiny,
            rehearse=arguments.rehearse,
            matrix=arguments.matrix,
            timed_s=arguments.timed_seconds,
            lightly_s=arguments.lightly_seconds,
            workers=arguments.workers,
            epochs=arguments.epochs,
            learn_until=self.learn_s - PROBE_S,
            sets=tuple(arguments.set),
        )
        settings.write(scratch / "settings.json")
        environment = environment_of(arguments.wheels, scratch, getattr(arguments, "commit", None))
        self.workers = Workers(self.summary, scratch / "settings.json", self.logs, environment)
        self.attempt: dict[str, Any] = {}
        self.keeping: threading.Thread | None = None
        self.parts, self.kept, self.archive, self.archives = list[str](), 0, "", 0

    def fly(self) -> None:
        """Smoke, measure, learn, pack."""
        images = self.aside(lambda: self.workers.take(["images", "operations"], self.learn_s))
        warm = [f"warm:captured+compiled:{batch}" for batch in (self.batches() or [""])]
        self.aside(lambda: self.workers.take(warm, self.smoke_s))  # Beside a measurement it would be in the way.
        self.guarded(lambda: self.workers.take(SMOKE, self.smoke_s, limit_s=self.step_s))
        captures = captures_well(self.summary)
        self.summary.note(cuda_graph=captures)
        images.join(max(0.0, min(IMAGES_S, self.measure_s - time.monotonic())))
        self.guarded(lambda: self.measure(captures=captures))
        images.join(max(0.0, self.learn_s - PROBE_S - time.monotonic()))
        self.guarded(lambda: self.learn(captures=captures))
        if self.keeping is not None:  # Of the last evaluation on the way.
            self.keeping.join(max(0.0, self.learn_s - time.monotonic()))
        last = self.aside(self.keep_encoder)
        self.guarded(lambda: self.workers.take(["probe"], self.learn_s, limit_s=self.step_s))
        last.join(max(0.0, self.until_s - time.monotonic()))

    def guarded(self, part: Callable[[], None]) -> None:
        """One part; a fault of this process ends it alone."""
        try:
            part()
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next part is begun.
            lines = traceback.format_exc().strip().splitlines()
            self.summary.note(faults=[*self.summary.tree.get("faults", []), lines[-4:]])
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)

    def aside(self, part: Callable[[], None]) -> threading.Thread:
        """The same beside what follows."""
        thread = threading.Thread(target=self.guarded, args=(part,), daemon=True)
        thread.start()
        return thread

    def measure(self, *, captures: bool) -> None:
        """What is measured, as far as the smoke allows it."""
        taken, left_out = after_smoke(MEASURED, self.batches(), captures=captures)
        for step in left_out:
            self.summary.ended(step, "left out", found={"told": ["a captured step failed the smoke"]})
        self.workers.take(taken, self.measure_s, limit_s=COMPILES * self.step_s)
        self.summary.note(share_of_ceiling=share_of_ceiling(self.summary))

    def batches(self) -> list[str]:
        """Batches that are tried beside the recipe's own."""
        return [] if self.tiny else ["1024", "2048", "512"]

    def learn(self, *, captures: bool) -> None:
        """The fastest variant that passed, and when it fails a slower and plainer one."""
        until = self.learn_s - PROBE_S
        order = [PLAINEST]
        # Whatever is wrong with what was measured, learning begins.
        self.guarded(lambda: order.__setitem__(slice(None), attempts(self.summary, captures=captures)))
        self.summary.note(chosen=[plan._asdict() for plan in order])
        for number, plan in enumerate([*order, order[-1]], start=1):  # The plainest one has a second chance.
            epochs = self.attempt.get("epochs", "") if self.attempt.get("evaluated") else ""
            batch = self.attempt["batch_size"] if epochs else plan.batch
            step = f"learn:{plan.variant}:{batch}:{plan.rate}:{epochs}:{number}"
            self.workers.take([step], until, limit_s=COMPILES * self.step_s, tell=self.hear, gently=True)
            if self.summary.state_of(step) == "passed" or time.monotonic() >= until:
                break

    def hear(self, told: dict[str, Any]) -> None:
        """What learning tells on its way; it goes on whatever is wrong with that."""
        self.guarded(lambda: self.heard(told))

    def heard(self, told: dict[str, Any]) -> None:
        """An evaluation is kept, and the run's folder and encoder with it."""
        if "evaluation" in told:
            self.attempt["evaluated"] = True
            self.summary.learning(evaluation=told["evaluation"] | {"elapsed_s": round(self.summary.elapsed_s(), 1)})
            self.keep_run()
            if self.keeping is None or not self.keeping.is_alive():
                self.keeping = self.aside(self.keep_encoder)
        elif "progress" in told:
            self.summary.learning(progress=told["progress"])
        else:
            self.attempt |= told
            self.summary.learning(**told)

    def keep_encoder(self) -> None:
        """The encoder's parts in place of those of the evaluation before."""
        self.kept += 1
        step = f"encoder:{self.kept}"
        self.workers.take([step], self.until_s, limit_s=self.step_s)
        found = self.summary.found(step)
        if not found:
            return
        name = f"encoder-{self.kept}"
        parts = {
            f"{name}.fp16.safetensors.part{number}": (Path(found["folder"]) / part).read_bytes()
            for number, part in enumerate(found["parts"])
        }
        kept = {key: found[key] for key in ("step", "from", "bytes", "sha256")}
        joined = f"cat {' '.join(parts)} > encoder.fp16.safetensors"
        self.summary.put(parts, instead_of=self.parts, encoder=kept | {"join": joined})
        self.parts = list(parts)

    def keep_run(self) -> None:
        """The run's files and all logs as one archive."""
        content = archive_of(self.scratch / "runs", self.logs)
        if len(content) <= MOST_BYTES:
            self.archives += 1
            before, self.archive = self.archive, f"run-{self.archives}.tar.gz"
            self.summary.put({self.archive: content}, instead_of=[before] if before else [])
        else:
            self.summary.note(run=f"not kept: {len(content)} bytes")

    def end(self) -> None:
        """Keep the last state of the run and the logs."""
        for step in list(self.summary.tree["running"]):
            self.summary.ended(step, "stopped")
        self.guarded(self.keep_run)
        self.summary.close()


def environment_of(wheels: Path | None, scratch: Path, commit: str | None) -> dict[str, str]:
    """Where other processes find packages, carried ones before those that are here, and keep what they compile.

    A run writes down its ``commit``, which no copy without ``.git`` knows.
    """
    packages = scratch / "packages"
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        with zipfile.ZipFile(wheel) as archive:  # A zip of what belongs beside the other packages.
            archive.extractall(packages)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    places = [packages, CHECKOUT, CHECKOUT / "toolchain", CHECKOUT / "export", *filter(None, given)]
    compiled = {name: str(scratch / name.lower()) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    compiled |= {"BYOLT_COMMIT": commit} if commit else {}
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONUNBUFFERED": "1"} | compiled


def archive_of(runs: Path, logs: Path) -> bytes:
    """A tar.gz of the runs' files, without the large ones, and of the logs."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(path for root in (runs, logs) for path in root.rglob("*")):
            if not path.is_file() or any(part in LEFT_OUT for part in path.parts):
                continue
            try:
                held = path.read_bytes()[-LARGEST_LOG:]  # At once: it may grow, or go, meanwhile.
            except OSError:
                continue
            entry = tarfile.TarInfo(str(path.relative_to(runs.parent)))
            entry.size, entry.mtime = len(held), time.time()
            archive.addfile(entry, io.BytesIO(held))
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
