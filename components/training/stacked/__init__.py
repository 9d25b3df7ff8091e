"""Many small trials trained as one program."""

from components.training.stacked.fit import fit_stacked
from components.training.stacked.grouping import Groups, can_stack, group
from components.training.stacked.planning import Choice, Memory, fastest, largest_stack, memory_of
from components.training.stacked.trials import StackedFit, StackedTrial

__all__ = [
    "Choice",
    "Groups",
    "Memory",
    "StackedFit",
    "StackedTrial",
    "can_stack",
    "fastest",
    "fit_stacked",
    "group",
    "largest_stack",
    "memory_of",
]
