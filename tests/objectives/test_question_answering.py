"""Finding passages: the span search beside trying everything, windows joined, no answer, scores, what a person is told."""

import math

import pytest
import torch
from torch import Tensor, nn

from components.data.question_split import Question, QuestionSplit, tensors_of
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.figures.question_answering import around, shortened
from components.models.bert import Bert
from components.objectives.question_answering import QuestionAnswering, best_spans, grouped, kind

CONTEXT = "Nikola Tesla , born 1856 in Smiljan , moved to New York ."
ASK = "where was he born ?"
WORDS = TokenSettings(tokens="word").train([CONTEXT, ASK], specials=BERTS_SPECIALS)


def split(*answers: str, longest: int = 64) -> QuestionSplit:
    questions = [Question(str(n), ASK, CONTEXT, [(CONTEXT.index(a), a)] if a else [], "g", "") for n, a in enumerate(answers)]
    return QuestionSplit(tensors_of(questions, WORDS, 10)[0], WORDS, longest=longest, overlap=3)


class Points:
    """A model that gives each window's two ends the scores that `scores` has for its tokens."""

    def __init__(self, **scores: tuple[float, float]) -> None:
        self.scores = scores

    def __call__(self, inputs: Tensor, lengths: Tensor, segments: Tensor) -> Tensor:
        return torch.tensor([[self.scores.get(name.strip("[]"), (0.0, 0.0)) for name in WORDS.tokens(row.tolist())] for row in inputs])


def objective(**settings) -> QuestionAnswering:
    return QuestionAnswering(vocabulary=WORDS.dump(), **settings)


def test_long_cells_lose_their_middle_and_a_context_what_is_far_from_the_answer():
    assert shortened("one two three", 13) == "one two three"
    assert shortened("one two three four five six seven", 20) == "one two … seven"
    assert around("a b c", "c", 5) == "a b c"
    text = " ".join(str(number) for number in range(100))
    assert around(text, "50", 20) == "… 48 49 50 51 52 …"
    assert around(text, "0", 20).startswith("0 1 2 3")
    assert around(text, "99", 20).endswith("97 98 99")
    assert "50" in around(text, "nowhere", 400)


def test_answers_are_shown_with_a_key_and_their_contexts():
    part = split("Smiljan", "Smiljan", "1856")
    outcomes = {
        "index": torch.arange(3),
        "question": [ASK] * 3,
        "answers": [["Smiljan"], ["Smiljan"], ["1856"]],
        "prediction": ["Smiljan", "in Smiljan", "York"],
        "f1": torch.tensor([1.0, 0.7, 0.0]),
    }
    figure = objective().figures(outcomes, part)["answers"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["as people did", "some of the words", "none of them"]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count(CONTEXT) == 3
    fills = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    boxes = [text.get_bbox_patch().get_facecolor() for text in figure.axes[0].texts if text.get_bbox_patch() is not None]
    assert boxes == fills


def test_the_search_finds_what_trying_everything_finds():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 12, 2, generator=generator)
    allowed = torch.rand(3, 12, generator=generator) < 0.7
    scores, places = best_spans(logits, allowed, longest=4, best=5)
    for window in range(3):
        every = [
            (float(logits[window, i, 0] + logits[window, j, 1]), i, j)
            for i in range(12)
            for j in range(i, min(i + 4, 12))
            if allowed[window, i] and allowed[window, j]
        ]
        expected = sorted(every, reverse=True)[:5]
        assert scores[window].tolist() == pytest.approx([score for score, *_ in expected])
        assert places[window].tolist() == [[i, j] for _, i, j in expected]


def test_there_may_be_fewer_passages_than_asked_for():
    scores, _ = best_spans(torch.zeros(1, 3, 2), torch.tensor([[False, True, False]]), longest=4, best=5)
    assert scores.tolist() == [[0.0] + [-math.inf] * 4]


def test_the_best_passage_is_read_in_the_text():
    batch = split("Smiljan", "New York").batch(torch.tensor([0, 1]))
    model = Points(born=(9.0, -9.0), Smiljan=(3.0, 3.0))
    assert objective(longest_answer=4).outcomes(model, batch)["prediction"] == ["born 1856 in Smiljan"] * 2
    assert objective(longest_answer=3).outcomes(model, batch)["prediction"][0] in ("born 1856", "born 1856 in")  # alike: 9 + 0
    model = Points(Smiljan=(3.0, 3.0), New=(2.0, 0.0), York=(0.0, 2.5), where=(99.0, 99.0))
    outcomes = objective().outcomes(model, batch)
    assert outcomes["prediction"] == ["Smiljan", "Smiljan"]  # a word of the question is no answer
    assert outcomes["exact_match"].tolist() == [1, 0]
    assert outcomes["f1"].tolist() == [1, 0]
    assert objective().metrics(outcomes)["f1"] == 0.5


