"""Recurrent layers: the simple RNN (Elman 1990), LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) and GRU
(Cho et al. 2014), each in two forms over the very same parameters.

- `fused`: torch's own kernels, which have tanh (the simple RNN also ReLU) built in.
- `explicit`: every gate a line of code, with the chosen activation φ where the papers have tanh; it can hand out every gate.

The GRU is torch's: the reset gate acts after the recurrent product, as in version 1 of Cho et al. on arXiv and in cuDNN, and the update
gate z keeps the old state: h ← (1 − z)·n + z·h.

Shapes: B batch, T time steps, D inputs, H hidden units, L layers, R directions (1 or 2), G gates (LSTM 4, GRU 3, RNN 1).
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from components.protocols import ActivationFactory

Cell = Literal["rnn", "lstm", "gru"]
Kernel = Literal["fused", "explicit"]

State = tuple[Tensor, ...]
"""What is carried from step to step, (L·R, B, H) each: (h,), or (h, c) of an LSTM."""

Gates = dict[str, Tensor]
"""A step's gates and states by name, (B, H) each."""

STATES = {"rnn": ("state",), "lstm": ("state", "cell"), "gru": ("state",)}


def rnn_step(from_input: Tensor, from_state: Tensor, state: State, phi: nn.Module) -> Gates:  # noqa: ARG001 — as all steps
    """h ← φ(W x + b + U h + b')."""
    return {"state": phi(from_input + from_state)}


def lstm_step(from_input: Tensor, from_state: Tensor, state: State, phi: nn.Module) -> Gates:
    """The memory cell: forget a share of the old, add a share of the candidate, show a share of the result."""
    input_, forget, candidate, output = (from_input + from_state).chunk(4, dim=-1)
    gates = {
        "input": torch.sigmoid(input_),
        "forget": torch.sigmoid(forget),
        "candidate": phi(candidate),
        "output": torch.sigmoid(output),
    }
    gates["cell"] = gates["forget"] * state[1] + gates["input"] * gates["candidate"]
    gates["state"] = gates["output"] * phi(gates["cell"])
    return gates


def gru_step(from_input: Tensor, from_state: Tensor, state: State, phi: nn.Module) -> Gates:
    """Reset: how much of the past the candidate sees. Update: how much of the past stays."""
    reset_x, update_x, candidate_x = from_input.chunk(3, dim=-1)
    reset_h, update_h, candidate_h = from_state.chunk(3, dim=-1)
    gates = {"reset": torch.sigmoid(reset_x + reset_h), "update": torch.sigmoid(update_x + update_h)}
    gates["candidate"] = phi(candidate_x + gates["reset"] * candidate_h)
    gates["state"] = gates["candidate"] + gates["update"] * (state[0] - gates["candidate"])
    return gates


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


