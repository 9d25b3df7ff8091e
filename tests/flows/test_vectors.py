"""`lab embed` and `lab export`, and `lab predict` from the registry's and an experiment's name: a small BERT that was hardly trained."""

import json
from pathlib import Path

import pytest
import torch
from lab_command import lab
from trainings import here

from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.errors import DataError
from components.hugging_face import folder
from components.training.checkpoint import read_tensors
from flows import parts, runs
from flows.embedding import encoder
from flows.lab.settings import Settings
from flows.pretrained import load_pretrained

TEXTS = [f"a {'good' if row % 2 else 'bad'} film number {row}" for row in range(60)]


@pytest.fixture(scope="module")
def settings(module_settings: Settings) -> Settings:
    """A lab with one run, `reviews`, of the experiment of that name, and its pictures."""
    home = module_settings.home
    rows = [f"{text},{'yes' if row % 2 else 'no'}" for row, text in enumerate(TEXTS)]
    (home / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    vocabulary = TokenSettings(tokens="wordpiece", lowercase=True).train(TEXTS, specials=BERTS_SPECIALS)
    (home / "tokenizer.json").write_text(vocabulary.dump())
    overrides = [
        "data=text_csv", f"data.path={home / 'texts.csv'}", f"data.tokens={home / 'tokenizer.json'}", "data.longest=12",
        "model=bert", "model.channels=16", "model.heads=2", "model.layers=2", "model.expansion=2", "model.context=12", "model.pool=mean",
        "objective=sequence_classification", "activation=gelu", "initializer=random_normal", "optimizer=adamw",
        "optimizer.learning_rate=0.01",
        "trainer.epochs=2", "trainer.batch_size=16", "trainer.threads=1", "trainer.layer_decay=0.9",
    ]  # fmt: skip
    here(module_settings, [*overrides, "name=reviews"], "reviews-1", draw=True)
    frozen = ["pretrained=run:reviews-1", "trainer.frozen=[embeddings,blocks]"]
    here(module_settings, [*overrides, *frozen, "name=features"], "features-1")
    return module_settings


def test_a_transformers_pictures_are_drawn(settings: Settings) -> None:
    drawn = {path.stem for path in (settings.runs / "reviews-1" / "figures" / "test").iterdir()}
    assert {"attention", "positions", "embeddings", "words"} <= drawn


def test_on_features_only_the_head_learned(settings: Settings) -> None:
    before, after = (read_tensors(settings.runs / run / "model" / "model.safetensors").tensors for run in ("reviews-1", "features-1"))
    assert all(torch.equal(tensor, before[name]) is not name.startswith("head.") for name, tensor in after.items())
    assert len(list((settings.home / "features").glob("*.safetensors"))) == 2  # training and validation


def test_predict_finds_a_model_by_its_experiment(settings: Settings) -> None:
    found = lab(settings, "predict", "experiment:reviews", "a good film", "--json").json
    assert found["run"] == "reviews-1"
    assert {answer["label"] for answer in found["predictions"][0]["answers"]} == {"yes", "no"}
    missing = lab(settings, "predict", "experiment:nobody", "a good film")
    assert (missing.code, missing.err) == (2, "lab: nobody has not been trained here yet: lab train experiment=nobody\n")
    assert "there is no run 'rewievs'" in lab(settings, "predict", "rewievs", "x").err


def test_a_documents_vector_is_the_mean_of_its_own_places_and_a_words_of_its_pieces(settings: Settings) -> None:
    found = encoder("reviews-1", settings)
    texts = ["a good film", "a bad film number 7"]
    vectors = found.documents(texts)
    model = parts.load_model(settings.runs / "reviews-1" / "model").model
    for text, vector in zip(texts, vectors, strict=True):
        ids = found.vocabulary.framed(found.vocabulary.encode(text))
        with torch.no_grad():
            states = model.states(torch.tensor([ids]))[-1][0]  # type: ignore[operator]
        assert torch.allclose(vector, states.mean(0), atol=1e-5)
        tokens = found.vocabulary.tokens(ids)
        assert torch.allclose(found.word("FILM", text), states[tokens.index("film")], atol=1e-5)
    with pytest.raises(DataError, match="'book' does not occur in 'a good film'"):
        found.word("book", "a good film")
    with pytest.raises(DataError, match="'end' stands behind the 12 tokens that the model reads"):
        found.word("end", "a good " * 9 + "end")


def test_similarity_search(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "among.txt").write_text("\n".join(TEXTS) + "\n\n")
    picture = tmp_path / "map.png"
    given = ["embed", "reviews-1", TEXTS[3], "--among", str(tmp_path / "among.txt"), "--nearest", "2", "--picture", str(picture)]
    (answer,) = lab(settings, *given, "--json").json["embeddings"]
    assert TEXTS[3] not in [pair["text"] for pair in answer["nearest"]], "its own copy is no neighbour"
    assert len(answer["nearest"]) == 2
    assert 0.5 < answer["nearest"][1]["cosine"] <= answer["nearest"][0]["cosine"] < 1
    assert len(answer["vector"]) == 16
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = lab(settings, "embed", "experiment:reviews", "a good film", "a bad film", "--word", "film").out
    assert "film in" in shown
    (only,) = lab(settings, "embed", "reviews-1", "a good film", "--json").json["embeddings"]
    assert (len(only["vector"]), only["nearest"]) == (16, [])
    alone = lab(settings, "embed", "reviews-1", "a good film")
    assert (alone.code, alone.err) == (2, "lab: say what to compare it with: more texts, or --among FILE\n")


def test_one_bad_text_does_not_keep_the_others_waiting(settings: Settings, tmp_path: Path) -> None:
    given = ["a good film", "", "a bad film", "./nofile.txt"]
    done = lab(settings, "embed", "reviews-1", *given, "--json")
    assert (done.code, done.json["error"]) == (1, "2 of 4 could not be used")
    answers = done.json["embeddings"]
    assert [answer["given"] for answer in answers] == given
    assert ["error" in answer for answer in answers] == [False, True, False, True]
    assert [pair["text"] for pair in answers[0]["nearest"]] == ["a bad film"]
    assert answers[3]["error"].startswith("there is no file ./nofile.txt")
    word = lab(settings, "embed", "reviews-1", "a good film", "a book", "the film", "--word", "film", "--json")
    assert (word.code, word.json["embeddings"][1]["error"]) == (1, "'film' does not occur in 'a book'")
    shown = lab(settings, "embed", "reviews-1", *given)
    assert "error: there is no text: it is empty" in shown.out
    nothing = lab(settings, "embed", "reviews-1", "", " ")
    assert (nothing.code, nothing.err) == (2, "lab: nothing that was given could be used\n")


@pytest.mark.parametrize(
    ("picture", "why"),
    [("map.svg", "map.svg does not end in .png"), ("no/map.png", "there is no folder"), ("folder.png", "cannot be written")],
)
def test_where_no_picture_could_be_written_is_said_before_any_work(settings: Settings, tmp_path: Path, picture: str, why: str) -> None:
    (tmp_path / "folder.png").mkdir()
    done = lab(settings, "embed", "no-such-run", "a", "b", "--picture", str(tmp_path / picture))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("lab: --picture: ")
    assert why in done.err


def test_checkpoints_that_are_not_there_are_wrong_requests(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for address, why in (("hf:/nope", "/nope is not a folder"), (f"hf:{tmp_path}", "has no model.safetensors (none: save it")):
        done = lab(settings, "embed", address, "a", "b")
        assert (done.code, done.out) == (2, "")
        assert why in done.err


def test_a_long_text_is_cut_as_in_training_and_that_is_said(settings: Settings) -> None:
    (answer,) = lab(settings, "predict", "reviews-1", "a good film " * 10, "--json").json["predictions"]
    assert (answer["truncated"], answer["tokens"], answer["tokens_read"]) == (True, 32, 12)
    (short,) = lab(settings, "predict", "reviews-1", "a good film", "--json").json["predictions"]
    assert "truncated" not in short
    shown = lab(settings, "predict", "reviews-1", "a good film " * 10).out
    assert "only the first 12 of 32 tokens were read" in " ".join(shown.split())


def test_other_depths_are_said(settings: Settings) -> None:
    config = json.loads((settings.runs / "reviews-1" / "config.json").read_text()) | {"pretrained": "run:reviews-1"}
    facts = parts.load_model(settings.runs / "reviews-1" / "model").data["facts"]
    for layers, words in (
        (1, "pretrained: this model has 1 blocks, run:reviews-1 has 2: the first 1 are taken, the others are not used"),
        (3, "pretrained: this model has 3 blocks, run:reviews-1 has 2: the last 1 begin untrained"),
        (2, None),
    ):
        config["model"]["layers"] = layers
        said: list[str] = []
        load_pretrained(parts.build_model(config, facts)[0], config, facts, settings, tell=said.append)
        assert said == ([] if words is None else [words])


def test_an_exported_model_is_read_again(settings: Settings, tmp_path: Path) -> None:
    """By `transformers`, too: tests/hugging_face holds the layout against it."""
    into = tmp_path / "exported"
    assert lab(settings, "export", "reviews-1", str(into), "--json").json == {
        "folder": str(into),
        "reader": "BertModel",
        "only_here": ["classifier.bias", "classifier.weight"],
    }
    kept = folder.read(into)
    assert (kept.config["hidden_size"], kept.config["num_hidden_layers"], kept.config["max_position_embeddings"]) == (16, 2, 12)
    assert Vocabulary.load(str(kept.tokenizer)).encode("a good film") == encoder("reviews-1", settings).vocabulary.encode("a good film")
    texts = ["a good film", "a bad film number 7"]
    assert torch.equal(encoder(f"hf:{into}", settings).documents(texts), encoder("reviews-1", settings).documents(texts))
    config = json.loads((settings.runs / "reviews-1" / "config.json").read_text())
    loaded = parts.load_model(settings.runs / "reviews-1" / "model")
    said = load_pretrained(loaded.model, config | {"pretrained": f"hf:{into}"}, loaded.data["facts"], settings)
    assert said["initialized"] == said["unused"] == []
    again = lab(settings, "export", "reviews-1", str(into))
    assert (again.code, again.err) == (2, f"lab: {into} exists already: choose another name\n")


def test_a_run_that_has_no_counterpart_or_no_vectors_is_said(settings: Settings, tmp_path: Path) -> None:
    here(settings, ["experiment=mlp_digits", "model.hidden=[4]", "trainer.max_steps=1", "trainer.threads=1"], "digits-1")
    assert (
        "components.models.mlp.MLP has no counterpart in Hugging Face's layout"
        in lab(settings, "export", "digits-1", str(tmp_path / "x")).err
    )
    assert lab(settings, "embed", "digits-1", "a", "b").err == "lab: digits-1 does not read texts\n"
    assert runs.model_folder("digits-1", settings)[0] == "digits-1"