def test_the_loss_leaves_the_question_out():
    batch = split("Smiljan").batch(torch.tensor([0]))
    loss = objective().losses(Points(where=(50.0, 50.0)), batch)["loss"]
    assert loss.item() == pytest.approx(math.log(14), rel=1e-5)  # 13 tokens of context, and [CLS]
    surer = objective().losses(Points(Smiljan=(2.0, 3.0)), batch)["loss"]
    assert surer.item() == pytest.approx((math.log(13 + math.e**2) - 2 + math.log(13 + math.e**3) - 3) / 2, rel=1e-5)


def test_windows_of_a_question_are_one_question():
    batch = split("Smiljan", "New York", longest=16).batch(torch.tensor([1, 0]))
    assert len(batch["inputs"]) == 4  # 8 tokens of 13 a window
    outcomes = objective().outcomes(Points(New=(2.0, 0.0), York=(0.0, 2.0)), batch)
    assert outcomes["windows"].tolist() == [2, 2]
    assert outcomes["prediction"] == ["New York", "New York"]
    assert outcomes["index"].tolist() == [1, 0]
    assert outcomes["nll"].shape == (2,)


def test_nothing_is_an_answer_where_a_margin_says_so():
    batch = split("", "Smiljan").batch(torch.tensor([0, 1]))
    model = Points(CLS=(2.0, 2.0), Smiljan=(2.5, 2.5))
    assert objective().outcomes(model, batch)["prediction"] == ["Smiljan", "Smiljan"]
    assert objective(no_answer_margin=0.5).outcomes(model, batch)["prediction"] == ["Smiljan", "Smiljan"]
    outcomes = objective(no_answer_margin=1.0).outcomes(model, batch)
    assert outcomes["prediction"] == ["", ""]
    assert outcomes["exact_match"].tolist() == [1, 0]
    told = objective(no_answer_margin=1.0).answer(model, split("").batch(torch.tensor([0])))
    assert told["answers"][0]["label"] == "(no answer)"


def test_a_person_is_given_passages_with_their_places():
    told = objective().answer(Points(New=(2.0, 0.0), York=(0.0, 2.0), Smiljan=(1.0, 1.5)), split("").batch(torch.tensor([0])))
    assert told["answers"][0]["label"] == "New York"
    assert [CONTEXT[answer["begin"] : answer["stop"]] == answer["label"] for answer in told["answers"]] == [True] * 3
    probability = [answer["probability"] for answer in told["answers"]]
    assert probability == sorted(probability, reverse=True)


def test_bert_learns_to_point():
    torch.manual_seed(0)
    one = split("Smiljan", "New York", "1856").batch(torch.tensor([0]))
    model = Bert(vocabulary_size=len(WORDS), predicts="span", context=64, channels=32, heads=2, layers=1, dropout=0.0, activation=nn.GELU)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective().losses(model, one)["loss"]
        loss.backward()
        optimizer.step()
    outcomes = objective().outcomes(model.eval(), one)
    assert outcomes["prediction"] == ["Smiljan"]
    figures = objective().figures(outcomes, split("Smiljan"))
    assert figures.keys() == {"f1_by_question", "f1_by_length", "answers"}
    assert objective().compare({"a": (model, outcomes), "b": (model, outcomes)}, split("Smiljan")).keys() == {
        "f1_by_question",
        "f1_by_length",
    }


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Who wrote it?", "who"),
        ("In which year was what written?", "which"),
        ("How many people live there?", "how many"),
        ("By whom was it found?", "who"),
        ("How is it made?", "how"),
        ("Name the river.", "other"),
        ("Somewhat odd: the whole?", "other"),
    ],
)
def test_what_a_question_asks_with(question: str, name: str):
    assert kind(question) == name


def test_values_are_grouped():
    assert grouped(["a", "b", "a"], torch.tensor([1.0, 0.5, 0.0])) == {"a": (0.5, 2), "b": (0.5, 1)}


def test_a_vocabulary_of_its_own_is_enough():
    assert Vocabulary.load(objective().vocabulary).start == WORDS.start
