"""Greedy, beam search and sampling, against what can be counted: every sequence of a small language, and shares of draws."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from components.decoding import State, at_least, beam_search, draw, greedy, no_repeats, sample

START, END = 0, 1
TABLE = torch.tensor(
    [
        # next:  0   1    2    3
        [-9.0, -2.0, 1.0, 0.9],  # after the start: 2 a little more than 3
        [0.0, 0.0, 0.0, 0.0],
        [-9.0, 0.0, 0.1, 0.2],  # after 2: nothing is sure
        [-9.0, 3.0, 0.0, 0.0],  # after 3: the end, nearly surely
    ]
)
LOG = TABLE.log_softmax(-1)


def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """A language of one token's memory; the state counts the steps."""
    return TABLE[tokens], (state[0] + 1,)


def score(sequence: tuple[int, ...], length_penalty: float) -> float:
    total = sum(float(LOG[before, after]) for before, after in itertools.pairwise((START, *sequence)))
    return total / len(sequence) ** length_penalty


def every(limit: int) -> list[tuple[int, ...]]:
    ended = [(*body, END) for length in range(limit) for body in itertools.product((0, 2, 3), repeat=length)]
    return ended + list(itertools.product((0, 2, 3), repeat=limit))


def begin(count: int) -> State:
    return (torch.zeros(count, 1),)


def test_greedy_takes_the_most_probable_and_stops_at_the_end():
    tokens = greedy(step, begin(2), batch=2, start=START, end=END, limit=10)
    assert tokens.tolist() == [[2, 3, END], [2, 3, END]]
    assert greedy(step, begin(1), batch=1, start=START, end=END, limit=2).tolist() == [[2, 3]]


def test_what_has_ended_stays_ended_while_others_go_on():
    def two(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        last = torch.tensor([1.0, 3.0]).view(-1, 1)  # the first ends at step 1, the second at step 3
        ends = state[0] + 1 >= last
        return torch.cat([torch.full_like(last, -9), torch.where(ends, 9.0, -9.0), torch.zeros_like(last)], dim=1), (state[0] + 1,)

    assert greedy(two, begin(2), batch=2, start=START, end=END, limit=5).tolist() == [[1, 1, 1], [2, 2, 1]]


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(length_penalty: float):
    limit = 4
    best = max(every(limit), key=lambda sequence: score(sequence, length_penalty))
    tokens, scores = beam_search(step, begin(200), batch=2, beams=100, start=START, end=END, limit=limit, length_penalty=length_penalty)
    for row in range(2):
        found = tokens[row].tolist()
        assert tuple(found[: len(best)]) == best
        assert set(found[len(best) :]) <= {END}
    assert scores.tolist() == pytest.approx([score(best, length_penalty)] * 2, abs=1e-5)


def test_a_beam_of_two_finds_what_greedy_misses():
    # greedy: 2 3 end; better: 3 end, because after 3 the end is nearly sure
    tokens, scores = beam_search(step, begin(2), batch=1, beams=2, start=START, end=END, limit=10, length_penalty=0.0)
    assert tokens[0, :2].tolist() == [3, END]
    assert scores.item() > score((2, 3, END), 0.0)


def test_one_beam_is_greedy():
    tokens, _ = beam_search(step, begin(3), batch=3, beams=1, start=START, end=END, limit=10)
    assert tokens.tolist() == [[2, 3, END]] * 3


def test_states_follow_their_beams():
    def remembering(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        memory = torch.cat([state[0][:, 1:], tokens.unsqueeze(1).float()], dim=1)
        return TABLE[memory[:, -1].long()] + 0.5 * (memory[:, -2:-1] == 3) * torch.tensor([0.0, 0.0, 5.0, 0.0]), (memory,)

    tokens, scores = beam_search(remembering, (torch.zeros(4, 3),), batch=1, beams=4, start=START, end=END, limit=4, length_penalty=0.0)
    sequence, total, state = tokens[0].tolist(), 0.0, (torch.zeros(1, 3),)
    for before, after in itertools.pairwise([START, *sequence]):
        if before == END:
            break
        logits, state = remembering(torch.tensor([before]), state)
        total += float(logits[0].log_softmax(-1)[after])
    assert scores.item() == pytest.approx(total, abs=1e-5)


def test_no_tokens_follow_each_other_twice():
    """After 4 5 4 the pair 4 5 would come again, after 5 5 a 5: only those are closed."""
    written = torch.tensor([[9, 4, 5, 4], [9, 7, 5, 5]])
    closed = no_repeats(2)(written, torch.zeros(2, 10)) == float("-inf")
    assert closed.nonzero().tolist() == [[0, 5], [1, 5]]
    assert not (no_repeats(3)(written, torch.zeros(2, 10)) == float("-inf")).any()
    assert (no_repeats(1)(written, torch.zeros(2, 10)) == float("-inf")).nonzero().tolist() == [
        [0, 4],
        [0, 5],
        [0, 9],
        [1, 5],
        [1, 7],
        [1, 9],
    ]
    assert torch.equal(no_repeats(5)(written, torch.zeros(2, 10)), torch.zeros(2, 10))


def test_a_sequence_of_a_length_at_least():
    tokens = greedy(step, begin(1), batch=1, start=START, end=END, limit=10, restrictions=[at_least(3, END)])
    assert tokens[0, :3].tolist() == [2, 3, 2]  # after 3 the end, but for that
    found, _ = beam_search(step, begin(4), batch=1, beams=4, start=START, end=END, limit=6, restrictions=[at_least(4, END), no_repeats(2)])
    assert END not in found[0, :4].tolist()


def shares(**settings) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    drawn = [draw(logits, **{"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings, generator=generator) for _ in range(4000)]
    return [drawn.count(token) / len(drawn) for token in range(4)]


def test_draws_have_the_shares_they_should():
    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.81) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.03)
    sharp = [0.5**2, 0.3**2, 0.15**2, 0.05**2]
    assert shares(temperature=0.5) == pytest.approx([part / math.fsum(sharp) for part in sharp], abs=0.03)
    assert shares(temperature=0.0) == [1, 0, 0, 0]


def test_a_sample_is_a_function_of_its_seed_and_can_be_greedy():
    def drawn(seed: int, temperature: float = 1.0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return list(sample(step, begin(1), TABLE[START], count=30, temperature=temperature, generator=generator))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1, 0.0)[:3] == [2, 3, END]
    stopped = sample(step, begin(1), TABLE[START], count=30, temperature=0.0, generator=torch.Generator(), end=END)
    assert list(stopped) == [2, 3, END]
