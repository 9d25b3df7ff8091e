"""The lab's own tables: which data there is, how every run did on every example, and what belongs together across the other stores.

MLflow keeps series and files, Prefect keeps flow runs, Optuna keeps trials; none of them keeps what a fair comparison of two models needs:
the outcome of **each example**, aligned. `paired` gives two runs' outcomes on the same examples, for tests that look at differences.

Outcomes are kept as one compressed blob a series (`correct`, `nll` …) of an evaluation, not as a row an example: a test set of 10,000
examples is read and written whole, always; 10,000 rows a series and run would make the smallest sweep a database of millions of rows,
for queries that nobody asks. 10,000 float64 values take about 0.5 ms and 20–80 kB.

The address is a parameter (`sqlite:///…` now, PostgreSQL later). The schema has a number: opening an older one brings it forward step by
step, opening a newer one is refused.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session, sessionmaker

from components.data.durable import is_full
from components.errors import RequestError, RunError
from flows.lab import postgres
from flows.records.tables import Data, Evaluation, Link, OutcomeSeries, bring_forward, connect, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Links:
    """What a run of the lab is called elsewhere; None where it has no counterpart."""

    run: str
    mlflow_run: str | None
    prefect_flow_run: str | None
    optuna_study: str | None
    optuna_trial: int | None


class Store:
    """The lab's tables at one address.

    Args:
        url: an SQLAlchemy address: `sqlite:////path/to/lab.db`, `postgresql+psycopg://…`.

    Raises:
        RunError: the database was written by a newer version of the lab, or cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = connect(url)
        try:
            bring_forward(self._engine)
        except DatabaseError as error:
            self.close()
            if is_full(error):
                raise RunError("the disk is full: the lab's database cannot be written; free some space") from None
            raise RunError(f"the lab's database {postgres.shown(url)} cannot be opened: {postgres.reason(error)}") from None
        except RunError:
            self.close()
            raise
        self.reading = sessionmaker(self._engine, expire_on_commit=False)
        self._writing = sessionmaker(writing(self._engine), expire_on_commit=False)

    def writing(self) -> AbstractContextManager[Session]:
        """A session in a transaction that writes: committed at the end of the `with`, rolled back by an exception."""
        return self._writing.begin()

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_data(self, name: str, fingerprint: str, card: Mapping[str, Any]) -> None:
        """Enter a prepared data set in the catalogue; one that is there already stays as it is."""
        with self.writing() as session:
            _merge_data(session, name, fingerprint, card)

    def data(self) -> list[Data]:
        """The catalogue, by name and then by age, oldest first."""
        with self.reading() as session:
            return list(session.scalars(select(Data).order_by(Data.name, Data.created)))

    def add_evaluation(
        self,
        run: str,
        split: str,
        *,
        data: str,
        fingerprint: str,
        metrics: Mapping[str, float],
        outcomes: Mapping[str, Any],
    ) -> None:
        """Keep how a run did on a split, in place of what was kept for it before.

        Args:
            run: the lab's run.
            split: `validation`, `test` …
            data, fingerprint: the data set it was evaluated on; entered in the catalogue when new.
            metrics: of all examples together.
            outcomes: `index` (N,), the examples' places in the split, and any number of series (N,) of numbers or truth values.

        Raises:
            ValueError: `index` is missing or not distinct, or a series has another length.
        """
        arrays = _checked(outcomes)
        with self.writing() as session:
            _merge_data(session, data, fingerprint, {})
            for earlier in session.scalars(select(Evaluation).where(Evaluation.run == run, Evaluation.split == split)):
                session.delete(earlier)
            session.flush()
            session.add(
                Evaluation(
                    run=run,
                    split=split,
                    fingerprint=fingerprint,
                    metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
                    created=datetime.now(UTC),
                    series=[OutcomeSeries(name=name, kind=array.dtype.str, values=_pack(array)) for name, array in arrays.items()],
                )
            )

    def evaluations(self, run: str | None = None) -> list[Evaluation]:
        """The evaluations of a run, or of all, oldest first, without their outcomes."""
        with self.reading() as session:
            query = select(Evaluation).order_by(Evaluation.created)
            return list(session.scalars(query if run is None else query.where(Evaluation.run == run)))

    def outcomes(self, run: str, split: str) -> dict[str, NDArray[Any]]:
        """Every series of an evaluation, (N,) each, ordered by `index`.

        Raises:
            RequestError: the run has no evaluation on that split.
        """
        import numpy as np

        with self.reading() as session:
            arrays = {series.name: _unpack(series) for series in self._evaluation(session, run, split).series}
        order = np.argsort(arrays["index"])
        return {name: array[order] for name, array in arrays.items()}

    def paired(self, run_a: str, run_b: str, split: str, *, series: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Two runs' outcomes on the same examples, aligned: place i of both arrays is the same example.

        Args:
            run_a, run_b: the lab's runs.
            split: `validation` or `test`.
            series: which outcome: `correct`, `nll` …

        Raises:
            RequestError: an evaluation or the series is missing, or the two looked at different data or examples.
        """
        import numpy as np

        with self.reading() as session:
            prints = [self._evaluation(session, run, split).fingerprint for run in (run_a, run_b)]
        if prints[0] != prints[1]:
            raise RequestError(
                f"{run_a} and {run_b} cannot be compared example by example: they were evaluated on different data "
                f"(fingerprints {prints[0][:12]} and {prints[1][:12]})"
            )
        a, b = self.outcomes(run_a, split), self.outcomes(run_b, split)
        for run, found in ((run_a, a), (run_b, b)):
            if series not in found:
                raise RequestError(f"{run} kept no outcome {series!r} on {split} (it has: {', '.join(sorted(found.keys() - {'index'}))})")
        if not np.array_equal(a["index"], b["index"]):
            raise RequestError(
                f"{run_a} and {run_b} cannot be compared example by example: they were evaluated on different examples of {split}"
            )
        return a[series], b[series]

    def link(
        self,
        run: str,
        *,
        mlflow_run: str | None = None,
        prefect_flow_run: str | None = None,
        optuna_study: str | None = None,
        optuna_trial: int | None = None,
    ) -> None:
        """Note what a run is called elsewhere; what is not given stays as it was."""
        given = {
            "mlflow_run": mlflow_run,
            "prefect_flow_run": prefect_flow_run,
            "optuna_study": optuna_study,
            "optuna_trial": optuna_trial,
        }
        self.link_all([{"run": run, **given}])

    def link_all(self, links: Iterable[Mapping[str, Any]], **common: Any) -> None:
        """`link` for many runs at once: each mapping has `run` and what is known of it; `common` holds for all."""
        with self.writing() as session:
            for link in links:
                given = {**common, **link}
                found = session.get(Link, given["run"])
                if found is None:
                    found = Link(run=given["run"], created=datetime.now(UTC))
                    session.add(found)
                for column, value in given.items():
                    if value is not None:
                        setattr(found, column, value)

    def links(self, run: str) -> Links | None:
        """What a run is called elsewhere, by the lab's, MLflow's or Prefect's name for it; None where nothing is known."""
        with self.reading() as session:
            query = select(Link).where((Link.run == run) | (Link.mlflow_run == run) | (Link.prefect_flow_run == run))
            found = session.scalars(query.order_by(Link.created.desc())).first()
        if found is None:
            return None
        return Links(found.run, found.mlflow_run, found.prefect_flow_run, found.optuna_study, found.optuna_trial)

    def _evaluation(self, session: Session, run: str, split: str) -> Evaluation:
        found = session.scalars(select(Evaluation).where(Evaluation.run == run, Evaluation.split == split)).one_or_none()
        if found is None:
            have = list(session.scalars(select(Evaluation.split).where(Evaluation.run == run)))
            raise RequestError(f"{run} has no evaluation on {split}" + (f" (it has: {', '.join(have)})" if have else ""))
        return found


def _merge_data(session: Session, name: str, fingerprint: str, card: Mapping[str, Any]) -> None:
    found = session.get(Data, fingerprint)
    if found is None:
        session.add(Data(fingerprint=fingerprint, name=name, card=dict(card), created=datetime.now(UTC)))
        session.flush()
    elif card and not found.card:
        found.card = dict(card)


def _checked(outcomes: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The outcomes as little-endian arrays of one length."""
    import numpy as np

    if "index" not in outcomes:
        raise ValueError("outcomes have an `index`: the examples' places in their split")
    arrays = {name: np.asarray(values) for name, values in outcomes.items()}
    index = arrays["index"]
    for name, array in arrays.items():
        if array.shape != index.shape or array.ndim != 1:
            raise ValueError(f"outcome {name!r} has shape {array.shape}, index has {index.shape}: one number an example is needed")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"outcome {name!r} holds {array.dtype}, not numbers")
    if len(np.unique(index)) != len(index):
        raise ValueError("an example is in `index` twice")
    return {name: array.astype(array.dtype.newbyteorder("<")) for name, array in arrays.items()}


def _pack(array: NDArray[Any]) -> bytes:
    return zlib.compress(array.tobytes(), level=1)


def _unpack(series: OutcomeSeries) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(zlib.decompress(series.values), dtype=np.dtype(series.kind)).copy()
