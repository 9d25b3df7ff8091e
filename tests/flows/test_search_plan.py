"""What a search may say, and the one line that answers everything else, with the place in its YAML."""

from pathlib import Path

import pytest

from components.errors import ConfigError
from flows.config.names import CONF, describe, names
from flows.search import plan

MINE = """\
# Something to try
space:
  initializer: [xavier, he_normal]
  optimizer.learning_rate:
    low: 0.001
    high: 0.1
    log: true
sampler: tpe
trials: 12
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "search").mkdir(parents=True)
    (tmp_path / "conf" / "search" / "mine.yaml").write_text(MINE)
    return tmp_path / "conf"


def test_a_plan_is_read_with_its_overrides(conf: Path) -> None:
    found, _ = plan.read(["search=mine", "search.trials=40", "search.space.optimizer.learning_rate.low=0.01"], conf=conf)
    assert (found.name, found.sampler, found.trials, found.seeds, found.pruner) == ("mine", "tpe", 40, 1, "none")
    assert found.space["optimizer.learning_rate"] == {"low": 0.01, "high": 0.1, "log": True}


def test_an_override_may_replace_a_whole_key_of_the_space(conf: Path) -> None:
    found, _ = plan.read(["search=mine", "search.space.optimizer.learning_rate=[0.1,0.2]", "search.space.activation=all"], conf=conf)
    assert found.space["optimizer.learning_rate"] == [0.1, 0.2]
    assert found.space["activation"] == "all"


def test_the_search_is_told_from_the_experiment() -> None:
    given = ["experiment=mlp_mnist", "search=mine", "seed=1", "search.trials=3", "trainer.epochs=2"]
    assert plan.split(given) == (["experiment=mlp_mnist", "seed=1", "trainer.epochs=2"], ["search=mine", "search.trials=3"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "search: missing; choose one with search=… (mine)"),
        (["search=mein"], "search: 'mein' is not one of mine (did you mean 'mine'?)"),
        (["search=mine", "search=mine"], "search: given twice ('mine' and 'mine')"),
        (["search=mine", "search.trial=3"], "search.trial: no such key (allowed: space, sampler, "),
        (["search=mine", "search.trials=-1"], "search.trials: -1 is out of range (allowed: a whole number ≥ 0 and ≤ 100000)"),
        (["search=mine", "search.sampler=tree"], "search.sampler: 'tree' is not one of grid, random, tpe, gp, cmaes, qmc, nsga2"),
        (["search=mine", "search.seeds=1.5"], "search.seeds: 1.5 is not allowed (allowed: a whole number ≥ 1 and ≤ 1000)"),
        (
            ["search=mine", "search.objectives={validation/f1:up}"],
            "search.objectives: {'validation/f1': 'up'} is not allowed (allowed: a mapping)",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(conf: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan.read(overrides, conf=conf)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "becomes", "message"),
    [
        ("trials: 12", "trails: 12", "conf/search/mine.yaml:9: trails: no such key (allowed: "),
        ("trials: 12", "trials: many", "conf/search/mine.yaml:9: trials: 'many' is not allowed (allowed: a whole number ≥ 0"),
        ("sampler: tpe", "sampler: [", "conf/search/mine.yaml: "),
    ],
)
def test_a_wrong_yaml_is_said_with_its_line(conf: Path, line: str, becomes: str, message: str) -> None:
    (conf / "search" / "mine.yaml").write_text(MINE.replace(line, becomes))
    with pytest.raises(ConfigError) as raised:
        plan.read(["search=mine"], conf=conf)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_yaml_that_is_no_text_is_one_line(conf: Path) -> None:
    (conf / "search" / "mine.yaml").write_bytes(b"# \xff\xfe\nspace: {}\n")
    with pytest.raises(ConfigError, match=r"^conf/search/mine\.yaml: 'utf-8' codec can't decode"):
        plan.read(["search=mine"], conf=conf)


def test_objectives_say_what_is_better(conf: Path) -> None:
    with pytest.raises(ConfigError, match=r"; each metric is to be max or min$"):
        plan.read(["search=mine", "search.objectives={validation/f1:up}"], conf=conf)


def test_a_search_without_a_space_is_refused(conf: Path) -> None:
    (conf / "search" / "mine.yaml").write_text("# Nothing\nsampler: grid\n")
    with pytest.raises(ConfigError, match=r"^search\.space: missing; it names what may vary$"):
        plan.read(["search=mine"], conf=conf)


def test_every_search_of_the_project_has_a_description_of_its_own() -> None:
    described = describe("search")
    assert {name for name, _ in described} >= {"initializers", "optimizers", "activations", "lecture", "optimizer_tuning"}
    assert len({text for _, text in described if text}) == len(names("search", conf=CONF))
