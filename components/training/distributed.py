"""One training in N processes: each takes its share of every batch, and together they compute what one process would.

The loop (components/training/loop.py) does not know of it. Each process runs it, over parts that are made common to all:

    batches       the share of every global batch that is this process's
    objective     its loss is the whole batch's, its gradient the whole batch's after DDP or FSDP2 have averaged; its metrics are of all
    validation    a stretch of the split; the metrics' outcomes are gathered in the order in which one process would have had them
    stopping      where one process is to stop, all stop, after the same step; so with the time for a checkpoint
    checkpoints   the first process writes for all, and what it reads goes to all: every process's generators are in it
    recorder      the first process's; the others have `Silent` ones

Li et al. 2020 (arXiv:2006.15704) for DDP, Zhao et al. 2023 (arXiv:2304.11277) for FSDP. Where we differ: DDP averages the gradients of
equally large shares; ours may differ by one example, or in tokens, or be empty, so each loss is weighted by the number of terms that it
is the mean of (`Objective.terms`, by default examples). A batch normalization measures each process's share, as in DDP. Pictures of samples
(`sample_every`) are not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from components.data.batches import Batches, derived_seed
from components.errors import CheckpointError, NotFiniteError
from components.protocols import Batch, Model, Objective, Optimizer, Outcomes, Recorder, Schedule
from components.training import loop, randomness
from components.training.checkpoint import Checkpoints, Snapshot
from components.training.evaluation import join
from components.training.fine_tuning import freeze
from components.training.settings import Trainer
from components.training.state import Fitted, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: they may have data to bring here first."""


@contextmanager
def group(store: Any, *, rank: int, size: int) -> Iterator[None]:
    """Be process `rank` of `size` while the context is open: gloo for what is in memory, NCCL for what is on GPUs.

    Args:
        store: a `torch.distributed.Store` that all of them reach.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "cpu:gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def first() -> bool:
    """Whether this is the process that writes for all."""
    return dist.get_rank() == 0


def from_first(value: Any) -> Any:
    """What the first process has in `value`, in every process."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def fit(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    validation: Batches | None,
    *,
    optimizer: Optimizer,
    schedule: Schedule,
    settings: Trainer,
    device: torch.device,
    recorder: Recorder,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Fitted:
    """`loop.fit` by all processes of the group; each calls it with the same parts.

    Args:
        batches: the whole batches, of which `settings.batch_size` is the size: more processes make it quicker, not larger.
        recorder, checkpoints, progress: only the first process's are used.

    Returns:
        The same in every process.

    Raises:
        RequestError: `sharding=full` for a model without Transformer blocks, or with float16.
        Otherwise as `loop.fit`.
    """
    sharded = settings.sharding == "full"
    model = model.to(device, torch.float64 if settings.precision == "float64" else None)
    freeze(model, settings.frozen)  # DDP and FSDP have to know what learns when they are made
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    if not first():  # the same masks for every share would not be independent
        randomness.seed_everything(derived_seed("process", torch.initial_seed(), dist.get_rank()) % 2**32)
    layout: Layout = _Everywhere(model)
    if sharded:
        from components.training.sharding import Sharded

        layout = Sharded(model, settings)
    agreement = _Agreement(stopping, checkpoints, settings.checkpoint_seconds)
    try:
        fitted = loop.fit(
            layout.model,
            _SharedObjective(objective, layout.model, sharded=sharded),
            Share(batches, dist.get_rank(), dist.get_world_size()),
            _Stretch(validation, layout) if validation is not None else None,
            optimizer=optimizer,
            schedule=schedule,
            settings=settings,
            device=device,
            recorder=recorder if first() else Silent(),
            checkpoints=_SharedCheckpoints(checkpoints, agreement, layout),
            progress=progress if first() else lambda _: None,
            stopping=agreement,
        )
    except NotFiniteError as error:  # every process raises it; the layer is seen where the example is
        layers: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(layers, error.layer)
        raise NotFiniteError(error.step, next((layer for layer in layers if layer), None), error.value) from None
    return Fitted(layout.whole(fitted.weights), fitted.state, fitted.stopped_early)


