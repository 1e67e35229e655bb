"""Does another version of the code learn the same? Losses to the last digit and the encoder of two checkouts.

    python benchmarks/same_result.py OLD NEW [RECIPE] [--set KEY=VALUE ...]

OLD and NEW are checkouts in which `make install` was run. Each learns by its own file RECIPE with its own `.venv`, one
after the other on this machine, with as many threads as it has cores or as the recipe says. Prints a table; ends with 1
where a loss of `metrics.jsonl` or the SHA-256 of `encoder.safetensors` differs.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Learn twice, print the table, end with 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    old, new = (learn(checkout.resolve(), asked.recipe, asked.overrides) for checkout in (asked.old, asked.new))
    differ = 0
    for name in dict.fromkeys([*old, *new]):
        was, now = old.get(name, "-"), new.get(name, "-")
        same = was == now or name.startswith("made by")
        differ += not same
        print(f"{name:20} {was:64} {now:64} {'' if same else 'DIFFERS'}")
    print(f"{differ} results differ" if differ else "all losses and the encoder are the same")
    sys.exit(bool(differ))


def learn(checkout: Path, recipe: Path, overrides: list[str]) -> dict[str, str]:
    """What a checkout learned by the recipe: what it was made by, the loss of each line, the encoder's digest."""
    with tempfile.TemporaryDirectory() as runs_dir:
        settings = [word for each in (*overrides, f"machine.runs_dir={runs_dir}") for word in ("--set", each)]
        command = [checkout / ".venv/bin/byolt", "pretrain", recipe, *settings]
        if subprocess.run(command, cwd=checkout, stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(f"{checkout} did not learn {recipe}")  # It has said why.
        (run,) = Path(runs_dir).iterdir()
        made = json.loads((run / "environment.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        digest = hashlib.sha256((run / "encoder.safetensors").read_bytes()).hexdigest()
    losses = {f"line {n}, step {line['step']}": repr(line["loss"]) for n, line in enumerate(lines, start=1)}
    return {"made by": f"{made['commit']}, torch {made['packages']['torch']}", **losses, "encoder SHA-256": digest}


if __name__ == "__main__":
    main()
