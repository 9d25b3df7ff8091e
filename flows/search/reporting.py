"""The end of a sweep: the chosen configuration on the test split, the report as files and figures, all of it into the sweep's run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import LabError, RequestError
from flows import runs
from flows.evaluation import evaluate_and_record
from flows.lab.settings import Settings
from flows.parts import Tell, write_json
from flows.records import journal
from flows.records.conclusion import conclude as deliver_model
from flows.records.courier import deliver_pending
from flows.records.delivery import Delivery, Progress, exclusive
from flows.records.journal import Journal
from flows.records.store import Store
from flows.records.tracking import run_page, tracking_uri
from flows.search.findings import Report
from flows.search.page import html
from flows.search.pictures import figures
from flows.search.ranking import chosen
from flows.search.report import report
from flows.search.results import Results, Trial
from flows.search.study import Sweep
from flows.search.tables import markdown, text
from flows.search.trials import folder_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def conclude(sweep: Sweep, settings: Settings, book: Journal, *, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Look at the test split for the chosen configuration, write the report and say what it came to; returns what a summary shows."""
    results = sweep.results()
    winners = _runs_of_chosen(results)
    if winners:
        tell({"kind": "note", "text": f"the chosen configuration on the test split: {len(winners)} run{'s' * (len(winners) > 1)}"})
    test = _tested(sweep, winners, settings, tell)
    results = sweep.results(test=test, tested=_configurations_tested(sweep, results))
    found = report(results)
    drawn = figures(results, found)
    folder = settings.sweeps / sweep.name / "report"
    written = _write(folder, results, found, drawn)
    for path in written:
        book.file(path)
    facts = _facts(found, results, winners)
    book.event("result", run=sweep.name, **facts)
    _link(sweep, settings, results)
    return {**facts, "text": text(found), "markdown": markdown(found), "report": str(folder / "report.html")}


