"""Reference bands of a recipe's healthy runs, which `byolt report` draws behind the curves of a new one.

    python benchmarks/bands.py cifar10-study "five seeds, commit 1234abc" RUN...

Runs must be finished and healthy; the band is written into the package.
"""

import sys
from pathlib import Path

from byolt.reporting.bands import write_band
from byolt.run import open_run

BANDS = Path(__file__).resolve().parents[1] / "toolchain" / "byolt" / "reporting" / "bands"


def main(name: str, source: str, folders: list[str]) -> None:
    """Write the band of ``name`` from the runs in ``folders``."""
    runs = [open_run(Path(folder)) for folder in folders]
    for run in runs:
        state = run.result or {}
        if (state.get("state"), state.get("verdict")) != ("finished", "healthy"):
            sys.exit(f"{run.path} is not a finished, healthy run")
    write_band(BANDS / f"{name}.json", [run.log_records() for run in runs], source)
    print(f"wrote {BANDS / name}.json from {len(runs)} runs")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
