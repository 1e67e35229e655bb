"""Tries the mutations and prints the table."""

import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations import MUTATIONS, ROOT, Mutation


def main() -> int:
    """Try each mutation, print the table, and count survivors."""
    wanted = sys.argv[1:]
    known = [mutation.name for mutation in MUTATIONS]
    if unknown := [name for name in wanted if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        print(f"no mutation {unknown[0]!r}; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}")
        return 2
    survivors, chosen = 0, [mutation for mutation in MUTATIONS if not wanted or mutation.name in wanted]
    print(f"{'wrong formula':<44}{'file':<18}{'caught':<10}first test that fails")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Each waits for a process of its own.
        for mutation, failing in zip(chosen, pool.map(first_failing_test, chosen), strict=True):
            survivors += failing is None
            verdict = "yes" if failing else "SURVIVED"
            print(f"{mutation.name:<44}{Path(mutation.file).name:<18}{verdict:<10}{failing or '-'}", flush=True)
    print(f"{len(chosen)} mutations, {survivors} survived")
    return 1 if survivors else 0


def first_failing_test(mutation: Mutation) -> str | None:
    """The id of the first test that fails on the mutated sources, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("toolchain", "export", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "cpp"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        source = copy / mutation.file
        text = source.read_text(encoding="utf-8")
        assert text.count(mutation.right) == 1, (
            f"{mutation.name}: {mutation.right!r} stands {text.count(mutation.right)} times"
        )
        source.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not full and not gpu"]
        paths = f"{copy / 'toolchain'}:{copy / 'export'}"
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, mutation.tests], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode == 0:
        return None
    assert failed, f"{mutation.name}: the tests did not run:\n{done.stdout[-2000:]}"
    return failed[0].removeprefix("FAILED ").split(" - ")[0]


if __name__ == "__main__":
    sys.exit(main())
