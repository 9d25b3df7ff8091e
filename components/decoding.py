"""Getting a sequence of tokens out of a model that says, step by step, how probable each next token is.

A model is here a function `step(tokens, state) → (logits, state)`: tokens (N,) int64, logits (N, V), and a state that is a tuple of
tensors whose first dimension is N. What never changes from step to step (an encoder's outputs) is the caller's, who repeats it for
every beam once; so nothing of it is computed, or moved, again.

Shapes: B sequences, K beams, N = B·K, V tokens, T steps.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]

Restriction = Callable[[Tensor, Tensor], Tensor]
"""What may not follow: what is written, (N, t) with the start mark, and logits (N, V) → the logits, −∞ for what is not allowed."""

CLOSED = float("-inf")


def greedy(step: Step, state: State, *, batch: int, start: int, end: int, limit: int, restrictions: Sequence[Restriction] = ()) -> Tensor:
    """The most probable token at every step, of those that may follow: (B, ≤ limit) int64, `end` from a sequence's end on."""
    written = torch.full((batch, 1), start, device=state[0].device)
    done = torch.zeros(batch, dtype=torch.bool, device=written.device)
    while written.shape[1] <= limit and not bool(done.all()):
        logits, state = step(written[:, -1], state)
        for restrict in restrictions:
            logits = restrict(written, logits)
        tokens = torch.where(done, end, logits.argmax(-1))
        done |= tokens == end
        written = torch.cat([written, tokens.unsqueeze(1)], dim=1)
    return written[:, 1:]


def beam_search(
    step: Step,
    state: State,
    *,
    batch: int,
    beams: int,
    start: int,
    end: int,
    limit: int,
    length_penalty: float = 1.0,
    restrictions: Sequence[Restriction] = (),
) -> tuple[Tensor, Tensor]:
    """The best sequence that a beam of K finds.

    A sequence's score is its log-probability, `end` counted, over its length (with `end`) to the power of `length_penalty`: 0 prefers
    short sequences, 1 is the mean over tokens. Of the 2K most probable ways to go on, those among the first K that end are kept as
    finished, K at most, the best ones; the K best that do not end go on. It is over when K have finished and the best that goes on would
    be worse than all of them if it ended now. This is how `transformers` does it, token for token.

    Args:
        step: see the module's docstring; called with N = B·K.
        state: of N sequences, the K of each sequence side by side and alike.
        batch, beams: B and K.
        start, end: the marks.
        limit: sequences are cut there, and count as finished.
        length_penalty: from 0.
        restrictions: what may not follow.

    Returns:
        tokens (B, ≤ limit) int64, `end` from a sequence's end on, and scores (B,).
    """
    device = state[0].device
    written = torch.full((batch, beams, 1), start, device=device)
    total = torch.full((batch, beams), CLOSED, device=device)
    total[:, 0] = 0.0  # all beams are alike at first: only one may go on
    finished = torch.full((batch, beams, limit + 1), end, device=device)
    score = torch.full((batch, beams), CLOSED, device=device)
    hopeful = torch.ones(batch, dtype=torch.bool, device=device)
    first = (torch.arange(batch, device=device) * beams).unsqueeze(1)
    length = 0
    while length < limit and bool(hopeful.any()):
        length += 1
        so_far = written.flatten(0, 1)  # (N, length)
        logits, state = step(so_far[:, -1], state)
        gain = logits.float().log_softmax(-1)
        for restrict in restrictions:
            gain = restrict(so_far, gain)
        choices = gain.shape[-1]
        sums, best = (total.unsqueeze(-1) + gain.view(batch, beams, -1)).flatten(1).topk(min(2, choices) * beams, dim=1)
        beam, tokens = best // choices, best % choices
        longer = torch.cat([_rows(written, beam), tokens.unsqueeze(-1)], dim=-1)  # (B, 2K, length + 1)
        ends = (tokens == end) | (length == limit)
        # What ends among the first K is weighed against what has finished before.
        counts = ends & hopeful.unsqueeze(1) & (torch.arange(best.shape[1], device=device) < beams)
        score, place = torch.cat([score, torch.where(counts, sums / length**length_penalty, CLOSED)], dim=1).topk(beams, dim=1)
        finished = _rows(torch.cat([finished, F.pad(longer, (0, limit - length), value=end)], dim=1), place)
        # The best of the others go on.
        total, place = sums.masked_fill(ends, CLOSED).topk(beams, dim=1)
        written, beam = _rows(longer, place), beam.gather(1, place)
        hopeful &= total[:, 0] / length**length_penalty > score.amin(1)
        state = tuple(part.index_select(0, (first + beam).flatten()) for part in state)
    return finished[:, 0, 1 : length + 1], score[:, 0]


def _rows(sequences: Tensor, place: Tensor) -> Tensor:
    """Of (B, K, T) the sequences at `place` (B, M): (B, M, T)."""
    return sequences.gather(1, place.unsqueeze(-1).expand(-1, -1, sequences.shape[-1]))


def no_repeats(size: int) -> Restriction:
    """No `size` tokens may follow each other twice in a sequence (Paulus et al. 2018)."""

    def restrict(written: Tensor, logits: Tensor) -> Tensor:
        if written.shape[1] < size:
            return logits
        windows = written.unfold(1, size, 1)  # (N, windows, size)
        now = written[:, written.shape[1] - size + 1 :].unsqueeze(1)  # the last size − 1, which begin the next window
        again = (windows[..., :-1] == now).all(-1)
        closed = torch.zeros_like(logits, dtype=torch.bool)
        rows, places = again.nonzero(as_tuple=True)
        closed[rows, windows[rows, places, -1]] = True
        return logits.masked_fill(closed, CLOSED)

    return restrict


def at_least(length: int, end: int) -> Restriction:
    """A sequence may not end before it has `length` tokens, `end` not counted."""

    def restrict(written: Tensor, logits: Tensor) -> Tensor:
        if written.shape[1] > length:  # the start mark is in front
            return logits
        return logits.index_fill(1, torch.tensor([end], device=logits.device), CLOSED)

    return restrict


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
) -> Iterator[int]:
    """Tokens drawn one after the other for one sequence, each handed over before the next is drawn.

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
    for drawn in range(1, count + 1):
        token = draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        if token == end or drawn == count:
            return
        after, state = step(torch.tensor([token]), state)
        logits = after[0]


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
