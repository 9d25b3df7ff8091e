"""Summaries: ROUGE by hand, the lead sentence beside, a model that knows everything; what is written whole again."""

import math

import pytest
import torch
from torch import nn

from components.data.parallel_text import PairSplit
from components.data.ragged import Ragged
from components.data.tokens import TokenSettings
from components.errors import DataError
from components.figures.writing import rouge_beside_lead, written_texts
from components.metrics.summaries import lead_sentence, rouge
from components.models.bart import Bart
from components.objectives.denoising import Denoising
from components.objectives.summarization import Summarization

PAIRS = [
    ("add two numbers. they are added.", "add numbers"),
    ("draw a line! it is red.", "draw line"),
    ("read the file", "read file"),
    ("close it. then go", "close"),
]
VOCABULARY = TokenSettings(tokens="word").train([text for pair in PAIRS for text in pair])
WORDS = {"vocabulary": VOCABULARY.dump(), "target_vocabulary": VOCABULARY.dump()}


def split() -> PairSplit:
    texts = [Ragged.of_texts([pair[side] for pair in PAIRS]) for side in (0, 1)]
    return PairSplit(*(Ragged.of(VOCABULARY.encode_all([pair[side] for pair in PAIRS])) for side in (0, 1)), *texts)


@pytest.fixture(scope="module")
def learnt() -> Bart:
    """A model that knows the four summaries by heart."""
    torch.manual_seed(0)
    size = len(VOCABULARY)
    model = Bart(
        vocabulary_size=size,
        target_vocabulary_size=size,
        context=12,
        channels=24,
        heads=2,
        layers=1,
        dropout=0.0,
        activation=nn.GELU,
    )
    nn.init.normal_(model.embed.weight, std=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = split().batch(torch.arange(4))
    for _ in range(80):
        optimizer.zero_grad()
        Summarization(**WORDS).losses(model, batch)["loss"].backward()
        optimizer.step()
    return model.eval()


def test_rouge_by_hand():
    """Of 4 and 3 words 2 are shared, no pair is, and the longest common subsequence has 2: F = 2·2/7 and 0."""
    found = rouge(["the cat sat down"], ["the dog sat"])
    assert found == pytest.approx({"rouge1": 100 * 4 / 7, "rouge2": 0, "rougeL": 100 * 4 / 7})
    # the order counts for the subsequence alone; stemming makes cats a cat
    assert rouge(["cats b"], ["b cat"]) == pytest.approx({"rouge1": 100, "rouge2": 0, "rougeL": 50})
    assert rouge(["a b", "x"], ["a b", "y"])["rouge2"] == pytest.approx(50)
    with pytest.raises(ValueError, match="2 summaries cannot be measured against 1 references"):
        rouge(["a", "b"], ["a"])


def test_the_lead_sentence():
    assert lead_sentence("Add two. Then go.") == "Add two."
    assert lead_sentence("Version 1.5 is out! Yes.") == "Version 1.5 is out!"
    assert lead_sentence("  no sentence ends here ") == "no sentence ends here"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_that_knows_everything_and_the_lead_beside_it(learnt: Bart, beams: int):
    objective = Summarization(**WORDS, beams=beams, no_repeat=2)
    outcomes = objective.outcomes(learnt, split().batch(torch.arange(4)))
    assert outcomes["hypothesis"] == [summary for _, summary in PAIRS] == outcomes["reference"]
    assert outcomes["lead"] == ["add two numbers.", "draw a line!", "read the file", "close it."]
    metrics = objective.metrics(outcomes)
    assert metrics["rouge1"] == metrics["rougeL"] == pytest.approx(100)
    assert metrics["rouge2"] == pytest.approx(75)  # one word has no pairs
    # shared words 2 of 3 and 2, three times, then 1 of 2 and 1: F = 4/5 and 2/3
    assert metrics["lead_rouge1"] == pytest.approx(100 * (3 * 4 / 5 + 2 / 3) / 4)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nll"]))
    assert metrics["perplexity"] < 1.5
    assert objective.monitor == ("rougeL", "max")


def test_pictures_and_nothing_to_measure(learnt: Bart):
    objective = Summarization(**WORDS)
    batch = split().batch(torch.arange(4))
    drawn = objective.figures(objective.outcomes(learnt, batch), split())["rouge"]
    assert [round(bar.get_height()) for bar in drawn.axes[0].patches[:3]] == [100, 75, 100]
    assert {"alignment-1", "cross-attention"} <= set(objective.explain(learnt, split()))
    shown = [text.get_text() for text in objective.samples(learnt, batch).axes[0].texts]
    assert shown.count("add numbers") == 2  # the model's and the person's
    assert "(nothing)" in [text.get_text() for text in written_texts([("a", "", "b")]).axes[0].texts]
    below = rouge_beside_lead(
        {f"{who}{name}": value for who, value in (("", 1.0), ("lead_", 2.0)) for name in ("rouge1", "rouge2", "rougeL")}
    )
    assert "below the lead sentence's 2.0" in below.get_suptitle()
    with pytest.raises(DataError, match="no examples"):
        objective.metrics({})


def test_denoising_counts_right_tokens(learnt: Bart):
    objective = Denoising(**WORDS)
    batch = split().batch(torch.arange(4))
    outcomes = objective.outcomes(learnt, batch)
    assert outcomes["tokens"].tolist() == outcomes["right"].tolist() == [3, 3, 3, 2]
    assert objective.metrics(outcomes)["accuracy"] == 1
    wrong = batch | {"targets": batch["targets"].clone()}
    wrong["targets"][0, 0] = VOCABULARY.encode("red")[0]
    assert objective.metrics(objective.outcomes(learnt, wrong))["accuracy"] == pytest.approx(10 / 11)
    assert objective.monitor == ("nll", "min")
