"""Text from data to answer: `lab predict` on texts of every kind, exact resume, pictures that need the model, a logged model of tokens."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from lab_command import lab
from trainings import Trainer, curves, here, result, until_step

from components.data.tokens import Vocabulary
from components.errors import ConfigError, Interrupted
from flows import parts
from flows.lab.settings import Settings
from flows.records import logged_model, serving, translate
from flows.records.journal import read

SHARED = ["activation=tanh", "initializer=normalized_xavier", "initializer.embedding_std=0.1", "trainer.threads=1", "trainer.log_every=1"]
CLASSIFIER = ["model=bilstm", "model.hidden=8", "model.embedding=8", "model.dropout=0.2", "objective=sequence_classification", *SHARED]
DATES = [
    "data=localized_dates", "data.source=ko", "data.examples=200", "data.validation=20", "data.test=20", "model=seq2seq", "model.hidden=16",
    "model.embedding=8", "model.teacher_forcing=0.7", "objective=translation", "objective.limit=12", *SHARED,
]  # fmt: skip


def labelled(settings: Settings) -> list[str]:
    """The overrides that choose the table of texts with a class each."""
    return ["data=text_csv", f"data.path={settings.home / 'texts.csv'}"]


@pytest.fixture(scope="module")
def settings(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lab with a classifier, a language model and a translator, all hardly trained."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [f"a {'good' if row % 2 else 'bad'} film number {row},{'yes' if row % 2 else 'no'}" for row in range(80)]
    (module_settings.home / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "text.txt").write_text("to be or not to be, that is the question\n" * 40)
    here(
        module_settings,
        [*labelled(module_settings), *CLASSIFIER, "trainer.epochs=8", "trainer.batch_size=16", "optimizer.learning_rate=0.02"],
        "classifier",
    )
    running = ["data=text_file", f"data.path={folder / 'text.txt'}", "data.block=20", "model=gru", "model.hidden=16", "model.embedding=8"]
    here(module_settings, [*running, "objective=language_modelling", *SHARED, "trainer.epochs=1", "trainer.batch_size=16"], "writer")
    here(module_settings, [*DATES, "trainer.epochs=1"], "translator")
    return module_settings


def test_a_text_gets_a_label(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a bad film", encoding="utf-8")
    found = lab(settings, "predict", "classifier", "a good film", str(tmp_path / "mine.txt"), "--json").json["predictions"]
    assert [(answer["given"], answer["answers"][0]["label"]) for answer in found] == [
        ("a good film", "yes"),
        (str(tmp_path / "mine.txt"), "no"),
    ]
    shown = lab(settings, "predict", "classifier", "a good strange film").out
    assert "yes" in shown
    assert "1 unknown to the vocabulary" in shown


def test_control_characters_of_a_text_do_not_reach_the_terminal(settings: Settings) -> None:
    text = "a\x1b[31mgood\x07 film\x9b2J"
    shown = lab(settings, "predict", "classifier", text).out
    assert r"a\x1b[31mgood\x07 film\x9b2J" in shown
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert lab(settings, "predict", "classifier", text, "--json").json["predictions"][0]["given"] == text


def test_a_text_is_gone_on_with(settings: Settings) -> None:
    found = lab(settings, "predict", "writer", "to be ☃", "--json").json["predictions"][0]
    assert len(found["text"]) == 200
    assert found["unknown"] == 1
    assert lab(settings, "predict", "writer", "to be ☃", "--json").json["predictions"][0] == found


def test_a_model_answers_by_other_settings_of_its_objective(settings: Settings) -> None:
    def text(run: str, given: str, *changes: str) -> str:
        asked = [part for change in changes for part in ("--set", change)]
        return str(lab(settings, "predict", run, given, *asked, "--json").json["predictions"][0]["text"])

    plain = text("writer", "to be")
    assert text("writer", "to be", "objective.generation_seed=1") != plain
    greedy = text("writer", "to be", "objective.temperature=0")
    assert text("writer", "to be", "objective.temperature=0", "objective.generation_seed=1") == greedy != plain
    assert text("writer", "to be", "objective.continuation=7") == plain[:7]
    assert len(text("translator", "2026년 11월 22일 일요일", "objective.limit=1")) <= 1
    for change, message in (
        ("objective.temperatur=0", "objective.temperatur: no such key"),
        ("objective.temperature=cold", "objective.temperature: 'cold'"),
        ("model.hidden=3", "--set takes objective.KEY=VALUE, not 'model.hidden=3'"),
    ):
        done = lab(settings, "predict", "writer", "to be", "--set", change)
        assert (done.code, done.out) == (2, "")
        assert done.err.splitlines()[-1].startswith(f"lab: {message}")


def test_a_text_is_translated(settings: Settings) -> None:
    found = lab(settings, "predict", "translator", "2026년 11월 22일 일요일", "--json").json["predictions"][0]
    assert set(found["text"]) <= set("0123456789-")


@pytest.mark.parametrize("run", ["classifier", "writer", "translator"])
def test_odd_texts_get_an_answer_or_one_line(settings: Settings, run: str) -> None:
    texts = ["", "  \n", "a good film " * 8_334, "☃☃☃", "שלום עולם", "\u202eabc\u202c", "[PAD] [END]", "/no/such/file.txt "]
    done = lab(settings, "predict", run, *texts, "--json")
    assert (done.code, done.json["error"]) == (1, "2 of 8 could not be used")
    for text, answer in zip(texts, done.json["predictions"], strict=True):
        assert ("error" in answer) == (not text.strip())
        assert answer.get("error") in (None, "there is no text: it is empty")
        cut = run == "classifier" and len(text) > 1000  # a translation of a part would be none
        assert {name: answer.get(name) for name in ("truncated", "tokens", "tokens_read")} == {
            "truncated": True if cut else None,
            "tokens": 25_002 if cut else None,
            "tokens_read": 400 if cut else None,
        }
    nothing = lab(settings, "predict", run, "")
    assert (nothing.code, nothing.out, nothing.err) == (2, "", "lab: there is no text: it is empty\n")
    several = lab(settings, "predict", run, "", " ")
    assert (several.code, several.err) == (2, "lab: nothing that was given could be used\n")


@pytest.mark.parametrize("run", ["classifier", "writer", "translator"])
def test_files_that_are_not_there_folders_and_settings_are_no_texts(settings: Settings, run: str, tmp_path: Path) -> None:
    aside = "if it is the text itself, put a space behind it"
    for given, message in (
        ("./nofile.csv", f"there is no file ./nofile.csv ({aside})"),
        (str(tmp_path), f"{tmp_path} is a folder; name the files in it (or put a space behind it, if it is the text itself)"),
        (
            "objective.temperature=0",
            f"objective.temperature=0 is a setting and nothing to answer: write --set objective.temperature=0 ({aside})",
        ),
    ):
        done = lab(settings, "predict", run, given)
        assert (done.code, done.out, done.err.splitlines()) == (2, "", [f"lab: {message}"])
        if "=" not in given:
            mixed = lab(settings, "predict", run, given, "a good film", "--json")
            assert (mixed.code, mixed.json["error"]) == (1, "1 of 2 could not be used")
            assert [each.get("error") for each in mixed.json["predictions"]] == [message, None]
    assert lab(settings, "predict", run, "objective.temperature=0 ", "objective.x is 3", "x=1").code == 0


@pytest.mark.parametrize("overrides", [DATES], ids=["dates"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(settings: Settings, overrides: list[str]) -> None:
    asked = [*overrides, "trainer.epochs=3", "trainer.checkpoint_seconds=1000", "seed=3"]
    undisturbed = here(settings, asked, "undisturbed")
    count = iter(range(100))
    with pytest.raises(Interrupted):
        here(settings, asked, "stopped", stopping=lambda: next(count) == 3)
    from flows import experiment

    experiment.run(experiment.read_config(settings.runs / "stopped"), settings.runs / "stopped", settings, draw=False)
    assert result(settings.runs / "stopped")["weights_sha256"] == result(undisturbed)["weights_sha256"]
    assert curves(settings.runs / "stopped") == curves(undisturbed)


@pytest.mark.parametrize("kind", ["classifier", "translator"])
def test_a_text_run_that_was_killed_goes_on_bit_for_bit(settings: Settings, kind: str) -> None:
    """Bucketed batches, dropout and teacher forcing's draws among what has to come back; killed without a chance to write anything."""
    overrides = {
        "classifier": [*labelled(settings), *CLASSIFIER, "trainer.epochs=12", "trainer.batch_size=8"],
        "translator": [*DATES, "trainer.epochs=5", "trainer.batch_size=8"],
    }[kind]
    asked = [*overrides, "trainer.checkpoint_seconds=0.1", "seed=4"]
    undisturbed = here(settings, asked, f"undisturbed-{kind}")
    last = max(step for step, _ in curves(undisturbed)["train/loss"])
    folder = settings.runs / f"killed-{kind}"
    with Trainer(settings, {"overrides": asked, "run": folder.name}) as trainer:
        trainer.hear("run")
        at = until_step(folder, last // 3, alive=lambda: trainer.process.poll() is None)
        trainer.process.send_signal(signal.SIGKILL)
        assert trainer.process.wait(30) == -signal.SIGKILL
    assert 0 < at < last
    with Trainer(settings, {"resume": folder.name}) as trainer:
        assert trainer.end() == 0
    assert result(folder)["weights_sha256"] == result(undisturbed)["weights_sha256"]
    assert curves(folder) == curves(undisturbed)


def test_what_does_not_go_together_is_one_line(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"^model: the fused kernel of gru has tanh built in, not ReLU: choose activation=tanh or kernel"):
        here(settings, [*(text for text in DATES if text != "activation=tanh"), "activation=relu"], "rectified")
    with pytest.raises(ConfigError, match=r"^model: these data ask for 'text', which takes another model, such as seq2seq$"):
        here(settings, [*DATES[:5], "model=lstm", "objective=language_modelling", *SHARED], "mistaken")


def test_runs_side_by_side(settings: Settings) -> None:
    here(settings, [*DATES, "trainer.epochs=1", "model.attention=none"], "plain")
    done = lab(settings, "compare", "translator", "plain", "--json")
    assert done.json["metrics"] == {
        run: {
            name.removeprefix("test/"): value for name, value in result(settings.runs / run)["metrics"].items() if name.startswith("test/")
        }
        for run in ("translator", "plain")
    }
    assert Path(done.json["pictures"]["bleu_by_length"]).read_bytes()[1:4] == b"PNG"
    refused = lab(settings, "compare", "translator", "classifier")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "they cannot be compared" in refused.err
    assert "say which runs to compare: two or more" in lab(settings, "compare", "translator").err


def test_pictures_that_need_the_model(settings: Settings) -> None:
    from flows import experiment

    folder = settings.runs / "translator"
    experiment.run(experiment.read_config(folder), folder, settings)
    assert {"alignment-1", "bleu_by_length"} <= {path.stem for path in (folder / "figures" / "test").glob("*.png")}


@pytest.mark.parametrize(
    ("run", "shape", "kind"), [("classifier", (2,), "float32"), ("writer", (-1, 28), "float32"), ("translator", (-1,), "int64")]
)
def test_a_logged_model_takes_tokens(settings: Settings, run: str, shape: tuple[int, ...], kind: str) -> None:
    folder = settings.runs / run / "model"
    example, outputs, given = logged_model.example(folder)
    vocabulary = Vocabulary.load(json.loads((folder / "data.json").read_text())["facts"]["vocabulary"])
    expected = (-1, len(vocabulary)) if run == "writer" else shape
    assert (example.dtype, outputs, given) == (np.int64, expected, kind)
    served = serving._load_pyfunc(str(folder))
    answers = served.predict(example)
    assert (answers.dtype, len(answers)) == (np.dtype(kind), 2)
    if run == "classifier":
        ids = vocabulary.encode("a good film")
        logits = served.predict(np.array([[*ids, 0, 0]]))
        loaded = parts.load_model(folder)
        probability = np.exp(logits[0]) / np.exp(logits[0]).sum()
        said = loaded.objective.answer(loaded.model, parts.build(loaded.config["data"]).read("a good film", loaded.data["facts"]))
        assert said["answers"][0]["probability"] == pytest.approx(probability.max(), abs=1e-6)


def test_a_vocabulary_is_in_the_card_and_not_in_mlflows_profile(settings: Settings) -> None:
    data = next(line["facts"] for line in read(settings.runs / "translator") if line.get("event") == "data")
    assert data["card"]["facts"]["vocabulary"]
    assert "target_vocabulary_size" in translate.dataset(data)["profile"]
    assert len(translate.dataset(data)["profile"]) < 2000
