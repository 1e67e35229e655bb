"""Thousands of damaged bundles, each of which is refused in one sentence or changes nothing.

    python -m tests.cpp.fuzz_bundles --count 10000 [--bundle DIR] [--program build/fuzz_bundle]
    python -m tests.cpp.fuzz_bundles --only INDEX --keep DIR

Each variant is drawn from the seed and its own number alone, so `--only` makes one of them again. Two readers are
asked: Python's `verify_bundle` in this process, without ONNX Runtime, and with ``--program`` the C++ library, through
the program `fuzz_bundle`: it reads folders from stdin and answers each with one line, ``ok NAME=DIGEST ...`` (of the
output of each file for a fixed image, after the proof passed) or ``refused CODE SENTENCE``.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.cpp.damages import Damage, Variant, damage
from tests.cpp.readers import Answer, ProgramReader, PythonReader, Reader

_LONGEST = 5000  # Characters: a verdict names every measure of every file that it breaks.


@dataclass(frozen=True)
class Finding:
    """A variant that was answered as none may be."""

    index: int
    damage: Damage
    reader: str
    fault: str

    def __str__(self) -> str:
        return f"variant {self.index} ({self.damage.kind}), {self.reader}: {self.fault}"


def variant(whole: Path, scratch: Path, seed: int, index: int) -> tuple[Path, Damage]:
    """Make one variant in ``scratch``, beside the folder ``outside``."""
    made = Variant(whole, scratch / f"variant-{index}", scratch / "outside", random.Random(f"{seed} {index}"))
    return made.folder, damage(made)


def fuzz(
    whole: Path, scratch: Path, readers: Iterable[Reader], indices: Iterable[int], seed: int, counts: Counter[str]
) -> Iterator[Finding]:
    """Ask every reader about every variant; ``counts`` gets the kinds of damage and how often each was refused."""
    shutil.copytree(whole, scratch / "outside")
    shutil.copytree(whole, scratch / "whole")  # Links do not cross file systems.
    readers = list(readers)
    expected = {reader.name: reader.ask(scratch / "whole") for reader in readers}
    for name, answer in expected.items():
        if not answer.accepted:
            raise SystemExit(f"{name} refuses the whole bundle: {answer.text or answer.accident}")
    for index in indices:
        folder, done = variant(scratch / "whole", scratch, seed, index)
        counts[done.kind] += 1
        for reader in readers:
            answer = reader.ask(folder)
            counts[f"{done.kind}, refused by {reader.name}"] += not answer.accepted
            if fault := judge(answer, expected[reader.name], done, runs=reader.runs):
                yield Finding(index, done, reader.name, fault)
        shutil.rmtree(folder)


def judge(answer: Answer, whole: Answer, done: Damage, *, runs: bool) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if answer.accident:
        return answer.accident
    if answer.outside:
        return f"it read {answer.outside}"
    if answer.accepted:
        if done.told == "reader" or (done.told == "runner" and runs):
            return "it was accepted"
        # A manifest may name fewer files.
        if not done.sealed and not set(answer.text.split()) <= set(whole.text.split()):
            return f"it was accepted with other outputs: {answer.text}, not {whole.text}"
        return ""
    sentence = answer.text
    if not sentence.strip() or not sentence.isprintable():
        return f"it was refused, but not in one line of plain text: {sentence!r}"
    return f"it was refused in {len(sentence)} characters: {sentence[:200]}..." if len(sentence) > _LONGEST else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a whole bundle; left out, a small one is made")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="INDEX", help="this variant alone")
    parser.add_argument("--program", type=Path, help="fuzz_bundle, built with the C++ library")
    parser.add_argument("--trace", action="store_true", help="run the program under strace, to see each file it opens")
    parser.add_argument("--no-python", action="store_true", help="ask the C++ library alone")
    parser.add_argument("--keep", type=Path, help="a folder for the variants that were answered wrongly")
    given = parser.parse_args()
    indices = range(given.count) if given.only is None else [given.only]
    counts: Counter[str] = Counter()
    findings = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        whole = given.bundle or _small_bundle(scratch / "small")
        readers: list[Reader] = [] if given.no_python else [PythonReader()]
        if given.program is not None:
            readers.append(stack.enter_context(ProgramReader(given.program, scratch / "log", trace=given.trace)))
        for finding in fuzz(whole, scratch, readers, indices, given.seed, counts):
            print(finding, flush=True)
            findings.append(finding)
            if given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                variant(scratch / "whole", given.keep, given.seed, finding.index)
    _print_table(counts, [reader.name for reader in readers])
    total = len(indices)
    failed = len({finding.index for finding in findings})
    print(f"{total - failed} passed, {failed} failed")
    sys.exit(bool(findings))


def _small_bundle(folder: Path) -> Path:
    """Made by another process: this one must not have loaded ONNX Runtime."""
    subprocess.run([sys.executable, "-m", "tests.export.small", str(folder)], check=True)
    return folder


def _print_table(counts: Counter[str], readers: list[str]) -> None:
    kinds = sorted(kind for kind in counts if ", refused by " not in kind)
    print(f"{'damage':<32} {'variants':>8}  " + "  ".join(f"refused by {reader}" for reader in readers))
    for kind in kinds:
        cells = [f"{counts[f'{kind}, refused by {reader}']:>{len(reader) + 11}}" for reader in readers]
        print(f"{kind:<32} {counts[kind]:>8}  " + "  ".join(cells))


if __name__ == "__main__":
    main()
