"""Tries the mutations and prints the table."""

import difflib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutations import MUTATIONS, ROOT, Mutation
from tests.mutations.trial import CAUGHT, CRASHED, SURVIVED, run

_LONGEST_S = 600  # Of one trial: a wrong formula may never end.
# Each trial is forked from a process that has imported what takes seconds.
_PROCESSES = multiprocessing.get_context("forkserver")
_LIBRARIES = ["torch", "torchvision", "timm", "scipy.stats", "sklearn.linear_model", "onnx", "pytest"]


class Outcome(NamedTuple):
    """What the tests say of one mutation: caught, CRASHED or SURVIVED, by which test, and the exception it raised."""

    verdict: str
    test: str
    why: str


def main() -> int:
    """Try each mutation, print the table, and count those that no assertion caught; then the tests without any."""
    wanted = sys.argv[1:]
    known = [mutation.name for mutation in MUTATIONS]
    if unknown := [name for name in wanted if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        print(f"no mutation {unknown[0]!r}; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}")
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    _PROCESSES.set_forkserver_preload(_LIBRARIES)
    chosen = [mutation for mutation in MUTATIONS if not wanted or mutation.name in wanted]
    print(f"{'wrong formula':<48}{'file':<26}{'verdict':<10}first test that fails: why")
    missed, named = list[str](), set[str]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Each waits for a process of its own.
        for mutation, outcome in zip(chosen, pool.map(_try_out_twice, chosen), strict=True):
            said = f"{outcome.test}: {outcome.why}"
            row = f"{mutation.name:<48}{Path(mutation.file).name:<26}{outcome.verdict:<10}{said[:220]}"
            print(row, flush=True)
            if outcome.verdict == CAUGHT:
                named.add(outcome.test)
            else:
                missed.append(row)
        parts = [sorted(named)[k :: os.cpu_count()] for k in range(os.cpu_count() or 1)]
        controls = [outcome for outcome in pool.map(control, filter(None, parts)) if outcome.verdict != SURVIVED]
    for outcome in controls:
        print(f"without any mutation too: {outcome.test}: {outcome.why}")
    print(f"{len(chosen)} mutations, {len(missed)} not caught by an assertion on a value", *missed, sep="\n")
    return 1 if missed or controls else 0


def _try_out_twice(mutation: Mutation) -> Outcome:
    """A fault of the machine, of memory or below Python, is none of the mutation's: what was missed is tried again."""
    first = try_out(mutation)
    if first.verdict == CAUGHT:
        return first
    second = try_out(mutation)
    return second._replace(why=f"{second.why} (at first {first.verdict}: {first.test}: {first.why})")


def try_out(mutation: Mutation) -> Outcome:
    """Run the mutation's tests on a copy of the sources that holds it."""
    with tempfile.TemporaryDirectory() as folder:
        source = _copy(Path(folder)) / mutation.file
        text = source.read_text(encoding="utf-8")
        assert text.count(mutation.right) == 1, (
            f"{mutation.name}: {mutation.right!r} stands {text.count(mutation.right)} times"
        )
        source.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
        return _trial(Path(folder), mutation.module, [mutation.tests])


def control(tests: Sequence[str]) -> Outcome:
    """Run tests that caught a mutation on the sources as they are: one that fails there too has caught nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return _trial(_copy(Path(folder)), "byolt", tests)


def _copy(folder: Path) -> Path:
    """The sources, with their compiled code: what is unchanged need not be compiled again."""
    for part in ("toolchain", "export", "tests", "recipes", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("cpp"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def _trial(copy: Path, module: str, tests: Sequence[str]) -> Outcome:
    outcome = copy / "outcome.json"
    process = _PROCESSES.Process(target=run, args=(copy, module, tests, outcome))
    process.start()
    process.join(_LONGEST_S)
    if process.is_alive():
        process.kill()
        return Outcome(CRASHED, "-", f"the tests did not end in {_LONGEST_S} s")
    if not outcome.exists():  # A fault below Python.
        return Outcome(CRASHED, "-", f"the tests ended with exit code {process.exitcode}")
    return Outcome(**json.loads(outcome.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
