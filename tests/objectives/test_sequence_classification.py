"""Texts' classes: lengths reach the model, the baseline stands beside it, and what a word's influence is."""

import pytest
import torch
from torch import nn

from components.data.tokens import TokenSettings
from components.models.bilstm import BiLSTM
from components.models.lstm import LSTM
from components.objectives.sequence_classification import SequenceClassification, influence

VOCABULARY = TokenSettings().train(["a good film", "a bad film"])
OBJECTIVE = SequenceClassification(classes=2, class_names=["negative", "positive"], vocabulary=VOCABULARY.dump())


def batch(texts: list[str], **more) -> dict:
    ids = VOCABULARY.encode_all(texts)
    longest = max(map(len, ids))
    return {
        "inputs": torch.tensor([row + [0] * (longest - len(row)) for row in ids]),
        "lengths": torch.tensor([len(row) for row in ids]),
        "index": torch.arange(len(texts)),
        **more,
    }


def counting(inputs, lengths):
    """Logits that only know how long a text is."""
    return torch.stack([torch.zeros(len(lengths)), lengths.float() - 2], dim=1)


def test_lengths_and_baseline():
    given = batch(["film", "a good film"], targets=torch.tensor([0, 0]), baseline=torch.tensor([0, 1]))
    outcomes = OBJECTIVE.outcomes(counting, given)
    assert outcomes["prediction"].tolist() == [0, 1]
    assert outcomes["baseline_correct"].tolist() == [True, False]
    assert outcomes["length"].tolist() == [1, 3]
    metrics = OBJECTIVE.metrics(outcomes)
    assert (metrics["accuracy"], metrics["baseline_accuracy"]) == (0.5, 0.5)
    expected = -torch.tensor([[0.0, -1.0], [0.0, 1.0]]).log_softmax(1)[:, 0].mean()
    assert OBJECTIVE.losses(counting, given)["loss"].item() == pytest.approx(expected.item())


def test_an_answer_says_what_it_could_not_read():
    known = OBJECTIVE.answer(counting, batch(["a good film"]))
    assert known["answers"][0] == {"label": "positive", "probability": pytest.approx(0.731, abs=0.001)}
    assert "unknown" not in known
    assert OBJECTIVE.answer(counting, batch(["a strange film"]))["unknown"] == 1


class Linear(nn.Module):
    """The class is decided by a sum over words, so each word's share is known exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), 1)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.embed.weight[VOCABULARY.encode("good")] = 3.0
            self.embed.weight[VOCABULARY.encode("bad")] = -2.0

    def vectors(self, inputs):
        return self.embed(inputs)

    def read(self, vectors, lengths):
        total = vectors.sum((1, 2))
        return torch.stack([-total, total], dim=1)

    def forward(self, inputs, lengths):
        return self.read(self.vectors(inputs), lengths)


def test_a_words_influence_by_hand():
    moved = influence(Linear(), batch(["a good film", "bad film"]), torch.tensor([1, 0]))
    assert moved.tolist() == [[0, 6, 0], [4, 0, 0]]


class Texts:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.lengths = torch.tensor([len(VOCABULARY.encode(text)) for text in texts])

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, index, generator=None):
        return batch([self.texts[place] for place in index.tolist()], targets=torch.zeros(len(index), dtype=torch.int64))


def test_pictures_of_a_model_and_none_where_nothing_fits():
    torch.manual_seed(0)
    model = LSTM(vocabulary_size=len(VOCABULARY), classes=2, embedding=4, hidden=5, activation=nn.Tanh).eval()
    assert set(OBJECTIVE.explain(model, Texts(["a good film", "bad"]))) == {"words", "gates"}
    assert OBJECTIVE.explain(model, Texts(["film " * 50])) == {}
    assert OBJECTIVE.explain(nn.Linear(1, 1), Texts(["film"])) == {}


def test_gates_of_both_directions_are_drawn_over_the_texts_own_order():
    torch.manual_seed(0)
    model = BiLSTM(vocabulary_size=len(VOCABULARY), classes=2, embedding=4, hidden=5, layers=2, activation=nn.Tanh).eval()
    figure = OBJECTIVE.explain(model, Texts(["a good film", "bad"]))["gates"]
    panels = {axes.get_xlabel(): axes.images[0] for axes in figure.axes if axes.get_xlabel()}
    assert list(panels) == ["reads forwards", "reads backwards"]
    assert "layer 1 of 2; 5 of 5 units in each direction" in figure.axes[0].get_title(loc="left")
    for drawn, gates in zip(panels.values(), model.gates(batch(["a good film"])["inputs"]), strict=False):  # then come those of layer 2
        state = gates["state"][0]
        assert torch.tensor(drawn.get_array()).allclose(state[:, state.std(0).argsort(descending=True)].T)


def test_names_from_the_right_do_not_turn_the_words_picture():
    objective = SequenceClassification(classes=2, class_names=["רע", "טוב"], vocabulary=VOCABULARY.dump())
    first = objective.explain(Linear(), Texts(["a good film"]))["words"].axes[0].texts[0]
    assert first.get_text() == "\u2067טוב\u2069 100% (is \u2067רע\u2069)"
