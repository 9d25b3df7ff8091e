"""Which run an experiment's name stands for: one of the experiment as it is now, and not one that only has its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainings import Trainer, here

from components.errors import RequestError, UntrainedError
from flows import acceptance, experiment, lineage, pretraining, runs
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings

QUICK = ["model.hidden=[8]", "trainer.max_steps=5", "trainer.threads=1", "trainer.diagnose_every=0"]


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets an experiment in conf/experiment say something else: `stands("mlp_mnist", "seed=1")`."""
    said: dict[str, list[str]] = {}
    real = compose

    def composed(overrides: list[str]) -> dict[str, Any]:
        name = overrides[0].removeprefix("experiment=")
        return real(quick(f"name={name}", *said[name], *overrides[1:]) if name in said else overrides)

    for module in (lineage, pretraining):
        monkeypatch.setattr(module, "compose", composed)

    def say(name: str, *overrides: str) -> None:
        said[name] = list(overrides)

    return say


def quick(*overrides: str) -> list[str]:
    """A training of a few steps, with these overrides, of which the last of a key counts."""
    return [*{text.partition("=")[0]: text for text in ("experiment=mlp_digits", *QUICK, *overrides)}.values()]


def first(overrides: list[str], settings: Settings) -> list[str]:
    """What would be trained before a request."""
    return [each.experiment for each in pretraining.needed(overrides, settings)]


def trained(settings: Settings, run: str, *overrides: str, **options: Any) -> Path:
    return here(settings, quick(*overrides), run, splits=("validation",), **options)


def test_only_a_run_of_what_the_experiment_says_now_stands_for_it(settings: Settings, stands: Callable[..., None]) -> None:
    stands("mlp_mnist")
    assert lineage.standing("mlp_mnist", settings) is None
    trained(settings, "other-seed", "name=mlp_mnist", "seed=1")
    trained(settings, "other-model", "name=mlp_mnist", "model.hidden=[9]")
    trained(settings, "other-epochs", "name=mlp_mnist", "trainer.max_steps=6")
    trained(settings, "other-objective", "name=mlp_mnist", "optimizer.learning_rate=0.3")
    trained(settings, "other-data", "name=mlp_mnist", "data.split_seed=1")
    trained(settings, "other-name")
    assert lineage.standing("mlp_mnist", settings) is None
    same = trained(settings, "same", "name=mlp_mnist", "trainer.log_every=7", "trainer.checkpoint_seconds=3", "description=x", "tags=[y]")
    assert lineage.standing("mlp_mnist", settings) == same / "model"
    stands("mlp_mnist", "seed=1")
    assert lineage.standing("mlp_mnist", settings) == settings.runs / "other-seed" / "model"
    shutil.rmtree(settings.runs / "other-seed" / "model")
    assert lineage.standing("mlp_mnist", settings) is None, "it has no model"


def test_data_count_by_what_is_in_them(settings: Settings, stands: Callable[..., None], tmp_path: Path) -> None:
    table = [f"a {('good', 'bad')[row % 2]} film {row},{row % 2}" for row in range(30)]
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("\n".join(["text,label", *table]) + "\n")
    texts = [
        "data=text_csv", "model=bilstm", "model.hidden=4", "model.embedding=4", "objective=sequence_classification", "activation=tanh",
    ]  # fmt: skip
    texts = ["experiment=bilstm_reviews", *texts, "trainer.max_steps=2", "trainer.threads=1", "name=mlp_mnist"]
    folder = here(settings, [*texts, f"data.path={tmp_path / 'one.csv'}"], "texts", splits=())
    config = validate(compose([*texts, f"data.path={tmp_path / 'two.csv'}"]))
    assert lineage._runs(config, settings) == [folder], "the same content elsewhere"
    (tmp_path / "two.csv").write_text("\n".join(["text,label", *table, "another film,0"]) + "\n")
    assert lineage._runs(config, settings) == []


def test_what_it_began_with_has_to_stand_for_that_experiment_too(settings: Settings, stands: Callable[..., None]) -> None:
    stands("mlp_mnist")
    stands("vgg_mnist", "pretrained=experiment:mlp_mnist")
    before = trained(settings, "before", "name=mlp_mnist")
    after = trained(settings, "after", "name=vgg_mnist", "pretrained=experiment:mlp_mnist")
    assert lineage.standing("vgg_mnist", settings) == after / "model"
    stands("mlp_mnist", "seed=1")
    trained(settings, "before-again", "name=mlp_mnist", "seed=1")
    assert lineage.standing("mlp_mnist", settings) == settings.runs / "before-again" / "model"
    assert lineage.standing("vgg_mnist", settings) is None, "it began with what mlp_mnist no longer is"
    request = ["experiment=mlp_digits", "pretrained=experiment:vgg_mnist"]
    assert first(request, settings) == ["vgg_mnist"]
    shutil.rmtree(settings.runs / "before-again")
    assert first(request, settings) == ["mlp_mnist", "vgg_mnist"]
    assert runs.result(before)["weights_sha256"] == lineage._began_with(after)


def test_a_run_goes_on_with_the_weights_it_began_with(settings: Settings, stands: Callable[..., None]) -> None:
    stands("mlp_mnist")
    trained(settings, "before", "name=mlp_mnist")
    with pytest.raises(RuntimeError, match="power cut"):
        trained(settings, "cut", "pretrained=experiment:mlp_mnist", tell=_power_cut)
    stands("mlp_mnist", "seed=1")
    folder = settings.runs / "cut"
    experiment.run(experiment.read_config(folder), folder, settings, draw=False)
    assert runs.result(folder)["steps"] == 5


