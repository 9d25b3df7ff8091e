"""A model of which every process holds its share, by torch's FSDP2: parameters, gradients and the optimizer's moments are divided.

Zhao et al. 2023 (arXiv:2304.11277). Each Transformer block is put together when it is about to compute, and taken apart behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from components.errors import RequestError
from components.layers.transformer import Block
from components.training.settings import Trainer


class Sharded:
    """A copy of `model` of which every process of the group holds its share; see `components.training.distributed.Layout`.

    Raises:
        RequestError: the model has no Transformer block, or the precision is float16, whose loss scaling needs whole gradients.
    """

    def __init__(self, model: nn.Module, settings: Trainer) -> None:
        if not any(isinstance(module, Block) for module in model.modules()):
            raise RequestError(f"trainer.sharding: full is for Transformers; {type(model).__name__} has no Transformer block (choose none)")
        if settings.precision == "float16":
            raise RequestError("trainer.sharding: full does not go with trainer.precision=float16 (choose bfloat16)")
        self.model = copy.deepcopy(model)
        self.mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
        for module in list(self.model.modules()):
            # A decoder's keys and values of what the encoder has read may be asked for outside of the block.
            if isinstance(module, Block) and module.cross is None:
                fully_shard(module, mesh=self.mesh)
        fully_shard(self.model, mesh=self.mesh)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name, put together."""
        return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's shares, along the first dimension as `fully_shard` divides; numbers and generators stay whole."""
        return {
            name: distribute_tensor(tensor, self.mesh, [Shard(0)]) if tensor.ndim and not name.startswith("generators/") else tensor
            for name, tensor in tensors.items()
        }

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Every process holds everything, until the context ends."""
        parts = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(part is not self.model, recurse=False)  # the root keeps what its backward will need
                part.reshard()
