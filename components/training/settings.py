"""How a training is run: the numbers and switches that are neither the model's nor the optimizer's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Settings of one training.

    None of `device`, `compile`, `log_every`, `diagnose_every`, `sample_every`, `checkpoint_seconds` changes what is computed in exact
    arithmetic; the last four do not change a single bit.

    Args:
        epochs: passes over the training split.
        batch_size: examples a batch.
        device: `auto` takes CUDA, then Apple's MPS, then the CPU.
        precision: arithmetic of the forward pass; `bfloat16` and `float16` by autocast (float16 with loss scaling), `float64` throughout.
        accumulate: batches whose gradients are averaged into one optimizer step.
        clip_norm: gradients are scaled down to this L2 norm over all parameters; 0 leaves them alone.
        compile: run the model through `torch.compile`.
        frozen: parts of the model that keep their weights (`[embeddings, blocks.0]`); see components/training/fine_tuning.py.
        layer_decay: what the learning rate is multiplied with from each layer to the one below it; 1 is one rate for all.
        patience: stop after this many epochs without a better monitored validation metric; 0 never stops early.
        max_steps: stop after this many optimizer steps; 0 means all epochs.
        log_every: optimizer steps between two points of the training curves.
        diagnose_every: optimizer steps between two looks at gradients and activations by layer; 0 never looks.
        sample_every: epochs between two pictures of what a model that writes writes of its own; 0 never looks.
        checkpoint_seconds: seconds of work that a crash may cost at most (0: a checkpoint after every step).
        threads: CPU threads torch computes with; 0 leaves torch's choice.
        deterministic: refuse operations whose result may differ between two runs.
        processes: processes on each machine that train together, each on its share of every batch (components/training/distributed.py).
        nodes: machines that train together.
        sharding: what every process of several holds: `none`, the whole model; `full`, its share of each Transformer block (FSDP2).
    """

    epochs: Annotated[int, Ge(1)] = 10
    batch_size: Annotated[int, Ge(1)] = 64
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    accumulate: Annotated[int, Ge(1)] = 1
    clip_norm: Annotated[float, Ge(0)] = 0.0
    compile: bool = False
    frozen: Sequence[str] = ()
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    patience: Annotated[int, Ge(0)] = 0
    max_steps: Annotated[int, Ge(0)] = 0
    log_every: Annotated[int, Ge(1)] = 50
    diagnose_every: Annotated[int, Ge(0)] = 200
    sample_every: Annotated[int, Ge(0)] = 0
    checkpoint_seconds: Annotated[float, Ge(0)] = 10.0
    threads: Annotated[int, Ge(0)] = 0
    deterministic: bool = True
    processes: Annotated[int, Ge(1), Le(64)] = 1
    nodes: Annotated[int, Ge(1), Le(1024)] = 1
    sharding: Literal["none", "full"] = "none"

    @property
    def grouped(self) -> bool:
        """Whether more than one process trains."""
        return self.processes * self.nodes > 1