def _power_cut(line: dict[str, Any]) -> None:
    if line["kind"] == "progress":
        raise RuntimeError("power cut")


def test_circles_and_strangers_are_refused_without_a_look_at_any_run(settings: Settings, stands: Callable[..., None]) -> None:
    stands("mlp_mnist", "pretrained=experiment:mlp_mnist")
    with pytest.raises(RequestError, match=r"^pretrained: mlp_mnist would begin with its own weights: give this run another name"):
        lineage.ancestors(lineage.now("mlp_mnist"))
    asked = ["experiment=mlp_digits", "pretrained=experiment:mlp_mnist"]
    with pytest.raises(RequestError, match=r"^pretrained: mlp_mnist ← mlp_mnist begin with each other's weights$"):
        pretraining.needed(asked, settings)
    stands("mlp_mnist", "pretrained=experiment:vgg_mnist")
    stands("vgg_mnist", "pretrained=experiment:mlp_mnist")
    with pytest.raises(RequestError, match=r"mlp_mnist ← vgg_mnist ← mlp_mnist begin with"):
        pretraining.needed(asked, settings)
    stands("vgg_mnist")
    assert first(asked, settings) == ["vgg_mnist", "mlp_mnist"]
    assert first(["experiment=mlp_digits"], settings) == []
    with pytest.raises(RequestError, match=r"no experiment 'vgg_mnits' in conf/experiment \(did you mean 'vgg_mnist'\?\)"):
        pretraining.needed(["experiment=mlp_digits", "pretrained=experiment:vgg_mnits"], settings)
    assert not settings.runs.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.frozen=[nosuch]"], "trainer.frozen: the model has no part 'nosuch' (it has layers"),
        (["trainer.frozen=[layers]"], "trainer.frozen: nothing is left that could learn"),
        (["name=x", "pretrained=file:WRONG"], "pretrained: WRONG cannot be read"),
        (["name=x", "pretrained=hf:FOLDER"], "pretrained: FOLDER has no model.safetensors (only pytorch_model.bin, which is a pickle"),
        (["name=x", "data=image_folder", "data.path=FOLDER"], "FOLDER has no images in class folders"),
        (["pretrained=experiment:mlp_digits"], "pretrained: mlp_digits would begin with its own weights"),
    ],
)
def test_what_could_never_begin_leaves_no_run_behind(settings: Settings, tmp_path: Path, overrides: list[str], message: str) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "wrong.safetensors").write_bytes(b"no tensors")
    places = {"FOLDER": str(tmp_path / "hf"), "WRONG": str(tmp_path / "wrong.safetensors")}
    for name, place in places.items():
        overrides, message = [text.replace(name, place) for text in overrides], message.replace(name, place)
    said: list[dict[str, Any]] = []
    with pytest.raises(RequestError) as caught:
        acceptance.refuse(validate(compose(["experiment=mlp_digits", *overrides])), settings, tell=said.append)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2
    assert not settings.runs.exists()
    assert not [line for line in said if "computing it once" in line.get("text", "")]


def test_what_is_wrong_is_said_before_another_experiment_is_trained_for_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is on digits here, too: nothing has to be fetched."""
    now: dict[str, Any] = {"model.hidden": "[64,64]"}
    other = lambda name: validate(compose([f"experiment={name}", "data=digits", f"model.hidden={now['model.hidden']}"]))  # noqa: E731
    monkeypatch.setattr(lineage, "now", other)
    request = ["experiment=mlp_digits", "name=x", "pretrained=experiment:mlp_mnist"]
    said = {"tell": lambda _: None}
    with pytest.raises(UntrainedError, match="mlp_mnist has not been trained here yet as it is now"):
        acceptance.refuse(validate(compose(request)), settings, **said)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no part 'nosuch'") as caught:
        acceptance.refuse(validate(compose([*request, "trainer.frozen=[nosuch]"])), settings, **said)  # type: ignore[arg-type]
    assert not isinstance(caught.value, UntrainedError)
    now["model.hidden"] = "[33]"
    with pytest.raises(RequestError, match=r"^pretrained: nothing in experiment:mlp_mnist fits this model \(no weight has") as caught:
        acceptance.refuse(validate(compose(request)), settings, **said)  # type: ignore[arg-type]
    assert not isinstance(caught.value, UntrainedError), "though it has not been trained"


def test_the_trainer_asks_before_it_makes_a_run(settings: Settings) -> None:
    with Trainer(settings, {"overrides": ["experiment=mlp_digits", "trainer.frozen=[nosuch]"]}) as trainer:
        assert trainer.process.wait(60) == 2
    assert not settings.runs.exists()


def test_the_terminal_trains_first_only_where_nothing_else_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.commands import training
    from flows.commands.output import Output

    asked: list[list[str]] = []
    errors: list[RequestError] = [UntrainedError("not yet")]

    def train(_: Output, request: dict[str, Any], __: Settings, **___: bool) -> dict[str, Any]:
        asked.append(request["overrides"])
        if errors:
            raise errors.pop()
        return {"run": "x"}

    monkeypatch.setattr(training, "_train_this", train)
    request = {"overrides": ["experiment=mlp_digits", "name=x", "pretrained=experiment:mlp_mnist"]}
    assert training._train(Output(False), request, settings) == {"run": "x"}
    assert asked == [request["overrides"], ["experiment=mlp_mnist"], request["overrides"]]
    errors.append(RequestError("another thing"))
    with pytest.raises(RequestError, match="another thing"):
        training._train(Output(False), request, settings)
    assert len(asked) == 4
