"""Many small trials trained as one program: the ordinary loop's results, at a fraction of its cost a trial.

A small model leaves most of a processor idle between tiny operations. Here trials of one architecture are trained in lockstep, so that an
operation runs once for all of them. Anything else may differ: weights, seed and order of the examples, optimizer and its numbers,
schedule, clipping, patience, number of epochs.

    trial → tape.py        one step, forward and backward, written down operation by operation
          → program.py     the tape bound to the memory of T trials (operations.py, repeated.py: how each operation is done for all)
          → updates.py     the optimizers' rules, each trial with its own numbers
          → block.py       some trials in lockstep through an epoch (feed.py, masks.py, validation.py, diagnosis.py)
          → fit.py         blocks side by side in threads; who joins and leaves; checkpoints
    grouping.py, planning.py   which trials can share a program, how many fit into memory, and whether it pays

**The same as alone.** Each trial sees its own batches in its own order, and its curves are those of `components.training.loop.fit` up to
rounding. Only dropout's masks are others (see `masks.py`). A trial's course does not depend on its neighbours, whoever they are.

**What was tried**, microseconds a step and trial for 32 MLPs 64-64-64-10 with batches of 32, on one core of a shared machine, each
line in turns with what it is compared with (torch 2.14, 2026-11-25):

- loss and gradients by `torch.func` (`functional_call`, `stack_module_state`, `vmap` of `grad_and_value`): 158. The same operations
  as a program in memory that stays: 53. Compiled by inductor: 54, after 44 s of compiling, and 16 s more for each other number of trials.
- updates of Adam by vectors 61, by torch's fused kernel trial by trial 9.6, compiled 5.9 after 9 s of compiling.
- so nothing is compiled: a sweep of such trials is over before the compiler is. Importing it alone took 3 s.
- within the program (the shortest of 300 times, for all 32 together): cross-entropy forward and backward 700 under `vmap`, 50 by hand;
  the logits' product 64 → 26 as its transpose; ReLU 13 → 4 in place; 584 of the 670 left are matrix products at the core's full speed.
- dropout by 64-bit random integers cut in four: 2 ns a unit in place of 12.
- two threads inside an operation gain nothing for models of this size. Two threads each with trials of their own (`lanes`) gain
  nothing either, they wait for Python's lock, but nearly double the speed of MLPs of 784-512-10. Two processes double both.
- the program and the updates as one function of TorchScript's interpreter, which needs neither Python nor its lock: 7 to 10 % less a
  step, nothing for two lanes; not kept.
"""

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