def renew(name: str, settings: Settings, *, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Write the report of a sweep as it stands now, and record it; returns what `conclude` does, and `url`.

    A sweep that is being worked on is reported without being recorded: whoever works on it does that at its end.
    """
    sweep = Sweep.load(settings, name)
    folder = settings.sweeps / sweep.name
    if journal.is_open(folder):
        tell({"kind": "note", "text": f"{sweep.name} is still being worked on; this is how it stands, and nothing is recorded"})
        found = report(sweep.results())
        return {"sweep": sweep.name, "text": text(found), "report": None, "url": None, **_facts(found, sweep.results(), [])}
    with Journal(folder) as book:
        concluded = conclude(sweep, settings, book, tell=tell)
    uri = tracking_uri(settings)
    receipt = deliver_pending([folder], uri, experiment="lecture-lab-sweeps", artifacts=settings.artifact_root).get(sweep.name)
    return {"sweep": sweep.name, **concluded, "url": receipt.url if receipt else None}


def register_best(sweep: Sweep, settings: Settings, run: str) -> None:
    """Log the model of the best run and let it compete for champion, once MLflow has its trial. Raises whatever MLflow raises."""
    folder = folder_of(settings, sweep.name, run)
    uri = tracking_uri(settings)
    with exclusive(folder) as alone:
        progress = Progress.load(folder, experiment="lecture-lab-sweeps")
        if alone and progress.mlflow_run_id and not progress.model:
            progress.model = True
            delivery = Delivery(folder, progress, uri)
            if delivery.open():
                deliver_model(delivery)


def page_of(settings: Settings, folder: Path) -> str | None:
    """The page of a sweep's run in the MLflow UI, where a server has it."""
    uri, run_id = tracking_uri(settings), runs.mlflow_run_id(folder)
    return run_page(uri, runs.mlflow_experiment_id(folder), run_id) if run_id and uri.startswith("http") else None


def _runs_of_chosen(results: Results) -> list[Trial]:
    """The trials of the chosen configuration, by seed."""
    best = chosen(results)
    if best is None:
        return []
    own = [trial for trial in results.trials if trial.state == "complete" and trial.params == best.params and trial.phase == best.phase]
    return sorted(own, key=lambda trial: trial.seed)


def _tested(sweep: Sweep, winners: Sequence[Trial], settings: Settings, tell: Tell) -> dict[int, dict[str, float]]:
    """Test metrics of the winners by seed; those that are known already are not looked at again."""
    known: dict[str, dict[str, float]] = dict(sweep.study.user_attrs.get("test", {}))
    found: dict[int, dict[str, float]] = {}
    for trial in winners:
        if trial.run not in known:
            if not (folder_of(settings, sweep.name, trial.run) / "model").is_dir():
                elsewhere = (
                    f"{trial.run} is on another machine, and so not evaluated on the test split: let all workers share {settings.sweeps}"
                )
                tell({"kind": "warning", "message": elsewhere})
                continue
            try:
                metrics = evaluate_and_record(trial.run, "test", settings)["metrics"]
            except RequestError:  # the data has no test split
                return {}
            except LabError as error:
                tell({"kind": "warning", "message": f"{trial.run} could not be evaluated on the test split: {error}"})
                continue
            known[trial.run] = {f"test/{name}": value for name, value in metrics.items()}
            sweep.study.set_user_attr("test", known)
        found[trial.seed] = known[trial.run]
    return found


def _configurations_tested(sweep: Sweep, results: Results) -> int:
    """How many configurations the test split has been looked at for: more trials can change the choice."""
    runs = sweep.study.user_attrs.get("test", {})
    return len({repr(sorted(trial.params.items())) for trial in results.trials if trial.run in runs})


def _write(folder: Path, results: Results, found: Report, drawn: Mapping[str, Figure]) -> list[Path]:
    """Write the report in every form; returns the files."""
    from flows.records.journal import DOTS_PER_INCH

    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.html": html(results, found, drawn), "report.md": markdown(found), "report.txt": text(found)}
    for name, content in texts.items():
        unfinished = folder / f".{name}.part"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(folder / name)
    write_json(folder / "report.json", found.as_json())
    pictures = []
    for name, figure in drawn.items():
        path = folder / f"{name.rpartition('/')[2]}.png"
        figure.savefig(path, format="png", dpi=DOTS_PER_INCH)
        pictures.append(path)
    return [*(folder / name for name in texts), folder / "report.json", *pictures]


def _facts(found: Report, results: Results, winners: Sequence[Trial]) -> dict[str, Any]:
    """The result in JSON values: the chosen configuration and its numbers."""
    best = found.ranking.chosen
    metrics: dict[str, float] = {}
    if best is not None:
        metrics = {objective.metric: mean for objective, mean in zip(results.objectives, best.means, strict=True) if mean is not None}
        metrics |= {tested.metric: tested.mean for tested in found.test}
    sign = 1 if results.objectives[0].direction == "max" else -1
    top = max(winners, key=lambda trial: sign * (trial.values or (0.0,))[0], default=None)
    return {
        "metrics": metrics,
        "verdict": list(found.verdict),
        "chosen": dict(best.params) if best is not None else None,
        "command": found.command,
        "best_run": top.run if top else None,
        "seconds": round(found.cost.seconds, 3),
        "samples": found.cost.samples,
    }


def _link(sweep: Sweep, settings: Settings, results: Results) -> None:
    """Enter what belongs together across the stores: run, MLflow run, study and trial."""
    known = []
    for trial in results.trials:
        with contextlib.suppress(OSError, ValueError):
            delivered = json.loads((folder_of(settings, sweep.name, trial.run) / "delivery.json").read_text(encoding="utf-8"))
            known.append({"run": trial.run, "mlflow_run": delivered.get("mlflow_run_id"), "optuna_trial": trial.number})
    with Store(settings.lab_store) as store:
        store.link_all(known, optuna_study=sweep.name)
