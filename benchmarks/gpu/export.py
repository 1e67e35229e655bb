"""What only a GPU shows of an export, in one call: do the engines compute what PyTorch computes, and how fast?

    python benchmarks/gpu/export.py --out OUT                          # learns the quickstart's encoder first
    python benchmarks/gpu/export.py --out OUT --run runs/stl10-1234    # an encoder that is there

Steps: the machine (`byolt doctor`), the bundle in three precisions, an engine of each for this GPU where a TensorRT is
installed, parity on every provider of ONNX Runtime that works here and of each engine, then latency with accuracy
beside it over a grid of batches, PyTorch eager and compiled too. A step that fails is noted and the next is taken. OUT
gets one JSON file a step, the bench's plot, and `summary.md`, which goes into docs/results.md as it is.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCHES = "1,8,32,64"


def main() -> int:
    """Take the steps; 0 when parity passed and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for what was found.")
    parser.add_argument("--run", type=Path, help="A finished run; left out, the quickstart's is learned.")
    parser.add_argument("--seconds", type=float, default=2.0, help="Timed seconds a candidate and batch size.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    steps = Steps(arguments.out)
    steps.take("doctor", "doctor")
    run = arguments.run
    if run is None:
        learned = steps.take("pretrain", "pretrain", "recipes/quickstart.yaml")
        run = Path(learned["run"]) if learned else None
    if run is None:
        return steps.end()
    steps.take("export", "export", run, "--precision", "fp32,fp16,int8")
    bundle = run / "export"
    for flavour in ("tensorrt", "tensorrt_rtx"):
        steps.take(f"build-{flavour}", "build-engine", bundle, "--target", "here", "--flavour", flavour)
    steps.take("verify", "verify", bundle)
    speed = ("--batch", BATCHES, "--seconds", arguments.seconds, "--compile", "-o", arguments.out / "bench")
    steps.take("bench", "bench", bundle, *speed)
    return steps.end()


class Steps:
    """Commands of byolt, each with `--json` into a file of its own."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.taken: list[tuple[str, int, float, str]] = []

    def take(self, name: str, *words: object) -> dict[str, Any] | None:
        """What the command found; ``None`` when it found nothing. Its words of failure stay with the step."""
        started_s = time.monotonic()
        command = [sys.executable, "-m", "byolt", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
        self.taken.append((name, done.returncode, time.monotonic() - started_s, told))
        print(f"{name}: exit {done.returncode} {told}", flush=True)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError:
            return None
        (self.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        return found

    def end(self) -> int:
        """Write the summary; the exit code of the whole."""
        lines = ["| step | exit | seconds | told |", "|---|---|---|---|"]
        lines += [f"| {name} | {code} | {seconds:.0f} | {told} |" for name, code, seconds, told in self.taken]
        lines += ["", *parity_table(self.out / "verify.json"), "", *speed_table(self.out / "bench.json")]
        (self.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))
        # A flavour of TensorRT that is not installed (5) is no failure of the export.
        return int(any(code not in (0, 5) for _, code, _, _ in self.taken))


def parity_table(path: Path) -> list[str]:
    """A row a file and provider."""
    if not path.exists():
        return ["parity was not measured"]
    lines = ["| file | run by | relative L2, mean | worst | overlap@1 | verdict |", "|---|---|---|---|---|---|"]
    for file in json.loads(path.read_text(encoding="utf-8"))["files"]:
        golden = file["golden"] or {}
        figures = [golden.get(name) for name in ("relative_l2_mean", "relative_l2_worst", "overlap_at_1")]
        cells = " | ".join("-" if figure is None else f"{figure:.3g}" for figure in figures)
        lines.append(f"| {file['name']} | {file['provider']} | {cells} | {file['verdict']} |")
    return lines


def speed_table(path: Path) -> list[str]:
    """A row a candidate and batch size, as `byolt bench` found it."""
    if not path.exists():
        return ["speed was not measured"]
    found = json.loads(path.read_text(encoding="utf-8"))
    columns = [key for key, value in found["rows"][0].items() if not isinstance(value, dict | list)]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in found["rows"]:
        cells = (f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in columns)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
