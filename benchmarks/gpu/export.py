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
import sys
from pathlib import Path

from steps import Steps

BATCHES = "1,8,32,64"


def main() -> int:
    """Take the steps; 0 when parity passed and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for what was found.")
    parser.add_argument("--run", type=Path, help="A finished run; left out, the quickstart's is learned.")
    parser.add_argument("--seconds", type=float, default=2.0, help="Timed seconds a candidate and batch size.")
    arguments = parser.parse_args()
    steps = Steps(arguments.out)
    steps.byolt("doctor", "doctor")
    run = arguments.run
    if run is None:
        learned = steps.byolt("pretrain", "pretrain", "recipes/quickstart.yaml")
        run = Path(learned["run"]) if learned else None
    if run is None:
        return steps.end(*tables(arguments.out))
    steps.byolt("export", "export", run, "--precision", "fp32,fp16,int8")
    bundle = run / "export"
    for flavour in ("tensorrt", "tensorrt_rtx"):
        steps.byolt(f"build-{flavour}", "build-engine", bundle, "--target", "here", "--flavour", flavour)
    steps.byolt("verify", "verify", bundle)
    speed = ("--batch", BATCHES, "--seconds", arguments.seconds, "--compile", "-o", arguments.out / "bench")
    steps.byolt("bench", "bench", bundle, *speed)
    return steps.end(*tables(arguments.out))


def tables(out: Path) -> tuple[list[str], list[str]]:
    """Parity and speed, as far as they were found."""
    return parity_table(out / "verify.json"), speed_table(out / "bench.json")


def parity_table(path: Path) -> list[str]:
    """A row a file and provider."""
    if not path.exists():
        return ["parity was not measured"]
    lines = ["| file | run by | relative L2, mean | worst | overlap@1 | verdict |", "|---|---|---|---|---|---|"]
    for file in json.loads(path.read_text(encoding="utf-8"))["files"]:
        golden = file["golden"] or {}
        metrics = [golden.get(name) for name in ("relative_l2_mean", "relative_l2_worst", "overlap_at_1")]
        cells = " | ".join("-" if figure is None else f"{figure:.3g}" for figure in metrics)
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
