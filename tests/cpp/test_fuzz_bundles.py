"""The fuzzer on a few hundred variants: it finds nothing in the reader as it is, and tells planted faults."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.cpp.damages import Damage
from tests.cpp.fuzz_bundles import judge, variant
from tests.cpp.readers import Answer
from tests.export import small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.build(tmp_path_factory.mktemp("fuzzed") / "bundle", precisions=("fp32", "fp16")).path


def run(bundle: Path, *arguments: str, plant: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own: the fuzzer limits its memory, and shuts ONNX Runtime out."""
    script = f"import sys; {plant}\nfrom tests.cpp.fuzz_bundles import main; main()"
    command = [sys.executable, "-c", script, "--bundle", str(bundle), *arguments]
    path = f"{ROOT / 'toolchain'}:{ROOT / 'export'}:{ROOT}"
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": path}, cwd=ROOT)


def test_every_variant_is_refused_or_harmless(bundle: Path) -> None:
    done = run(bundle, "--count", "300", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "300 passed, 0 failed"


@pytest.mark.full
def test_ten_thousand_variants(bundle: Path) -> None:
    done = run(bundle, "--count", "10000")
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {
    "digests are not compared": "import byolt_export.bundle.folder as b; b.sha256 = lambda path: type('Any', (str,), "
    "{'__ne__': lambda *_: False})()",
    "links are followed": "from pathlib import Path; Path.is_symlink = lambda self: False",
    "a name may be a path": "import byolt_export.proof.verify as v; read = v.read_manifest\n"
    "v.read_manifest = lambda folder: read(folder.parent / 'whole')",
    "an error of the library comes through": "import byolt_export.bundle.golden as b; "
    "b.SafetensorError = ZeroDivisionError",
    "numbers that are none are taken": "import types, numpy, byolt_export.bundle.golden as b\n"
    "b.np = types.SimpleNamespace(**{**vars(numpy), 'isfinite': lambda array: numpy.ones_like(array, bool)})",
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_of_the_reader_is_found(fault: str, bundle: Path) -> None:
    done = run(bundle, "--count", "200", plant=PLANTED[fault])
    assert re.search(r"\d+ passed, [1-9]\d* failed$", done.stdout.strip()), done.stdout + done.stderr
    assert done.returncode == 1


def test_a_variant_is_drawn_from_its_number_alone(bundle: Path, tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for index in range(60):
        made = []
        for place in ("one", "two"):
            (tmp_path / place).mkdir(exist_ok=True)
            folder, done = variant(bundle, tmp_path / place, 7, index)
            files = [path for path in folder.iterdir() if path.is_file() and path.stat().st_size < 1e7]
            made.append((done, {path.name: path.read_bytes() for path in files}))
        assert made[0] == made[1]
        kinds[done.kind.partition(":")[0]] += 1
    assert len(kinds) >= 8


@pytest.mark.parametrize(
    ("answer", "damage", "fault"),
    [
        (Answer(False, "manifest.json is damaged"), Damage("k", "reader"), ""),
        (Answer(True, "a"), Damage("k", ""), ""),
        (Answer(True, "b"), Damage("k", "", sealed=True), ""),
        (Answer(True, "a"), Damage("k", "reader"), "it was accepted"),
        (Answer(True, "a"), Damage("k", "runner"), "it was accepted"),
        (Answer(True, "b"), Damage("k", ""), "it was accepted with other outputs: b, not a"),
        (Answer(False, "one\ntwo"), Damage("k", ""), "not in one line"),
        (Answer(False, "\x1b[31mred"), Damage("k", ""), "not in one line"),
        (Answer(False, " "), Damage("k", ""), "not in one line"),
        (Answer(False, "x" * 6000), Damage("k", ""), "in 6000 characters"),
        (Answer(False, "fine", accident="it ended with -11"), Damage("k", ""), "it ended with -11"),
        (Answer(False, "fine", outside="/etc/passwd"), Damage("k", ""), "it read /etc/passwd"),
    ],
)
def test_answers_are_judged(answer: Answer, damage: Damage, fault: str) -> None:
    said = judge(answer, Answer(True, "a"), damage, runs=True)
    assert fault in said if fault else said == ""
