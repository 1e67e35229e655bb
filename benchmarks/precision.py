"""bf16 against fp32 in a recipe's own step, views included, by the number of threads: steps in turn, in one process.

    python benchmarks/precision.py recipes/quickstart.yaml recipes/cifar10-cpu.yaml --threads 1,2

On a CPU that multiplies in bf16 (AVX-512 BF16, AMX): what ``byolt pretrain RECIPE --dry-run`` prints, as a table.
"""

import argparse
import sys

import torch

from byolt.device import has_bf16_units
from byolt.environment import environment
from byolt.recipe.load import load_recipe
from byolt.training.precision import precision_speeds
from byolt.training.prepare import prepare
from byolt.training.threads import with_threads


def main() -> None:
    """A row a recipe and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--set", action="append", default=[], help="key=value, for all recipes")
    given = parser.parse_args()
    if not has_bf16_units(torch.device("cpu")):
        sys.exit("this processor has no units for bf16: there is nothing to measure")
    print(f"{environment()['processor']}, torch {torch.__version__}\n")
    print("| recipe | threads | fp32, images/s | bf16, images/s | bf16 over fp32 |\n|---|---|---|---|---|")
    changes = ("machine.device=cpu", *given.set)
    for name in given.recipes:
        recipe = load_recipe(name, changes)
        for threads in map(int, given.threads.split(",")):
            speeds = precision_speeds(prepare(with_threads(recipe, threads)))
            fp32, bf16 = speeds["fp32"], speeds["bf16"]
            row = (recipe.name, threads, f"{fp32:,.1f}", f"{bf16:,.1f}", f"{bf16 / fp32:.2f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
