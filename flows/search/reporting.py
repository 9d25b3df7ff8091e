"""The end of a sweep: the chosen configuration on the test split, the report as files and figures, all of it into the sweep's run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import LabError
from flows.evaluation import evaluate_and_record
from flows.lab.settings import Settings
from flows.parts import Tell, write_json
from flows.records.journal import Journal
from flows.records.store import Store
from flows.search.page import html
from flows.search.report import Report, figures, markdown, report, text
from flows.search.results import Results
from flows.search.study import Sweep
from flows.search.trials import folder_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def look(sweep: Sweep) -> tuple[Results, Report]:
    """The report as things stand, with the test metrics that are known; nothing is computed anew and nothing is written."""
    results = sweep.results()
    first = report(results)
    results = sweep.results(test=_known_test(sweep, first))
    return results, report(results)


def conclude(sweep: Sweep, folder: Path, settings: Settings, journal: Journal, *, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Evaluate the chosen configuration on the test split, once; write the report and say its result; returns what a summary shows."""
    chosen = report(sweep.results())
    _look_at_test(sweep, chosen, settings, tell)
    results, final = look(sweep)
    drawn = figures(results, final)
    written = write(folder, results, final, drawn)
    step = len(results.trials)
    for name, figure in drawn.items():
        journal.figure(f"{name}-{step}", figure, step=step)
    for path in written:
        journal.file(path)
    _link_trials(sweep, settings)
    facts = _facts(final, results)
    journal.event("result", run=sweep.name, **facts)
    return {**facts, "text": text(final), "markdown": markdown(final), "report": str(written[0])}
