"""Wrong formulas, each put into a copy of the sources in turn: every one must make an assertion on a value fail.

Run with ``python -m tests.mutations [NAME]``; prints a table, each row with what its test said, and exits 1 where a
mutation survives, or only crashes: such a row shows that the line is run, not that its value is checked.
"""

from tests.mutations.data import DATA
from tests.mutations.evaluation import EVALUATION
from tests.mutations.export import EXPORT
from tests.mutations.learning import LEARNING
from tests.mutations.memory import MEMORY
from tests.mutations.methods import METHODS
from tests.mutations.mutation import ROOT, Mutation
from tests.mutations.statistics import STATISTICS

MUTATIONS = [*METHODS, *DATA, *LEARNING, *EVALUATION, *STATISTICS, *MEMORY, *EXPORT]

__all__ = ["MUTATIONS", "ROOT", "Mutation"]