class Recurrent(nn.Module):
    """Stacked recurrent layers in one direction or both.

    Args:
        cell: `rnn`, `lstm` or `gru`.
        input_size: D.
        hidden: H, units in each direction.
        layers: L.
        dropout: probability of dropping a unit between two layers in training.
        bidirectional: whether a second network reads from the end.
        kernel: see the module's docstring; the parameters and their names are the same.
        activation: makes φ.

    Raises:
        ValueError: the fused kernel does not have this activation.
    """

    def __init__(
        self,
        *,
        cell: Cell,
        input_size: Annotated[int, Ge(1)],
        hidden: Annotated[int, Ge(1)],
        activation: ActivationFactory,
        layers: Annotated[int, Ge(1)] = 1,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        bidirectional: bool = False,
        kernel: Kernel = "fused",
    ) -> None:
        super().__init__()
        phi = activation()
        shared: dict[str, Any] = {"num_layers": layers, "batch_first": True, "bidirectional": bidirectional}
        shared["dropout"] = dropout if layers > 1 else 0.0  # torch warns of a dropout that has no place
        rectifies = cell == "rnn" and isinstance(phi, nn.ReLU)
        if kernel == "fused" and not (isinstance(phi, nn.Tanh) or rectifies):
            has = "tanh and ReLU" if cell == "rnn" else "tanh"
            raise ValueError(
                f"the fused kernel of {cell} has {has} built in, not {type(phi).__name__}: choose activation=tanh or kernel=explicit"
            )
        match cell:
            case "rnn":
                self.cell: nn.RNNBase = nn.RNN(input_size, hidden, nonlinearity="relu" if rectifies else "tanh", **shared)
            case "lstm":
                self.cell = nn.LSTM(input_size, hidden, **shared)
            case "gru":
                self.cell = nn.GRU(input_size, hidden, **shared)
            case _:
                raise ValueError(f"cell is rnn, lstm or gru, not {cell!r}")
        self.kind, self.kernel = cell, kernel
        # The fused kernel has it inside: a module that is never called would be watched in vain.
        self.activation = phi if kernel == "explicit" else None
        self.phi = [phi]  # in a list, so that it is no second submodule
        self.output_size = hidden * (2 if bidirectional else 1)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None, state: State | None = None) -> tuple[Tensor, State]:
        """Read sequences.

        Args:
            inputs: (B, T, D).
            lengths: (B,) int64, 1 … T; None where all are T. What is behind a sequence's end changes nothing.
            state: where to begin, (L·R, B, H) each; None is 0.

        Returns:
            outputs (B, T, H·R) of the last layer, 0 behind a sequence's end, and each sequence's last state.
        """
        if self.kernel == "explicit":
            return self._explicit(inputs, lengths, state, keep=None)
        outputs, last = self._fused(inputs, lengths, state)
        if lengths is not None:
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        return outputs, last

    def last(self, inputs: Tensor, lengths: Tensor | None = None) -> State:
        """Each sequence's last state alone, which spares the outputs' unpacking."""
        if self.kernel == "explicit":
            return self._explicit(inputs, lengths, None, keep=None)[1]
        return self._fused(inputs, lengths, None)[1]

    def _fused(self, inputs: Tensor, lengths: Tensor | None, state: State | None) -> tuple[Any, State]:
        """Outputs, packed where there are lengths, and the last state."""
        given: Any = inputs
        if lengths is not None:
            given = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        begin = None if state is None else state[0] if len(state) == 1 else state
        outputs, last = self.cell(given, begin)
        return outputs, last if isinstance(last, tuple) else (last,)

    def for_stacks(self) -> None:
        """From now on compute in the form whose steps can be repeated for many models at once; it comes to the same."""
        self.kernel = "explicit"

    def gates(self, inputs: Tensor, lengths: Tensor | None = None) -> list[Gates]:
        """Every gate and state of every step, whatever the kernel: for each layer and direction, name → (B, T, H)."""
        kept: list[Gates] = []
        self._explicit(inputs, lengths, None, keep=kept)
        return kept

    # ---------------------------------------------------------------- the explicit form

    def _explicit(self, inputs: Tensor, lengths: Tensor | None, state: State | None, keep: list[Gates] | None) -> tuple[Tensor, State]:
        cell, time = self.cell, inputs.shape[1]
        present = None if lengths is None else (torch.arange(time, device=inputs.device) < lengths.to(inputs.device).unsqueeze(1))
        outputs = inputs
        last: list[State] = []
        for layer, suffixes in enumerate(self._suffixes()):
            if layer and cell.dropout:
                outputs = F.dropout(outputs, cell.dropout, self.training)
            sides = []
            for suffix in suffixes:
                begin = self._begin(outputs, state, len(last))
                side, end = self._one_way(outputs, begin, present, suffix, keep)
                sides.append(side)
                last.append(end)
            outputs = torch.cat(sides, dim=-1) if len(sides) > 1 else sides[0]
        return outputs, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _suffixes(self) -> Iterator[tuple[str, ...]]:
        """The endings of torch's parameter names, for each layer one or two."""
        for layer in range(self.cell.num_layers):
            yield (f"_l{layer}", f"_l{layer}_reverse") if self.cell.bidirectional else (f"_l{layer}",)

    def _begin(self, inputs: Tensor, state: State | None, place: int) -> State:
        if state is not None:
            return tuple(part[place] for part in state)
        return tuple(inputs.new_zeros(inputs.shape[0], self.cell.hidden_size) for _ in STATES[self.kind])

    def _one_way(self, inputs: Tensor, state: State, present: Tensor | None, suffix: str, keep: list[Gates] | None) -> tuple[Tensor, State]:
        """One layer in one direction: inputs (B, T, D) → outputs (B, T, H) and the last state, (B, H) each."""
        names, step, phi, recurrent = STATES[self.kind], STEPS[self.kind], self.phi[0], f"weight_hh{suffix}"
        weight, bias = getattr(self.cell, recurrent).mT, getattr(self.cell, f"bias_hh{suffix}")
        from_input = F.linear(inputs, getattr(self.cell, f"weight_ih{suffix}"), getattr(self.cell, f"bias_ih{suffix}"))  # (B, T, G·H)
        steps: list[Any] = list(enumerate(from_input.unbind(1)))
        if suffix.endswith("_reverse"):
            steps.reverse()
        shown: list[Tensor] = []
        traced: list[Gates] = []
        for time, now in steps:
            gates = step(now, torch.addmm(bias, state[0], weight), state, phi)
            new = tuple(gates[name] for name in names)
            if present is None:
                state = new
                shown.append(state[0])
            else:
                here = present[:, time].unsqueeze(1)
                state = tuple(torch.where(here, after, before) for after, before in zip(new, state, strict=True))
                shown.append(state[0] * here)
            if keep is not None:
                traced.append({name: gate.detach() for name, gate in gates.items()})
        if suffix.endswith("_reverse"):
            shown.reverse()
            traced.reverse()
        if keep is not None:
            keep.append({name: torch.stack([gates[name] for gates in traced], dim=1) for name in traced[0]})
        return torch.stack(shown, dim=1), state
