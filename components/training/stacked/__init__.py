"""Many small trials trained as one program."""

from components.training.stacked.fit import fit_stacked
from components.training.stacked.grouping import Groups, can_stack, group
from components.training.stacked.trials import StackedFit, StackedTrial

__all__ = ["Groups", "StackedFit", "StackedTrial", "can_stack", "fit_stacked", "group"]
