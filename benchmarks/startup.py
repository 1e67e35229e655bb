"""Time until byolt works: to the end of `--help`, and of a cached set's first training step; beside peers' imports.

Every figure is the wall time of a fresh process on a warm disk, from before it is made, with its CPU time beside it;
the rounds are interleaved, so that all see the same noise, and a round before them compiles all sources. The first step
is that of the real command, `byolt pretrain RECIPE`, with nothing hooked in: it logs each step
(machine.log_every_steps=1), and the clock stops when `metrics.jsonl` holds its first line, which the process then does
not outlive. So the time holds all that a user waits for: the recipe, the cache, the view grid, the checkpoint of step 0
and what the first line measures.

The imports that are used are found, not chosen: `python -X importtime` of that same command says which modules of other
packages byolt's files, or calls into those packages, import by then. A bare process that imports exactly these, in that
order, is the floor: no program that uses them is quicker. Above it stand byolt's own modules (the floor and then these,
without the floor) and then the work up to the end of the first step; each is a median of differences within a round.
A package among them that need not be there would flatter byolt: tests/test_imports.py says which may not.

Peers are timed importing what their BYOL needs, before any work of their own. What is not installed is said to be so.

    python benchmarks/startup.py --rounds 5 [--solo FOLDER]      # FOLDER holds solo-learn's package `solo`
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from byolt import __version__
from byolt.environment import environment

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml"
PEERS = {  # What each one's own example of BYOL imports; lightly-train has no BYOL, its face is taken.
    "lightly": "import lightly.loss, lightly.models.modules, lightly.models.utils, lightly.transforms",
    "lightly_train": "import lightly_train",
    "byol_pytorch": "import byol_pytorch",
    "solo": "import solo.methods",
}
# Ends a program as the first step is ended: what an interpreter takes to clear up is no part of a start.
AT_ONCE = "import os; os._exit(0)"
POLL_S, GIVE_UP_S = 0.005, 300.0
HELP, FLOOR, IMPORTS, STEP = "help", "floor", "imports", "step"


class Cost(NamedTuple):
    """What a process took, in seconds."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Parse, find the imports, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="A recipe whose images lie here.")
    parser.add_argument("--solo", type=Path, help="The folder that holds solo-learn's package `solo`.")
    arguments = parser.parse_args()
    if arguments.solo is not None:
        sys.path.append(str(arguments.solo))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(arguments.solo))))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Set, each process would compile all sources anew.
    with tempfile.TemporaryDirectory() as folder:
        first_step = FirstStep(arguments.recipe.resolve(), Path(folder))
        first_step()  # Decodes the images into the cache.
        used, own = imported(first_step.told_imports())
        clocks: dict[str, Callable[[], Cost]] = {
            HELP: lambda: cost("-m", "byolt", "--help"),
            FLOOR: lambda: cost("-c", importing(used)),
            IMPORTS: lambda: cost("-c", importing([*used, *own])),
            STEP: first_step,
        }
        present = {name: lines for name, lines in PEERS.items() if importlib.util.find_spec(name)}
        for name, line in present.items():
            clocks[name] = lambda line=line: cost("-W", "ignore", "-c", f"{line}\n{AT_ONCE}")  # type: ignore[misc]
        for clock in clocks.values():
            clock()  # Warm-up: compiled files, and the disk's cache.
        rounds = [{name: clock() for name, clock in clocks.items()} for _ in range(arguments.rounds)]
    packages = sorted({name.partition(".")[0] for name in used})
    print(f"{environment()['processor']}, {arguments.rounds} rounds, {arguments.recipe.name}\n")
    print_table(rounds, [name for name in PEERS if name not in present])
    print(f"\nimported by the end of the first step: {', '.join(packages)}")