# ---------------------------------------------------------------------- what the loop is given


class Layout(Protocol):
    """Where the model's parameters are, and all that has their shapes."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name, as one process would have them; all processes call it."""

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way round: of a checkpoint's tensors what this process holds."""

    def gathered(self) -> AbstractContextManager[None]:
        """While the context is open every process holds the whole model, and may use it in any way and as often as it likes."""


class _Everywhere:
    """Every process holds all of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def gathered(self) -> AbstractContextManager[None]:
        return nullcontext()


class Share:
    """Of every batch the part of one process: examples that follow each other, as many as the others have or one more.

    A process for which nothing is left of a small batch gets its first example with a true `idle`: it takes part, and counts nothing.
    """

    def __init__(self, batches: Batches, rank: int, size: int) -> None:
        self.batches, self.rank, self.size = batches, rank, size

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.batches.steps_per_epoch

    def epoch(self, number: int, *, first: int = 0) -> Iterator[Batch]:
        """The shares of the batches of epoch `number` (from 0), from batch `first` on."""
        batches, split = self.batches, self.batches.split
        if batches.shuffle and getattr(split, "augments", False):
            for batch in batches.epoch(number, first=first):  # what augmentation draws is the whole batch's, so all of it is made
                begin, end, idle = self._bounds(len(batch["index"]))
                yield {key: value[begin:end] for key, value in batch.items()} | idle
        else:
            for index in batches.order(number)[first:]:
                begin, end, idle = self._bounds(len(index))
                yield split.batch(index[begin:end]) | idle

    def _bounds(self, count: int) -> tuple[int, int, dict[str, bool]]:
        begin, end = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return (begin, end, {}) if begin < end else (0, 1, {"idle": True})


class _Stretch:
    """The batches of the validation split that one process looks at: a stretch of them, with the first process's buffers."""

    def __init__(self, batches: Batches, layout: Layout) -> None:
        self.batches, self.layout = batches, layout

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, number: int, *, first: int = 0) -> Iterator[Batch]:
        rank, size, count = dist.get_rank(), dist.get_world_size(), self.steps_per_epoch
        begin, end = count * rank // size, count * (rank + 1) // size
        for buffer in self.layout.model.buffers():
            dist.broadcast(buffer, src=0)  # the running averages of normalizations
        with self.layout.gathered():
            yield from islice(self.batches.epoch(number, first=begin + first), end - begin)


class _Losses(nn.Module):
    """What DDP wraps: a module whose forward is the objective's losses."""

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, compute: Model, batch: Batch) -> dict[str, Tensor]:
        """`compute` is the model, or what `torch.compile` made of it."""
        return self.objective.losses(compute, batch)


class _SharedObjective:
    """An objective whose loss and metrics are those of all processes together."""

    def __init__(self, objective: Objective, model: nn.Module, *, sharded: bool) -> None:
        self.objective = objective
        self.terms: Callable[[Batch], Tensor | int] = getattr(objective, "terms", lambda batch: len(batch["index"]))
        self.losses_of: Callable[[Model, Batch], dict[str, Tensor]] = objective.losses  # FSDP averages from inside the model
        if not sharded and any(parameter.requires_grad for parameter in model.parameters()):
            # A parameter that one process's share does not use may be used by another's.
            self.losses_of = nn.parallel.DistributedDataParallel(
                _Losses(objective, model), forward_sync_buffers=False, find_unused_parameters=True
            )

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        return self.objective.monitor

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        loss = self.losses_of(model, batch)["loss"]
        terms = torch.as_tensor(0 if batch.get("idle") else self.terms(batch), dtype=torch.promote_types(loss.dtype, torch.float32))
        return {"loss": _Together.apply(loss, terms.to(loss.device))}

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        return self.objective.outcomes(model, batch)

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        return self.objective.answer(model, batch)

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        rows: list[Outcomes] | None = [{}] * dist.get_world_size() if first() else None
        dist.gather_object(outcomes, rows)
        found: dict[str, float] = from_first(self.objective.metrics(join([row for row in rows if row])) if rows is not None else None)
        return found

    def figures(self, outcomes: Outcomes, split: Any) -> dict[str, Figure]:
        return self.objective.figures(outcomes, split)


