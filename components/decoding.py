"""Getting a sequence of tokens out of a model that says, step by step, how probable each next token is.

A model is here a function `step(tokens, state) → (logits, state)`: tokens (N,) int64, logits (N, V), and a state that is a tuple of
tensors whose first dimension is N. What never changes from step to step (an encoder's outputs) is the caller's, who repeats it for
every beam once; so nothing of it is computed, or moved, again.

Shapes: B sequences, K beams, N = B·K, V tokens, T steps.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]

CLOSED = float("-inf")


def greedy(step: Step, state: State, *, batch: int, start: int, end: int, limit: int) -> Tensor:
    """The most probable token at every step: (B, ≤ limit) int64, `end` from a sequence's end on."""
    tokens = torch.full((batch,), start, device=state[0].device)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    said: list[Tensor] = []
    while len(said) < limit and not bool(done.all()):
        logits, state = step(tokens, state)
        tokens = torch.where(done, end, logits.argmax(-1))
        done |= tokens == end
        said.append(tokens)
    return torch.stack(said, dim=1) if said else tokens.new_empty(batch, 0)


def beam_search(
    step: Step, state: State, *, batch: int, beams: int, start: int, end: int, limit: int, length_penalty: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The best sequence that a beam of K finds.

    A sequence's score is its log-probability, `end` counted, over its length (with `end`) to the power of `length_penalty`: 0 prefers
    short sequences, 1 is the mean over tokens. A sequence that has ended stays in the beam, and leaves it when K better ones come.

    Args:
        step: see the module's docstring; called with N = B·K.
        state: of N sequences, the K of each sequence side by side and alike.
        batch, beams: B and K.
        start, end: the marks.
        limit: sequences are cut there.
        length_penalty: from 0.

    Returns:
        tokens (B, ≤ limit) int64, `end` from a sequence's end on, and scores (B,).
    """
    device = state[0].device
    tokens = torch.full((batch * beams,), start, device=device)
    total = torch.full((batch, beams), CLOSED, device=device)
    total[:, 0] = 0.0  # all beams are alike at first: only one may go on
    lengths = torch.zeros(batch, beams, device=device)
    done = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    said = torch.empty(batch, beams, 0, dtype=torch.int64, device=device)
    first = (torch.arange(batch, device=device) * beams).unsqueeze(1)
    for _ in range(limit):
        logits, state = step(tokens, state)
        gain = logits.float().log_softmax(-1).view(batch, beams, -1)
        choices = gain.shape[-1]
        # What has ended goes on in one way only, at no cost.
        gain = torch.where(done.unsqueeze(-1), CLOSED, gain)
        gain[..., end] = torch.where(done, 0.0, gain[..., end])
        sums = total.unsqueeze(-1) + gain
        longer = torch.where(done, lengths, lengths + 1).unsqueeze(-1)
        score = (sums / longer**length_penalty).flatten(1)
        _, best = score.topk(beams, dim=1)
        beam, tokens_of = best // choices, best % choices
        total = sums.flatten(1).gather(1, best)
        lengths = longer.squeeze(-1).gather(1, beam)
        done = done.gather(1, beam) | (tokens_of == end)
        said = torch.cat([said.gather(1, beam.unsqueeze(-1).expand_as(said)), tokens_of.unsqueeze(-1)], dim=-1)
        if bool(done.all()):
            break
        rows = (first + beam).flatten()
        state = tuple(part.index_select(0, rows) for part in state)
        tokens = tokens_of.flatten()
    final = total / lengths.clamp(min=1) ** length_penalty
    score, place = final.max(dim=1)
    return said[torch.arange(batch, device=device), place], score


def sample(
    step: Step,
    state: State,
    logits: Tensor,
    *,
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: Generator,
    end: int | None = None,
) -> list[int]:
    """Tokens drawn one after the other for one sequence.

    Args:
        step: see the module's docstring; N = 1.
        state, logits: after what was given; logits (V,).
        count: how many tokens.
        temperature: logits are divided by it; 0 takes the most probable token (greedy).
        top_k: only the k most probable tokens (0: all).
        top_p: only the most probable tokens whose probabilities together reach p (Holtzman et al. 2020); 1: all.
        generator: the only source of chance.
        end: the token after which to stop.
    """
    drawn: list[int] = []
    while len(drawn) < count:
        token = draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        drawn.append(token)
        if token == end or len(drawn) == count:
            break
        after, state = step(torch.tensor([token]), state)
        logits = after[0]
    return drawn


def draw(logits: Tensor, *, temperature: float, top_k: int, top_p: float, generator: Generator) -> int:
    """One token from logits (V,); see `sample`."""
    if temperature == 0:
        return int(logits.argmax())
    probability = (logits.double() / temperature).softmax(-1)
    ordered, place = probability.sort(descending=True, stable=True)
    keep = len(ordered) if top_k == 0 else min(top_k, len(ordered))
    before = ordered.cumsum(0) - ordered
    ordered = torch.where((before < top_p) & (torch.arange(len(ordered)) < keep), ordered, 0.0)
    return int(place[torch.multinomial(ordered, 1, generator=generator)])
