"""A sweep as an Optuna study: which trial comes next, and that none is lost or done twice, whoever dies when."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from components.errors import RequestError
from flows.lab.settings import Settings
from flows.search import storage
from flows.search.attempts import ATTEMPTS
from flows.search.plan import Plan
from flows.search.results import Objective, Range
from flows.search.space import Parameter, Space
from flows.search.standing import HOPELESS
from flows.search.study import Sweep, Taken

OPTIMIZER = Parameter("optimizer", levels=("adam", "momentum"), place=("space", "optimizer"))
HIDDEN = Parameter("model.hidden", levels=([64], [32, 32]), place=("space", "model.hidden"))
RATE = Parameter("optimizer.learning_rate", range=Range(0.001, 1.0, log=True), place=("space", "optimizer.learning_rate"))
MOMENTUM = Parameter("optimizer.momentum", range=Range(0.5, 0.9), when={"optimizer": ("momentum",)}, place=("space", "optimizer.momentum"))


def make(settings: Settings, *parameters: Parameter, name: str = "s", exclude: Any = (), direction: str = "max", **plan: Any) -> Sweep:
    space = Space(tuple(parameters), exclude)
    plan = {"name": "mine", "space": {"x": [1]}, **plan}
    objectives = [Objective("validation/accuracy", direction)]  # type: ignore[arg-type]
    facts: Any = {"overrides": ["experiment=mlp_digits"], "plan": Plan(**plan), "space": space, "objectives": objectives, "seed": 7}
    return Sweep.create(settings, name, **facts)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(tmp_path / "lab")
    yield settings
    storage.storage(settings).engine.dispose()


def me(sweep: Sweep) -> str:
    process = psutil.Process()
    return sweep.presence.sign_in(sweep.name) if process else ""


def attributes(sweep: Sweep, taken: Taken) -> dict[str, Any]:
    return sweep.study.trials[taken.number].user_attrs


def finish(sweep: Sweep, taken: Taken, value: float, **outcome: Any) -> None:
    sweep.complete((taken, {"seconds": 1.0, "samples": 10, **outcome}, [value]))


def run_all(sweep: Sweep, value: Any = lambda taken: 0.5) -> list[Taken]:
    worker, done = me(sweep), []
    while (taken := sweep.take(worker)) is not None:
        finish(sweep, taken, value(taken))
        done.append(taken)
    return done


def test_a_grid_is_run_seed_after_seed_and_ends_with_what_was_asked(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, HIDDEN, sampler="grid", seeds=2)
    done = run_all(sweep)
    configurations = [(taken.chosen["optimizer"], taken.chosen["model.hidden"]) for taken in done]
    grid = [("adam", [64]), ("adam", [32, 32]), ("momentum", [64]), ("momentum", [32, 32])]
    assert configurations == grid * 2
    assert [taken.seed for taken in done] == [7] * 4 + [8] * 4
    assert [taken.run for taken in done] == [f"s-{number:04d}" for number in range(8)]
    assert sweep.finished()
    assert sweep.counts() == {"complete": 8, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}


def test_many_trials_of_a_grid_are_taken_in_one_turn(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, HIDDEN, sampler="grid", seeds=2)
    worker = me(sweep)
    first = sweep.take_many(worker, 3)
    assert [tuple(taken.chosen.values()) for taken in first] == [("adam", [64]), ("adam", [32, 32]), ("momentum", [64])]
    sweep.put_back(first[1])
    again = sweep.take_many(worker, 100)
    assert [(taken.run, taken.seed) for taken in again[:2]] == [("s-0001", 7), ("s-0004", 7)]
    assert len(again) == 6
    for taken in (first[0], first[2], *again):
        finish(sweep, taken, 0.5)
    assert sweep.finished()
    assert sorted(trial.run for trial in sweep.results().trials) == sorted({taken.run for taken in (*first, *again)})


@pytest.mark.parametrize(("trials", "seeds"), [(3, [7, 7, 7]), (6, [7, 7, 7, 7, 8, 8])])
def test_a_budget_cuts_a_grid_or_goes_on_with_further_seeds(lab: Settings, trials: int, seeds: list[int]) -> None:
    assert [taken.seed for taken in run_all(make(lab, OPTIMIZER, HIDDEN, sampler="grid", trials=trials))] == seeds


def test_a_finished_sweep_goes_on_when_it_is_given_more(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, sampler="grid")
    assert len(run_all(sweep)) == 2
    again = Sweep.load(lab, "s")
    again.extend({"trials": 4})
    assert [taken.seed for taken in run_all(again)] == [8, 8]
    assert Sweep.load(lab, "s").plan.trials == 4


def test_less_than_is_there_cannot_be_asked_for(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, sampler="grid")
    run_all(sweep)
    with pytest.raises(RequestError, match=r"^search\.trials: 1 is too few \(allowed: 2 or more, which s has already\)$"):
        sweep.extend({"trials": 1})


def test_every_configuration_of_a_search_gets_the_same_seeds(lab: Settings) -> None:
    done = run_all(make(lab, RATE, sampler="tpe", seeds=3, trials=9))
    rates = [taken.chosen["optimizer.learning_rate"] for taken in done]
    assert [taken.seed for taken in done] == [7, 8, 9] * 3
    assert rates[0] == rates[1] == rates[2] != rates[3]
    assert all(0.001 <= rate <= 1.0 for rate in rates)


def test_conditions_hold_and_values_come_back_as_they_were(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, HIDDEN, MOMENTUM, sampler="random", trials=12)
    run_all(sweep)
    for trial in sweep.results().trials:
        assert ("optimizer.momentum" in trial.params) == (trial.params["optimizer"] == "momentum")
        assert trial.params["model.hidden"] in ([64], [32, 32])
        assert trial.values == (0.5,)


def test_what_is_excluded_is_never_run_and_never_counted(lab: Settings) -> None:
    done = run_all(make(lab, OPTIMIZER, HIDDEN, sampler="random", trials=10, exclude=({"optimizer": ("adam",)},)))
    assert len(done) == 10
    assert {taken.chosen["optimizer"] for taken in done} == {"momentum"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes", "nsga2"])
@pytest.mark.filterwarnings("default")
def test_every_sampler_chooses_within_the_space(lab: Settings, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    done = run_all(make(lab, RATE, OPTIMIZER, sampler=sampler, trials=12), lambda taken: taken.chosen["optimizer.learning_rate"])
    assert len({taken.chosen["optimizer.learning_rate"] for taken in done}) == 12


def test_a_search_that_is_resumed_searches_as_one_that_was_not(lab: Settings) -> None:
    def value(taken: Taken) -> float:
        return -abs(taken.chosen["optimizer.learning_rate"] - 0.03)

    whole = run_all(make(lab, RATE, name="whole", sampler="tpe", trials=20), value)
    first = make(lab, RATE, name="parts", sampler="tpe", trials=13)
    parts = run_all(first, value)
    later = Sweep.load(lab, "parts")
    later.extend({"trials": 20})
    parts += run_all(later, value)
    assert [taken.chosen for taken in parts] == [taken.chosen for taken in whole]


def test_balance_gives_every_level_its_share_and_its_own_search(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, RATE, MOMENTUM, sampler="tpe", balance="optimizer", trials=10, confirm=2)
    best = {"adam": 0.01, "momentum": 0.3}
    done = run_all(sweep, lambda taken: -abs(taken.chosen["optimizer.learning_rate"] - best[taken.chosen["optimizer"]]))
    search, confirm = done[:10], done[10:]
    assert Counter(taken.chosen["optimizer"] for taken in search) == {"adam": 5, "momentum": 5}
    assert [taken.seed for taken in confirm] == [8, 8, 9, 9], "fresh seeds, the same for every level"
    for level in best:
        tried = [taken.chosen["optimizer.learning_rate"] for taken in search if taken.chosen["optimizer"] == level]
        chosen = {taken.chosen["optimizer.learning_rate"] for taken in confirm if taken.chosen["optimizer"] == level}
        assert chosen == {min(tried, key=lambda rate: abs(rate - best[level]))}
    names = {name for trial in sweep.study.trials for name in trial.params}
    assert {"optimizer.learning_rate@adam", "optimizer.learning_rate@momentum"} <= names
    assert [trial.phase for trial in sweep.results().trials] == ["search"] * 10 + ["confirm"] * 4
    assert sweep.total() == 14


@pytest.mark.parametrize(("key", "limit", "ran"), [("hours", 3 / 3600, 3), ("samples", 25, 3)])
def test_hours_and_samples_end_a_search(lab: Settings, key: str, limit: float, ran: int) -> None:
    assert len(run_all(make(lab, RATE, sampler="random", trials=50, **{key: limit}))) == ran
    longer = make(lab, RATE, name="longer", sampler="random", **{key: 15 * limit})
    assert longer.order.open_ended
    assert len(run_all(longer)) > 30, "nothing else ends it"


def test_a_pruned_first_seed_ends_its_configuration(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", seeds=3, trials=5)
    worker = me(sweep)
    first = sweep.take(worker)
    assert first is not None
    sweep.prune(first, {})
    second = sweep.take(worker)
    assert second is not None
    assert second.chosen != first.chosen
    assert sweep.counts()["pruned"] == 1


def test_wilcoxon_spares_the_seeds_of_a_configuration_that_is_clearly_worse(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, RATE, sampler="random", pruner="wilcoxon", seeds=8, trials=16)
    done = run_all(sweep, lambda taken: (0.9 if attributes(sweep, taken)["configuration"] == 0 else 0.1) + taken.seed / 1000)
    each = Counter(attributes(sweep, taken)["configuration"] for taken in done)
    assert each[0] == 8
    assert all(2 < count < 8 for configuration, count in each.items() if configuration not in (0, max(each)))


def test_constraints_keep_a_configuration_from_being_chosen(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, sampler="random", trials=2, confirm=1, constraints={"parameters": {"at_most": 100}})
    worker = me(sweep)
    for value, parameters in ((0.9, 1000), (0.5, 50)):
        taken = sweep.take(worker)
        assert taken is not None
        finish(sweep, taken, value, parameters=parameters)
    assert [trial.feasible for trial in sweep.results().trials] == [False, True]
    confirm = sweep.take(worker)
    assert confirm is not None
    assert attributes(sweep, confirm)["configuration"] == 1
    assert sweep.study.trials[0].constraints == {"parameters": 900.0}


# ---------------------------------------------------------------------- nothing is lost


def test_a_trial_whose_worker_is_gone_is_taken_up_by_the_next_with_its_run(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", trials=2)
    lost = sweep.take("elsewhere.example:1:1.00")
    assert lost is not None
    done = run_all(sweep)
    assert next((taken.run, taken.chosen, taken.seed) for taken in done) == (lost.run, lost.chosen, lost.seed)
    assert len(done) == 2
    assert Counter(trial.state.name for trial in sweep.study.trials) == {"COMPLETE": 2, "FAIL": 1}
    assert [trial.run for trial in sweep.results().trials] == ["s-0000", "s-0002"]
    assert sweep.counts() == {"complete": 2, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}


def test_a_trial_of_a_living_worker_is_left_alone(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", trials=1)
    assert sweep.take(me(sweep)) is not None
    assert sweep.settle() == []
    assert sweep.take(me(sweep)) is None, "all that was asked for is being done"
    assert not sweep.finished()


def test_a_worker_elsewhere_lives_as_long_as_it_gives_signs(lab: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make(lab, RATE, sampler="random", trials=1)
    worker = me(sweep)
    monkeypatch.setattr("flows.search.presence._host", lambda: "another machine")
    assert sweep.presence.alive(worker)
    monkeypatch.setattr("flows.search.presence.SECONDS_BELIEVED", -1.0)
    assert not sweep.presence.alive(worker)


def test_a_killed_worker_between_asking_and_signing_leaves_no_gap(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, HIDDEN, sampler="grid")
    sweep.study.enqueue_trial({"optimizer": "adam", "model.hidden": "[64]"}, user_attrs={"phase": "search", "configuration": 0, "seed": 7})
    sweep.study.ask()  # killed here
    assert [tuple(taken.chosen.values()) for taken in run_all(sweep)] == [
        ("adam", [64]),
        ("adam", [32, 32]),
        ("momentum", [64]),
        ("momentum", [32, 32]),
    ]


def test_a_trial_that_kills_its_workers_fails_at_last(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", trials=2)
    for _ in range(ATTEMPTS):
        assert sweep.take("elsewhere.example:1:1.00") is not None
    done = run_all(sweep)
    assert [taken.run for taken in done] != ["s-0000"]
    failed = [trial for trial in sweep.results().trials if trial.state == "failed"]
    assert [(trial.run, trial.reason) for trial in failed] == [("s-0000", f"its worker was lost {ATTEMPTS} times")]
    assert sweep.counts() == {"complete": 1, "pruned": 0, "failed": 1, "running": 0, "waiting": 0}


def test_a_stopped_trial_waits_and_may_be_stopped_as_often_as_one_likes(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", trials=1)
    worker, runs = me(sweep), set()
    for _ in range(ATTEMPTS + 2):
        taken = sweep.take(worker)
        assert taken is not None
        runs.add(taken.run)
        sweep.put_back(taken)
        assert sweep.counts()["waiting"] == 1
    assert runs == {"s-0000"}
    assert len(run_all(sweep)) == 1
    assert sweep.finished()


def test_many_workers_at_once_do_exactly_what_was_asked(lab: Settings) -> None:
    make(lab, OPTIMIZER, RATE, sampler="tpe", trials=24, seeds=2)
    done: list[str] = []

    def work() -> None:
        own = Sweep.load(lab, "s")
        done.extend(taken.run for taken in run_all(own))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 24
    results = Sweep.load(lab, "s").results()
    assert Counter(trial.seed for trial in results.trials) == {7: 12, 8: 12}


def test_nothing_but_failures_is_a_reason_to_stop(lab: Settings) -> None:
    sweep = make(lab, RATE, sampler="random", trials=50)
    worker = me(sweep)
    for number in range(HOPELESS):
        assert sweep.hopeless() is None
        taken = sweep.take(worker)
        assert taken is not None
        sweep.fail(taken, f"reason {number}", {})
    assert sweep.hopeless() == f"all {HOPELESS} trials failed, the last one because reason {HOPELESS - 1}"


def test_a_few_failures_are_kept_with_their_reason_and_the_sweep_goes_on(lab: Settings) -> None:
    sweep = make(lab, OPTIMIZER, sampler="grid")
    worker = me(sweep)
    first = sweep.take(worker)
    assert first is not None
    sweep.fail(first, "the loss became nan at step 3", {"seconds": 0.5})
    assert len(run_all(sweep)) == 1
    trials = sweep.results().trials
    assert [(trial.state, trial.reason) for trial in trials] == [("failed", "the loss became nan at step 3"), ("complete", None)]
    assert sweep.hopeless() is None


# ---------------------------------------------------------------------- opening


def test_a_sweep_is_what_it_was_when_it_is_opened_again(lab: Settings) -> None:
    made = make(lab, OPTIMIZER, HIDDEN, RATE, MOMENTUM, exclude=({"optimizer": ("adam",), "model.hidden": ([64],)},), direction="min")
    found = Sweep.load(lab, "s")
    assert found.space == made.space
    assert asdict(found.plan) == asdict(made.plan)
    assert (found.overrides, found.objectives, found.base_seed) == (made.overrides, made.objectives, 7)
    assert found.study.direction is optuna.study.StudyDirection.MINIMIZE


def test_sweeps_are_found_by_name_beginning_and_last(lab: Settings) -> None:
    for name in ("alpha-1", "alpha-2", "beta"):
        make(lab, RATE, name=name)
    assert Sweep.load(lab, "last").name == "beta"
    assert Sweep.load(lab, "be").name == "beta"
    with pytest.raises(RequestError, match=r"^'alpha' may be any of 2 sweeps: alpha-1, alpha-2$"):
        Sweep.load(lab, "alpha")
    with pytest.raises(RequestError, match=r"^there is no sweep 'alpha-3' \(did you mean 'alpha-2'\?\)$"):
        Sweep.load(lab, "alpha-3")
    with pytest.raises(RequestError, match=r"^there is a sweep 'beta' already; "):
        make(lab, RATE, name="beta")


def test_looking_for_a_sweep_in_an_empty_lab_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^there is no sweep 'x' \(there are none yet: lab sweep …\)$"):
        Sweep.load(Settings(tmp_path / "lab"), "x")
    assert not (tmp_path / "lab").exists()
