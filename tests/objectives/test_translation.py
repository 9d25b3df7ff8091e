"""Translation: scores that sacreBLEU's own cases give, perplexity by hand, writing with one beam and more, the encoder run once."""

import math

import pytest
import torch
from torch import nn

from components.data.parallel_text import PairSplit
from components.data.ragged import Ragged
from components.data.tokens import END, PAD, START, TokenSettings
from components.errors import DataError
from components.models.seq2seq import Seq2Seq
from components.objectives.translation import Translation, bleu, bleu_by_length, chrf

PAIRS = [("eins zwei", "one two"), ("drei", "three"), ("zwei drei eins", "two three one"), ("eins", "one")]
SOURCE = TokenSettings(tokens="word").train([source for source, _ in PAIRS])
TARGET = TokenSettings(tokens="word").train([target for _, target in PAIRS])


def objective(**settings) -> Translation:
    return Translation(vocabulary=SOURCE.dump(), target_vocabulary=TARGET.dump(), **settings)


def split() -> PairSplit:
    texts = [Ragged.of_texts([pair[side] for pair in PAIRS]) for side in (0, 1)]
    return PairSplit(*(Ragged.of(v.encode_all([pair[side] for pair in PAIRS])) for side, v in enumerate((SOURCE, TARGET))), *texts)


@pytest.fixture(scope="module")
def learnt() -> Seq2Seq:
    """A model that knows the four pairs by heart."""
    torch.manual_seed(0)
    model = Seq2Seq(vocabulary_size=len(SOURCE), target_vocabulary_size=len(TARGET), embedding=16, hidden=32, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = split().batch(torch.arange(4))
    for _ in range(80):
        optimizer.zero_grad()
        objective().losses(model, batch)["loss"].backward()
        optimizer.step()
    return model.eval()


def test_bleu_and_chrf_are_sacrebleus():
    assert bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(100)
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 quadruples; no brevity penalty
    assert bleu(["the cat sat on the rug"], ["the cat sat on the mat"]) == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    # all four precisions are 1, brevity exp(1 − 6/5)
    assert bleu(["the cat sat on the"], ["the cat sat on the mat"]) == pytest.approx(100 * math.exp(1 - 6 / 5))
    assert chrf(["abc"], ["abc"]) == pytest.approx(100)
    assert chrf(["abc"], ["xyz"]) == 0


@pytest.mark.parametrize("beams", [1, 3])
def test_what_a_model_that_knows_everything_gets(learnt: Seq2Seq, beams: int):
    given = objective(beams=beams)
    outcomes = given.outcomes(learnt, split().batch(torch.arange(4)))
    assert outcomes["hypothesis"] == [target for _, target in PAIRS] == outcomes["reference"]
    assert outcomes["tokens"].tolist() == [3, 2, 4, 2]
    assert outcomes["source_length"].tolist() == [2, 1, 3, 1]
    metrics = given.metrics(outcomes)
    assert metrics["exact_match"] == 1
    assert metrics["chrf"] == pytest.approx(100)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nll"]))
    assert metrics["perplexity"] < 1.2


def test_perplexity_by_hand():
    model = Seq2Seq(vocabulary_size=len(SOURCE), target_vocabulary_size=8, embedding=4, hidden=4, activation=nn.Tanh)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
    batch = split().batch(torch.arange(4))
    outcomes = objective(limit=3).outcomes(model, batch)
    assert outcomes["nll"].tolist() == pytest.approx([count * math.log(8) for count in (3, 2, 4, 2)])
    assert objective().losses(model, batch)["loss"].item() == pytest.approx(math.log(8))
    assert objective().metrics(outcomes | {"hypothesis": ["x"] * 4})["perplexity"] == pytest.approx(8)


def test_padding_is_no_part_of_the_loss(learnt: Seq2Seq):
    one = split().batch(torch.tensor([1]))
    both = split().batch(torch.tensor([1, 2]))
    assert int((both["targets"][0] == PAD).sum()) == 2
    rows = objective().outcomes(learnt, both)["nll"], objective().outcomes(learnt, one)["nll"]
    assert rows[0][0].item() == pytest.approx(rows[1][0].item(), abs=1e-5)


def test_the_encoder_runs_once_whatever_the_number_of_beams(learnt: Seq2Seq):
    calls = []
    handle = learnt.encoder.register_forward_hook(lambda *_: calls.append(1))
    objective(beams=4).write(learnt, split().batch(torch.arange(4)))
    handle.remove()
    assert len(calls) == 1


def test_an_answer(learnt: Seq2Seq):
    def given(text: str) -> dict:
        ids = SOURCE.encode(text)
        return {"inputs": torch.tensor([ids]), "lengths": torch.tensor([len(ids)]), "index": torch.tensor([0])}

    assert objective().answer(learnt, given("drei")) == {"text": "three"}
    assert objective(beams=2).answer(learnt, given("eins zwei"))["text"] == "one two"
    assert objective().answer(learnt, given("drei acht"))["unknown"] == 1
    assert objective(limit=1).answer(learnt, given("eins zwei")) == {"text": "one", "cut": 1}


def test_where_it_looked(learnt: Seq2Seq):
    batch = split().batch(torch.tensor([2]))
    written, weights = objective().looked(learnt, batch)
    assert written.tolist() == [*TARGET.encode("two three one"), END]
    assert weights.shape == (1, 1, 4, 3)  # layers, heads, written, read
    assert torch.allclose(weights.sum(-1), torch.ones(1, 1, 4))
    assert START not in written


def test_groups_by_length_keep_sentences_of_one_length_together():
    rows = [(1, "a b c d", "a b c d")] * 3 + [(2, "x", "a b c d")] + [(9, "a b c d e", "a b c d e")] * 2
    outcomes = {
        "source_length": torch.tensor([length for length, _, _ in rows]),
        "hypothesis": [hypothesis for _, hypothesis, _ in rows],
        "reference": [reference for _, _, reference in rows],
    }
    found = bleu_by_length(outcomes, groups=3)
    assert [group[:3] for group in found] == [(1, 1, 3), (2, 2, 1), (9, 9, 2)]
    assert [group[3] for group in found] == pytest.approx([100, bleu(["x"], ["a b c d"]), 100])


def test_several_models_are_compared_on_the_same_sentences(learnt: Seq2Seq):
    whole = objective().outcomes(learnt, split().batch(torch.arange(4)))
    turned = objective().outcomes(learnt, split().batch(torch.tensor([3, 2, 1, 0])))
    turned["source_length"] = torch.tensor([9, 9, 9, 9])  # in another vocabulary
    drawn = objective().compare({"one": (learnt, whole), "other": (learnt, turned)}, split())["bleu_by_length"]
    one, other = (list(line.get_ydata()) for line in drawn.axes[0].lines)
    assert one == other
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == ["1\n(2)", "2\n(1)", "3\n(1)"]


def test_pictures_and_nothing_to_measure(learnt: Seq2Seq):
    outcomes = objective().outcomes(learnt, split().batch(torch.arange(4)))
    assert set(objective().figures(outcomes, split())) == {"bleu_by_length"}
    assert set(objective().explain(learnt, split())) == {"alignment-1", "alignment-2"}
    plain = Seq2Seq(vocabulary_size=9, target_vocabulary_size=9, attention="none", embedding=4, hidden=4, activation=nn.Tanh)
    assert objective().explain(plain, split()) == {}
    with pytest.raises(DataError, match="no examples"):
        objective().metrics({})
    assert objective(best_by="nll").monitor == ("nll", "min")
    assert objective().monitor == ("bleu", "max")