def print_table(rounds: list[dict[str, Cost]], absent: list[str]) -> None:
    """A row a figure, medians and spread over the rounds, with byolt's targets."""

    def row(what: str, upper: str, target: str = "", lower: str | None = None) -> None:
        base = [Cost(0, 0) if lower is None else one[lower] for one in rounds]
        wall = [one[upper].wall_s - floor.wall_s for one, floor in zip(rounds, base, strict=True)]
        cpu_s = statistics.median(one[upper].cpu_s - floor.cpu_s for one, floor in zip(rounds, base, strict=True))
        spread = f"{min(wall):.2f} to {max(wall):.2f}"
        print(f"| {what} | {statistics.median(wall):.2f} | {spread} | {cpu_s:.2f} | {target} |")

    print("| what | wall s, median | min to max | CPU s, median | target, wall s |")
    print("|---|---|---|---|---|")
    row("`byolt --help`", HELP, "0.3")
    row("`byolt pretrain`, to the end of the first step", STEP)
    row("the imports that it uses, alone", FLOOR)
    row("beyond those, byolt's own modules", IMPORTS, "0.5", lower=FLOOR)
    row("beyond all imports, to the end of the first step", STEP, "2", lower=IMPORTS)
    for name in PEERS:
        if name in absent:
            print(f"| import of {name} | not installed | | | |")
        else:
            row(f"import of {name}", name)


def cost(*words: str) -> Cost:
    """Of a Python process that does ``words``."""
    before_s, started_s = children_cpu_s(), time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"python {' '.join(words)}: {done.stderr[-2000:]}")
    return Cost(time.perf_counter() - started_s, children_cpu_s() - before_s)


def children_cpu_s() -> float:
    """CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def importing(modules: list[str]) -> str:
    """A program that imports ``modules`` in their order."""
    return f"from importlib import import_module\nfor name in {modules!r}: import_module(name)\n{AT_ONCE}"


class FirstStep:
    """The real command, ended when it has logged its first step."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        self.recipe, self.folder, self.runs = recipe, folder, 0

    def __call__(self, *options: str, stderr: Path | None = None) -> Cost:
        """From before the process to the first line of metrics.jsonl; ``options`` are the interpreter's."""
        self.runs += 1
        runs_dir, stderr = self.folder / f"runs-{self.runs}", stderr or self.folder / "stderr"
        sets = (f"machine.runs_dir={runs_dir}", f"data.cache_dir={self.folder / 'cache'}", "machine.log_every_steps=1")
        words = [word for key in sets for word in ("--set", key)]
        command = [sys.executable, *options, "-m", "byolt", "pretrain", str(self.recipe), *words]
        before_s, started_s = children_cpu_s(), time.perf_counter()
        with open(stderr, "wb") as told, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told) as process:
            try:
                while not any(log.stat().st_size for log in runs_dir.glob("*/metrics.jsonl")):
                    if process.poll() is not None or time.perf_counter() - started_s > GIVE_UP_S:
                        sys.exit(f"no first step: {stderr.read_text(encoding='utf-8')[-2000:]}")
                    time.sleep(POLL_S)
                wall_s = time.perf_counter() - started_s
            finally:
                process.kill()
        return Cost(wall_s, children_cpu_s() - before_s)

    def told_imports(self) -> str:
        """What the interpreter says of each import up to the first step."""
        told = self.folder / "imports"
        self("-X", "importtime", stderr=told)
        return told.read_text(encoding="utf-8")


def imported(told: str) -> tuple[list[str], list[str]]:
    """Modules of other packages that were imported from byolt's or at run time, and byolt's own; in their order.

    What another package imports for itself follows from its name. The standard library is in neither list: what of it
    byolt alone needs is byolt's to answer for.

    Args:
        told: The interpreter's lines, a module after all those that its import brought, indented by depth.
    """
    used: list[str] = []
    own: list[str] = []
    above: list[str] = []  # The modules that the present one was imported by, outermost first.
    for line in reversed([line for line in told.splitlines() if line.startswith("import time:") and "|" in line]):
        indented = line.rpartition("|")[2][1:]
        name = indented.strip()
        if name == "imported package":
            continue
        del above[(len(indented) - len(name)) // 2 :]
        top, by = name.partition(".")[0], above[-1].partition(".")[0] if above else ""
        above.append(name)
        if top in ("byolt", "byolt_export"):
            own.append(name)
        elif top not in sys.stdlib_module_names and by in ("", "byolt", "byolt_export"):
            # The interpreter tells of those that were looked for in vain too.
            used += [name] if importlib.util.find_spec(top) else []
    return used[::-1], own[::-1]


if __name__ == "__main__":
    print(f"byolt {__version__}", end=", ")
    main()