class _Together(torch.autograd.Function):
    """The mean loss of a whole batch from the mean losses of its shares.

    (loss, terms that it is the mean of) → Σ terms·loss / Σ terms. Backward each process's loss gets such a factor that the *mean* of all
    processes' gradients, which DDP and FSDP take, is the gradient of the whole.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, terms: Tensor) -> Tensor:
        sums = torch.stack((torch.where(terms > 0, loss.detach().to(terms.dtype) * terms, 0), terms))  # a mean of nothing is NaN
        dist.all_reduce(sums)
        ctx.factor = (terms * dist.get_world_size() / sums[1]).to(loss.dtype)
        return (sums[0] / sums[1]).to(loss.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _Agreement:
    """Whether to stop, and whether a checkpoint is due: asked once a step, and answered alike everywhere."""

    def __init__(self, stopping: Callable[[], bool], checkpoints: Checkpoints | None, seconds: float) -> None:
        self.stopping, self.checkpoints, self.seconds = stopping, checkpoints, seconds
        self.due = False

    def __call__(self) -> bool:
        due = first() and self.checkpoints is not None and self.checkpoints.due(self.seconds)
        flags = torch.tensor([self.stopping(), due], dtype=torch.int32)
        dist.all_reduce(flags)
        stop, self.due = flags.bool().tolist()
        return bool(stop)


class _SharedCheckpoints(Checkpoints):
    """The first process's checkpoints, with the generators of all processes in them."""

    def __init__(self, written: Checkpoints | None, agreement: _Agreement, layout: Layout) -> None:
        super().__init__(written.folder if written else Path())
        self.written, self.agreement, self.layout = written, agreement, layout

    def due(self, seconds: float) -> bool:  # noqa: ARG002 — the first process has looked at its clock
        return self.agreement.due

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
        own = {name: tensor for name, tensor in tensors.items() if name.startswith("generators/")}
        others: list[Any] | None = [None] * dist.get_world_size() if first() else None
        dist.gather_object((own, values["generators"]), others)
        whole = self.layout.whole(tensors)
        if self.written is None or others is None:
            return self.folder
        for rank, (generators, _) in enumerate(others):
            whole |= {f"process {rank}/{name}": tensor for name, tensor in generators.items()}
        return self.written.save(step, whole, {**values, "processes": [numbers for _, numbers in others]})

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> str:
        whole = self.layout.whole(weights)
        return self.written.save_best(step, whole) if self.written else ""

    def newest(self) -> Snapshot | None:
        snapshot: Snapshot | None = from_first(self.written.newest() if self.written else None)
        if snapshot is None:
            return None
        processes, rank = snapshot.values.get("processes", [None]), dist.get_rank()
        if len(processes) != dist.get_world_size():
            raise CheckpointError(f"the checkpoint is of a training in {len(processes)} processes, not {dist.get_world_size()}")
        mine = f"process {rank}/"
        tensors = {name: tensor for name, tensor in snapshot.tensors.items() if not name.startswith("process ")}
        tensors |= {name.removeprefix(mine): tensor for name, tensor in snapshot.tensors.items() if name.startswith(mine)}
        return Snapshot(self.layout.spread(tensors), {**snapshot.values, "generators": processes[rank]})


class Silent:
    """The recorder, and the journal, of a process for which another one speaks."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Nothing."""

    def figure(self, name: str, figure: Figure, *, step: int) -> None:
        """Nothing."""

    def event(self, event: str, /, **facts: Any) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""
