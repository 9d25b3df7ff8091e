"""Masked words and next sentences: the loss by hand, the baseline beside it, what a person is told."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.data.prepared import Prepared, prepare
from components.data.sentence_pairs import TextFilePairs
from components.data.text_stream import IGNORED
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.errors import DataError
from components.models.bert import Bert
from components.objectives.pretraining import Pretraining, nll_by_place

WORDS = TokenSettings(tokens="word").train(["one two three four"], specials=BERTS_SPECIALS)


class Fixed:
    """A model that says the same words and pair for every batch."""

    def __init__(self, words: Tensor, follows: Tensor) -> None:
        self.words, self.follows = words, follows

    def __call__(self, inputs: Tensor, lengths: Tensor, segments: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.words, self.follows


def batch() -> dict[str, Tensor]:
    """Two examples; three words asked about: 5 and 6 in the first, 5 in the second."""
    targets = torch.tensor([[IGNORED, 5, IGNORED, 6], [IGNORED, IGNORED, 5, IGNORED]])
    return {
        "inputs": torch.full((2, 4), 7),
        "lengths": torch.tensor([4, 4]),
        "segments": torch.zeros(2, 4, dtype=torch.int64),
        "places": targets != IGNORED,
        "targets": targets,
        "elsewhere": torch.tensor([0, 1]),
        "commonest": torch.tensor([1, 1]),
        "index": torch.tensor([0, 1]),
    }


def test_losses_and_metrics_by_hand():
    objective = Pretraining(vocabulary=WORDS.dump())
    share = torch.full((3, len(WORDS)), 0.2 / (len(WORDS) - 1), dtype=torch.float64)
    for row, word in enumerate((5, 5, 5)):  # right, wrong, right
        share[row, word] = 0.8
    model = Fixed(share.log(), torch.tensor([[math.log(0.9), math.log(0.1)], [math.log(0.6), math.log(0.4)]], dtype=torch.float64))
    masked = -(2 * math.log(0.8) + math.log(0.2 / (len(WORDS) - 1))) / 3
    pairs = -(math.log(0.9) + math.log(0.4)) / 2
    losses = objective.losses(model, batch())
    assert losses["masked_words"].item() == pytest.approx(masked)
    assert losses["next_sentence"].item() == pytest.approx(pairs)
    assert losses["loss"].item() == pytest.approx(masked + pairs)
    outcomes = objective.outcomes(model, batch())
    assert outcomes["words"].tolist() == [2, 1]
    assert outcomes["right"].tolist() == [1, 1]
    assert outcomes["places"] == [[1, 3], [2]]
    found = objective.metrics(outcomes)
    assert found["masked_word_accuracy"] == pytest.approx(2 / 3)
    assert found["unigram_accuracy"] == pytest.approx(2 / 3)
    assert found["next_sentence_accuracy"] == 0.5
    assert found["nll"] == pytest.approx(masked + pairs, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(masked), rel=1e-5)
    by_place = {place: (mean, count) for place, mean, count in nll_by_place(outcomes)}
    assert by_place[1] == (pytest.approx(-math.log(0.8), abs=1e-4), 1)
    assert sorted(by_place) == [1, 2, 3]
    with pytest.raises(DataError, match="no examples"):
        objective.metrics({})


def prepared(tmp_path: Path) -> Prepared:
    lines = [f"{who} {what}. {what} {who} then." for who in ("ann", "bob", "cid", "dan") for what in ("eats", "runs", "sits", "reads")]
    (tmp_path / "text.txt").write_text("\n".join(lines * 10))
    data = TextFilePairs(path=str(tmp_path / "text.txt"), tokens="word", longest=16, validation=0.2, test=0.2)
    return prepare(data, tmp_path / "data", lambda source: pytest.fail(str(source)))


def small_bert(found: Prepared) -> Bert:
    torch.manual_seed(0)
    size = found.facts["vocabulary_size"]
    return Bert(vocabulary_size=size, predicts="pretraining", context=32, channels=32, heads=2, layers=1, dropout=0.0, activation=nn.GELU)


def test_bert_learns_a_batch_and_answers_a_person(tmp_path: Path):
    found = prepared(tmp_path)
    objective, model, split = Pretraining(vocabulary=found.facts["vocabulary"]), small_bert(found), found.splits["train"]
    one = split.batch(torch.arange(12))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = objective.losses(model, one)["loss"].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.losses(model, one)["loss"]
        loss.backward()
        optimizer.step()
    assert before > 2.5
    assert loss.item() < 0.3
    outcomes = objective.outcomes(model.eval(), one)
    assert objective.metrics(outcomes)["masked_word_accuracy"] > 0.9
    data = TextFilePairs(path="gone", tokens="word")
    told = objective.answer(model, data.read("ann [MASK].", found.facts))
    assert len(told["answers"]) == 5
    assert sum(answer["probability"] for answer in told["answers"]) <= 1 + 1e-9
    assert not {answer["label"] for answer in told["answers"]} & set(BERTS_SPECIALS)
    several = objective.answer(model, data.read("ann [MASK] [MASK]", found.facts))
    assert several["text"] == f"ann {several['words'][0][0]['label']} {several['words'][1][0]['label']}"
    pair = objective.answer(model, data.read("ann eats ||| bob snow", found.facts))
    assert 0 <= pair["follows"] <= 1
    assert pair["unknown"] == 1
    assert objective.explain(model, split).keys() == {"masked_words", "attention", "positions"}
    assert objective.figures(outcomes, split).keys() == {"loss_by_position"}
    assert objective.compare({"a": (model, outcomes), "b": (model, outcomes)}, split).keys() == {"loss_by_position"}


def test_what_a_batch_means_to_the_model(tmp_path: Path):
    """The words are told at the batch's own places: a model that puts each input's own vector out gets exactly what was left as it is."""
    found = prepared(tmp_path)
    split, vocabulary = found.splits["train"], Vocabulary.load(found.facts["vocabulary"])

    class Copies(nn.Module):
        def forward(self, inputs: Tensor, lengths: Tensor, segments: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            return nn.functional.one_hot(inputs[places], len(vocabulary)).float() * 50, torch.zeros(len(inputs), 2)

    one = split.batch(torch.arange(len(split)))
    outcomes = Pretraining(vocabulary=vocabulary.dump()).outcomes(Copies(), one)
    kept = ((one["inputs"] == one["targets"]) & one["places"]).sum(1)
    assert torch.equal(outcomes["right"].long(), kept)
