"""Optuna's database, read and written many trials at a time.

Optuna writes a trial attribute by attribute, each a transaction with questions of its own, and reads trials through objects a row:
measured on SQLite, 9 ms to begin a trial, 9 ms to end one, and 3.8 s to read 5,000. Here the same rows go through the same tables in a few
statements. What is read and written is what Optuna itself would (tests/flows/test_search_bulk.py holds them against each other), and
whatever this class does not do is done by Optuna.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sql
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

FEW = 500
"""So many trials are asked for by their numbers; of more than that everything since the first is read."""

TRIALS, PARAMS, VALUES = (model.__table__ for model in (models.TrialModel, models.TrialParamModel, models.TrialValueModel))
USER, SYSTEM = (model.__table__ for model in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel))
INTERMEDIATE = models.TrialIntermediateValueModel.__table__


@dataclass(frozen=True)
class End:
    """How a running trial ends.

    Attributes:
        identity: Optuna's id of the trial in its database.
        state: COMPLETE or FAIL.
        attributes: what is added to its user's attributes.
        values: finite, one for each objective of the study; none where it failed.
    """

    identity: int
    state: TrialState
    attributes: Mapping[str, Any] = field(default_factory=dict)
    values: Sequence[float] = ()


class Database(RDBStorage):
    """The storage of a lab's studies."""

    def add(self, study_id: int, trials: Sequence[FrozenTrial]) -> list[tuple[int, int]]:
        """Put trials into a study, all or none; returns (number, id) of each."""
        if not trials:
            return []
        with self.engine.begin() as connection:
            study = models.StudyModel.__table__
            connection.execute(sql.select(study.c.study_id).where(study.c.study_id == study_id).with_for_update()).one()
            there = connection.execute(sql.select(sql.func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)).scalar_one()
            rows = [
                {
                    "number": number,
                    "study_id": study_id,
                    "state": trial.state,
                    "datetime_start": _utc(trial.datetime_start),
                    "datetime_complete": _utc(trial.datetime_complete),
                }
                for number, trial in enumerate(trials, start=there)
            ]
            insert = sql.insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
            identities = list(connection.execute(insert, rows).scalars())
            pairs = list(zip(identities, trials, strict=True))
            _insert(connection, PARAMS, [row for identity, trial in pairs for row in _params(identity, trial)])
            _insert(connection, VALUES, [row for identity, trial in pairs for row in _values(identity, trial.values or ())])
            _insert(connection, USER, [row for identity, trial in pairs for row in _attributes(identity, trial.user_attrs)])
            _insert(connection, SYSTEM, [row for identity, trial in pairs for row in _attributes(identity, trial.system_attrs)])
        return list(enumerate(identities, start=there))

    def end(self, ends: Sequence[End]) -> set[int]:
        """End trials, all that are still running; returns the ids of those that are not."""
        with self.engine.begin() as connection:
            wanted = [end.identity for end in ends]
            running = sql.select(TRIALS.c.trial_id).where(TRIALS.c.trial_id.in_(wanted), TRIALS.c.state == TrialState.RUNNING)
            there = set(connection.execute(running.with_for_update()).scalars())
            mine = [end for end in ends if end.identity in there]
            rows = [row for end in mine for row in _attributes(end.identity, end.attributes)]
            for key in {row["key"] for row in rows}:
                connection.execute(sql.delete(USER).where(USER.c.trial_id.in_(there), USER.c.key == key))
            _insert(connection, USER, rows)
            _insert(connection, VALUES, [row for end in mine for row in _values(end.identity, end.values)])
            now = datetime.now(UTC).replace(tzinfo=None)
            for state in {end.state for end in mine}:
                those = TRIALS.c.trial_id.in_([end.identity for end in mine if end.state == state])
                connection.execute(sql.update(TRIALS).where(those).values(state=state, datetime_complete=now))
        return set(wanted) - there

    def _get_trials(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int], trial_id_greater_than: int
    ) -> list[FrozenTrial]:
        """Optuna's own reading of a study, which everything in it goes through."""
        wanted = TRIALS.c.trial_id > trial_id_greater_than
        older = {identity for identity in included_trial_ids if identity <= trial_id_greater_than}
        if older:
            wanted |= TRIALS.c.trial_id.in_(older) if len(older) <= FEW else TRIALS.c.trial_id >= min(older)
        wanted &= TRIALS.c.study_id == study_id
        with self.engine.connect() as connection:

            def of_trials(table: sql.Table, *columns: str) -> dict[int, list[Any]]:
                """Trial's id → its rows, in the order in which they were written."""
                chosen = (table.c.trial_id, *(table.c[column] for column in columns))
                first = next(iter(table.primary_key))
                found: dict[int, list[Any]] = defaultdict(list)
                for row in connection.execute(sql.select(*chosen).join(TRIALS).where(wanted).order_by(first)):
                    found[row[0]].append(row)
                return found

            rows = connection.execute(
                sql.select(*(TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete")))
                .where(wanted)
                .order_by(TRIALS.c.trial_id)
            ).all()
            params = of_trials(PARAMS, "param_name", "param_value", "distribution_json")
            values = of_trials(VALUES, "objective", "value", "value_type")
            user, system = (of_trials(table, "key", "value_json") for table in (USER, SYSTEM))
            seen = of_trials(INTERMEDIATE, "step", "intermediate_value", "intermediate_value_type")
        to_value = models.TrialValueModel.stored_repr_to_value
        to_seen = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
        return [
            FrozenTrial(
                number=number,
                state=state,
                value=None,
                values=[to_value(value, kind) for _, _, value, kind in sorted(values[identity], key=lambda row: row[1])] or None,
                datetime_start=_local(start),
                datetime_complete=_local(end),
                params={name: _distribution(text).to_external_repr(value) for _, name, value, text in params[identity]},
                distributions={name: _distribution(text) for _, name, _, text in params[identity]},
                user_attrs={key: json.loads(text) for _, key, text in user[identity]},
                system_attrs={key: json.loads(text) for _, key, text in system[identity]},
                intermediate_values={step: to_seen(value, kind) for _, step, value, kind in seen[identity]},
                trial_id=identity,
            )
            for identity, number, state, start, end in rows
            if (states is None or state in states) and (identity > trial_id_greater_than or identity in older)
        ]


def _insert(connection: sql.Connection, table: sql.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(sql.insert(table), rows)


def _params(identity: int, trial: FrozenTrial) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": identity,
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]


def _attributes(identity: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"trial_id": identity, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _values(identity: int, values: Sequence[float]) -> list[dict[str, Any]]:
    stored = [models.TrialValueModel.value_to_stored_repr(float(value)) for value in values]
    return [{"trial_id": identity, "objective": place, "value": value, "value_type": kind} for place, (value, kind) in enumerate(stored)]


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _utc(time: datetime | None) -> datetime | None:
    """Local time as it is kept: in UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None) if time else None


def _local(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None) if time else None
