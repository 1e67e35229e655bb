"""What a mutation is."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """One wrong formula: ``right`` stands once in ``file`` and becomes ``wrong``."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
