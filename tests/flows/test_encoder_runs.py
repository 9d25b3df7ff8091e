"""BERT's three questions from data to answer: passages, relations and masked words by `lab predict` and by a logged model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_command import lab
from trainings import here, result

from components.data.tokens import Vocabulary
from flows.lab.settings import Settings
from flows.parts import load_model, prepare_data
from flows.records import logged_model, serving

TINY = [
    "model=bert", "model.channels=16", "model.heads=2", "model.layers=1", "model.context=64", "activation=gelu", "trainer.threads=1",
    "trainer.epochs=1", "trainer.batch_size=16", "data.tokens=word", "data.longest=48",
]  # fmt: skip
CITIES = ["Oslo", "Bern", "Rome", "Kyiv", "Lima", "Baku"]


@pytest.fixture(scope="module")
def settings(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lab with three encoders, all hardly trained."""
    folder = tmp_path_factory.mktemp("encoders")
    rows = [{"question": "Which city?", "context": f"Day {n}: she is in {CITIES[n % 6]} now.", "answer": CITIES[n % 6]} for n in range(30)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    kinds = [("Near(e1,e2)", "is near"), ("Other", "and")]
    told = [
        {"text": f"<e1>{CITIES[n % 6]}</e1> {kinds[n % 2][1]} <e2>{CITIES[n % 5]}</e2>", "relation": kinds[n % 2][0]} for n in range(40)
    ]
    (folder / "relations.jsonl").write_text("\n".join(map(json.dumps, told)))
    (folder / "text.txt").write_text("\n".join(f"{city} is a city. It is not {other}." for city in CITIES for other in CITIES * 4))
    asks = ["data=questions_jsonl", f"data.path={folder / 'questions.jsonl'}", "data.longest_question=8", "data.overlap=8"]
    here(module_settings, [*asks, *TINY, "objective=question_answering"], "answers")
    here(module_settings, ["data=relations_jsonl", f"data.path={folder / 'relations.jsonl'}", *TINY, "objective=relations"], "relations")
    here(module_settings, ["data=text_file_pairs", f"data.path={folder / 'text.txt'}", *TINY, "objective=pretraining"], "masked")
    return module_settings


def test_a_question_gets_a_passage_of_its_context(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "asked.json").write_text(json.dumps({"question": "Which city?", "context": "She is in Rome now."}))
    given = ["Which city? ||| He went to Oslo.", str(tmp_path / "asked.json"), "Which city?"]
    first, second, wrong = lab(settings, "predict", "answers", *given, "--json").json["predictions"]
    for found, context in ((first, "He went to Oslo."), (second, "She is in Rome now.")):
        for answer in found["answers"]:
            assert context[answer["begin"] : answer["stop"]] == answer["label"]
    assert "write a question, |||" in wrong["error"]
    assert "%" in lab(settings, "predict", "answers", given[0]).out


def test_marked_things_get_a_relation(settings: Settings) -> None:
    found = lab(settings, "predict", "relations", "<e1>Oslo</e1> is near <e2>Bern</e2>", "Oslo is near Bern", "--json").json["predictions"]
    assert {answer["label"] for answer in found[0]["answers"]} == {"Near(e1,e2)", "Other"}
    assert "mark two things" in found[1]["error"]
    alone = lab(settings, "predict", "relations", "Oslo")
    assert (alone.code, alone.err) == (2, "lab: mark two things that do not overlap, once each: <e1>…</e1> and <e2>…</e2>\n")
    long = f"<e1>Oslo</e1> is near <e2>Bern</e2> {'and Rome ' * 100}"
    done = lab(settings, "predict", "relations", long, "--json")
    (answer,) = done.json["predictions"]
    assert (done.code, answer["truncated"], answer["tokens"]) == (0, True, 208 + 2)
    assert 8 < answer["tokens_read"] < 100


@pytest.mark.parametrize("run", ["answers", "relations", "masked"])
def test_where_an_encoder_looks_is_drawn(settings: Settings, run: str) -> None:
    loaded = load_model(settings.runs / run / "model")
    split = prepare_data(loaded.config, settings).splits["test"]
    drawn = loaded.objective.explain(loaded.model, split)  # type: ignore[attr-defined]
    assert {"attention", "positions"} <= set(drawn)
    batch = split.batch(torch.tensor([0]))
    read = min(int(batch["lengths"][0]), 40)
    assert drawn["attention"].axes[2].images[0].get_array().shape == (read, read)


def test_a_masked_word_is_told(settings: Settings) -> None:
    found = lab(settings, "predict", "masked", "Oslo is a [MASK].", "Oslo is a city. ||| It is not Rome.", "--json").json["predictions"]
    assert len(found[0]["answers"]) == 5
    assert 0 <= found[1]["follows"] <= 1
    assert "follows the first" in lab(settings, "predict", "masked", "Oslo is a city. ||| It is [MASK] Rome.").out


def test_results_have_their_baselines_beside_them(settings: Settings) -> None:
    expected = {
        "answers": {"exact_match", "f1", "nll"},
        "relations": {"f1", "baseline_f1", "accuracy", "baseline_accuracy"},
        "masked": {"masked_word_accuracy", "unigram_accuracy", "next_sentence_accuracy", "perplexity"},
    }
    for run, metrics in expected.items():
        assert {f"test/{name}" for name in metrics} <= result(settings.runs / run)["metrics"].keys()


def test_a_logged_model_takes_tokens_alone(settings: Settings) -> None:
    for run, shape in (("answers", (1, 7, 2)), ("relations", (1, 2)), ("masked", (1, 7, None))):
        folder = settings.runs / run / "model"
        facts = json.loads((folder / "data.json").read_text())["facts"]
        vocabulary = Vocabulary.load(facts["vocabulary"])
        tokens, _ = vocabulary.pair(vocabulary.encode("is a")[:2], vocabulary.encode("is in")[:2])
        said = serving._load_pyfunc(str(folder)).predict(np.array([tokens]))
        assert said.shape == tuple(len(vocabulary) if size is None else size for size in shape)
        assert np.isfinite(said).all()
        assert logged_model.example(folder)[1][-1] == said.shape[-1]
