"""Relations: the task's F1 beside TF-IDF's, and that BERT reads the marks' places."""

import torch
from torch import nn

from components.data.ragged import Ragged
from components.data.relations import RelationSplit, encoded
from components.data.tokens import BERTS_SPECIALS, TokenSettings
from components.models.bert import Bert
from components.objectives.relations import Relations

NAMES = ["Part(e1,e2)", "Part(e2,e1)", "Other"]
TEXTS = ["the <e1>arm</e1> of the <e2>man</e2>", "the <e1>man</e1> has an <e2>arm</e2>", "the <e1>man</e1> and the <e2>arm</e2>"]
MARKED = (*BERTS_SPECIALS, "[E1]", "[/E1]", "[E2]", "[/E2]")
WORDS = TokenSettings(tokens="word").train(["the arm of man has an and"], specials=MARKED)


def split() -> RelationSplit:
    read = [encoded(text, WORDS, 30) for text in TEXTS]
    return RelationSplit(
        tokens=Ragged.of([ids for ids, _ in read]),
        places=torch.tensor([places for _, places in read]),
        texts=Ragged.of_texts(TEXTS),
        targets=torch.tensor([0, 1, 2]),
        baseline=torch.tensor([0, 0, 2]),
        pad=WORDS.pad,
    )


def test_f1_is_the_tasks_and_the_baseline_stands_beside_it():
    objective = Relations(classes=3, class_names=NAMES, vocabulary=WORDS.dump())
    batch = split().batch(torch.arange(3))
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [9.0, 0, 0]])
    seen = []

    def model(inputs: torch.Tensor, lengths: torch.Tensor, segments: None, places: torch.Tensor) -> torch.Tensor:
        seen.append((segments, places.tolist()))
        return logits

    found = objective.metrics(objective.outcomes(model, batch))
    assert seen == [(None, batch["places"].tolist())]
    assert found["accuracy"] == 2 / 3
    assert found["f1"] == 2 * 2 / (2 + 3)  # two hits; two given, three told in either direction
    assert found["baseline_accuracy"] == 2 / 3
    assert found["baseline_f1"] == 2 * 1 / (2 + 2)  # one of two told the wrong way round
    assert objective.monitor == ("f1", "max")


def test_bert_tells_relations_by_the_marks_places():
    torch.manual_seed(0)
    objective = Relations(classes=3, class_names=NAMES, vocabulary=WORDS.dump())
    model = Bert(
        vocabulary_size=len(WORDS),
        classes=3,
        predicts="relation",
        context=32,
        channels=32,
        heads=2,
        layers=1,
        dropout=0.0,
        activation=nn.GELU,
    )
    batch = split().batch(torch.arange(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        objective.losses(model, batch)["loss"].backward()
        optimizer.step()
    outcomes = objective.outcomes(model.eval(), batch)
    assert outcomes["correct"].all()
    assert objective.metrics(outcomes)["f1"] == 1
    told = objective.answer(model, split().batch(torch.tensor([1])))
    assert told["answers"][0]["label"] == "Part(e2,e1)"
    assert objective.figures(outcomes, split()).keys() == {"confusion", "classes", "calibration"}
    assert objective.explain(model, split()).keys() == {"attention", "positions"}
