"""Requests for sweeps: what is judged before anything is made, beyond the space."""

import pytest

from components.errors import ConfigError, RequestError
from flows.search import storage
from flows.search.plan import Plan
from flows.search.request import changes, check_request, checked_name, new_name, read
from flows.search.results import Objective

BASE = ["experiment=mlp_digits", "search=initializers"]


def test_the_objective_is_what_the_experiment_monitors() -> None:
    found = read([*BASE, "seed=3", "trainer.epochs=2"])
    assert found.objectives == (Objective("validation/accuracy", "max"),)
    assert found.overrides == ("experiment=mlp_digits", "trainer.epochs=2"), "the seed is each trial's own; mlp_digits has one thread"
    assert found.config["seed"] == 3


def test_threads_are_said_openly() -> None:
    assert "trainer.threads=1" in read(["experiment=mlp_mnist", "search=initializers", "search.backend=vectorised"]).overrides
    assert "trainer.threads=7" in read(["experiment=mlp_mnist", "search=initializers", "trainer.threads=7"]).overrides


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search.objectives={test/accuracy:max}", "search.test/accuracy: the test split never decides; take validation/accuracy"),
        ("search.objectives={accuracy:max}", "search.accuracy: no such metric (allowed: validation/…, seconds, parameters, samples)"),
        ("search.constraints={size:{at_most:3}}", "search.size: no such metric (allowed: validation/…, seconds, parameters, samples)"),
        ("model.hidden=[]x", "override 'model.hidden=[]x': "),
    ],
)
def test_what_cannot_be_judged_by_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_request([*BASE, text])
    assert str(raised.value).startswith(message)


def test_a_sweep_of_what_does_not_go_together_is_refused_before_its_trials() -> None:
    chosen = ["model=fast_rcnn", "objective=given_regions", "search=initializers"]
    with pytest.raises(ConfigError, match="data: GivenRegions looks at regions that come with the pictures, and Scenes has none"):
        check_request([*chosen, "data=scenes"])
    check_request([*chosen, "data=scenes_regions"])


def test_what_goes_on_can_have_another_budget_and_nothing_else() -> None:
    assert changes(["search.trials=60", "search.backend=auto"]) == {"trials": 60, "backend": "auto"}
    with pytest.raises(ConfigError, match=r"^search\.sampler: a sweep goes on as it was, but for its budget \(allowed: search\.trials, "):
        changes(["search.sampler=tpe"])
    with pytest.raises(ConfigError, match=r"^search\.trials: 'many' is not allowed"):
        changes(["search.trials=many"])


@pytest.mark.parametrize("name", ["a", "my sweep", "비교 1", "v1.2_final", "x" * 80])
def test_names_that_people_give(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "last", "%s", "a\nb", "x" * 81, " a", "a "])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(RequestError, match=r"^--name: .* is not allowed \(allowed: at most 80 letters"):
        checked_name(name)


def test_a_new_name_is_a_name() -> None:
    name = new_name({"name": "mlp_mnist"}, Plan(name="lecture", space={"optimizer": "all"}))
    assert name.startswith("mlp_mnist-lecture-2")
    assert checked_name(name) == name
    assert new_name({"name": "mlp_digits"}, Plan(name="adding", space={"experiment": ["a", "b"]})).startswith("adding-2")


def test_what_the_disk_and_the_database_say_is_one_line() -> None:
    from optuna.exceptions import StorageInternalError

    def raised() -> Exception:
        try:
            try:
                raise OSError("database or disk is full")
            except OSError as error:
                raise StorageInternalError("many\nlines") from error
        except StorageInternalError as error:
            return error

    assert storage.in_words(raised()) == "the disk is full; free some space"
    assert storage.in_words(PermissionError("not allowed")) == "the sweep's database or folder cannot be written: not allowed"
    assert storage.in_words(KeyError("x")) is None
