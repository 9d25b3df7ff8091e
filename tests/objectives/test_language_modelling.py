"""Language modelling: perplexity and bits a character by hand, what is not asked, and how an answer goes on."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from components.data.text_stream import IGNORED, StreamSplit
from components.data.tokens import TokenSettings
from components.errors import DataError
from components.models.gru import GRU
from components.models.rnn import RNN
from components.objectives.language_modelling import LanguageModelling, gradient_back_in_time, nll_by_place, perplexity, until

VOCABULARY = TokenSettings(tokens="character").train(["abc"])


def batch(**more) -> dict:
    return {
        "inputs": torch.tensor([[4, 5], [6, 0]]),
        "targets": torch.tensor([[5, 6], [4, IGNORED]]),
        "characters": torch.tensor([2, 1]),
        "index": torch.tensor([0, 1]),
        **more,
    }


def half_sure(inputs):
    """Token 6 everywhere with probability 1/2, the other six share the rest."""
    return torch.full((*inputs.shape, 7), 1 / 12).log().index_fill(-1, torch.tensor([6]), math.log(0.5))


def test_by_hand():
    objective = LanguageModelling()
    outcomes = objective.outcomes(half_sure, batch())
    assert outcomes["tokens"].tolist() == [2, 1]
    assert outcomes["nll"].tolist() == pytest.approx([math.log(12) + math.log(2), math.log(12)])
    assert outcomes["right"].tolist() == [1, 0]
    total = 2 * math.log(12) + math.log(2)
    assert objective.metrics(outcomes) == pytest.approx(
        {
            "nll": total / 3,
            "perplexity": (12 * 12 * 2) ** (1 / 3),
            "accuracy": 1 / 3,
            "bits_per_character": total / math.log(2) / 3,
        }
    )
    assert objective.losses(half_sure, batch())["loss"].item() == pytest.approx(total / 3)


def test_without_characters_there_are_no_bits_per_character():
    given = batch()
    del given["characters"]
    assert "bits_per_character" not in LanguageModelling().metrics(LanguageModelling().outcomes(half_sure, given))
    with pytest.raises(DataError, match="no examples"):
        LanguageModelling().metrics({})
    assert perplexity(1000) == math.inf


def model() -> GRU:
    torch.manual_seed(0)
    return GRU(vocabulary_size=7, classes=7, predicts="next", embedding=4, hidden=8, activation=nn.Tanh).eval()


def prompt(ids: list[int]) -> dict:
    return {"inputs": torch.tensor([ids]), "lengths": torch.tensor([len(ids)]), "index": torch.tensor([0])}


def test_a_greedy_continuation_is_what_the_whole_model_says():
    objective = LanguageModelling(vocabulary=VOCABULARY.dump(), continuation=6, temperature=0.0)
    net, ids = model(), [4, 5]
    with torch.no_grad():
        net.head.bias[3] = 100  # the end mark, which is no part of a text
        for _ in range(6):
            ids.append(4 + int(net(torch.tensor([ids]))[0, -1, 4:].argmax()))
    assert objective.answer(net, prompt([4, 5]))["text"] == VOCABULARY.decode(ids[2:])


def test_a_drawn_continuation_is_a_function_of_its_seed():
    def text(seed: int) -> str:
        objective = LanguageModelling(vocabulary=VOCABULARY.dump(), continuation=40, temperature=1.0, generation_seed=seed)
        return str(objective.answer(model(), prompt([4, 5]))["text"])

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_an_answer_says_what_it_could_not_read_and_refuses_what_has_no_words():
    objective = LanguageModelling(vocabulary=VOCABULARY.dump(), continuation=1)
    assert objective.answer(model(), prompt([4, 1, 1]))["unknown"] == 2
    with pytest.raises(DataError, match="these data have no words"):
        LanguageModelling().answer(model(), prompt([4]))


def test_the_gradient_back_in_time_of_a_linear_recurrence():
    net = RNN(vocabulary_size=7, classes=7, predicts="next", embedding=1, hidden=1, activation=nn.ReLU)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", 1.0), ("weight_hh_l0", 0.5), ("bias_ih_l0", 0.0), ("bias_hh_l0", 0.0)):
            getattr(net.recurrent.cell, name).fill_(value)
        net.embed.weight.fill_(1.0)  # positive, so the rectifier lets everything through
    split = StreamSplit(torch.tensor([4, 5, 6, 5, 4], dtype=torch.int32), torch.arange(1, 6), block=4)
    assert gradient_back_in_time(net, split).tolist() == pytest.approx([1, 0.5, 0.25, 0.125])
    drawn = LanguageModelling(vocabulary=VOCABULARY.dump()).explain(net, split)
    assert set(drawn) == {"memory", "gates", "loss_by_position"}
    both = LanguageModelling().compare({"RNN": (net, {}), "GRU": (model(), {}), "none": (nn.Embedding(7, 7), {})}, split)
    assert [line.get_label() for line in both["memory"].axes[0].lines] == ["RNN", "GRU"]
    assert [text.get_text() for text in both["loss_by_position"].legends[0].get_texts()] == ["RNN", "GRU", "none"]


def test_the_loss_at_every_place_is_the_mean_over_examples():
    table = nn.Embedding(7, 7)
    split = StreamSplit(torch.tensor([4, 5, 6, 5, 4, 5], dtype=torch.int32), torch.arange(1, 7), block=2)
    says = table.weight.detach().double().log_softmax(-1)
    wanted = [(0, [(4, 5), (6, 5)]), (1, [(5, 6), (5, 4)])]
    if len(split) == 3:
        wanted[0][1].append((4, 5))
    found = nll_by_place(table, split)
    assert [(place, count) for place, _, count in found] == [(place, len(pairs)) for place, pairs in wanted]
    for (_, mean, _), (_, pairs) in zip(found, wanted, strict=True):
        assert mean == pytest.approx(-sum(float(says[read, told]) for read, told in pairs) / len(pairs), rel=1e-5)
    assert nll_by_place(table, split, examples=1)[0][2] == 1


def test_a_continuation_comes_in_pieces_and_ends_at_a_stop():
    assert list(until(["one ", "two", "\n", "\nthree"], ["\n\n"])) == ["one ", "two"]
    assert "".join(until(["a b", "c st", "ill no ", "stop"], ["stop", "never"])) == "a bc still no "
    assert list(until(["st", "o"], ["stop"])) == ["sto"]  # what was held back is said when nothing more comes
    assert list(until(["abc"], [])) == ["abc"]
    objective = LanguageModelling(vocabulary=VOCABULARY.dump(), continuation=30, temperature=2.0)
    whole = objective.answer(model(), prompt([4, 5]))["text"]
    pieces = list(objective.stream(model(), prompt([4, 5])))
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    stopped = replace(objective, stop=[whole[7:9]]).answer(model(), prompt([4, 5]))["text"]
    assert stopped == whole[: whole.index(whole[7:9])]
    assert torch.is_grad_enabled()
