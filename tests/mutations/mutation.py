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

    @property
    def module(self) -> str:
        """The name that the mutated file is imported by."""
        return ".".join(Path(self.file).with_suffix("").parts[1:])
