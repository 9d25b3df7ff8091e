"""When a schedule is due: from the options of `lab schedule` to a rule of Prefect's, and back into words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from components.errors import RequestError, closest
from flows.schedules import DAYS_AHEAD, SHORTEST

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Seconds of each unit of a duration, the longest first."""
FREQUENCIES = {"d": "DAILY", "h": "HOURLY", "m": "MINUTELY", "s": "SECONDLY"}
PREFECTS_START = "DTSTART:20200101T000000"
"""What Prefect adds to a rule without a start."""


def rule(*, cron: str, every: str, rrule: str, timezone: str, at: str, now: datetime) -> dict[str, Any]:
    """The rule, as Prefect takes it, of exactly one of `cron`, `every` and `rrule` (the others are empty).

    Args:
        cron: five fields or an alias such as `@daily`; the server judges it.
        every: a duration such as `6h`.
        rrule: a recurrence rule of RFC 5545; `\\n` in it stands for a new line. The server judges it.
        timezone: what times are meant in; empty for this machine's.
        at: the first time of `every`; empty for one interval from `now`.
        now: with a time zone.

    Raises:
        RequestError: they do not go together, or one cannot be understood.
    """
    if sum(map(bool, (cron, every, rrule))) != 1:
        raise RequestError('say when with exactly one of --cron "0 2 * * *", --every 6h and --rrule "FREQ=WEEKLY;BYDAY=MO;BYHOUR=2"')
    if at and not every:
        raise RequestError("--at is the first time of --every; leave it out with --cron and --rrule")
    name = zone(timezone)
    if cron:
        return {"cron": cron, "timezone": name}
    if rrule:
        return {"rrule": rrule.replace("\\n", "\n"), "timezone": name}
    seconds = duration(every)
    first = moment(at, name) if at else now.replace(microsecond=0) + timedelta(seconds=seconds)
    if first - now <= timedelta(seconds=seconds):
        return {"interval": seconds, "anchor_date": first.isoformat(), "timezone": name}
    # Prefect counts an interval back from its anchor too, so one further ahead would have runs before the first time.
    unit = _unit(seconds)
    start = first.astimezone(ZoneInfo(name)).strftime("%Y%m%dT%H%M%S")
    return {"rrule": f"DTSTART:{start}\nRRULE:FREQ={FREQUENCIES[unit]};INTERVAL={seconds // UNITS[unit]}", "timezone": name}


def duration(text: str) -> int:
    """Seconds of `90s`, `15m`, `6h`, `1d`.

    Raises:
        RequestError: it is none of these, or too short or too long for a schedule.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    if not found:
        raise RequestError(f"--every {text!r} is not a duration such as 90s, 15m, 6h or 1d")
    seconds = int(found[1]) * UNITS[found[2]]
    if not SHORTEST <= seconds <= DAYS_AHEAD * UNITS["d"]:
        raise RequestError(f"--every {text} has to be from {SHORTEST}s to {DAYS_AHEAD}d")
    return seconds


def moment(text: str, timezone: str) -> datetime:
    """The time that `text` (ISO 8601) means; without an offset it is meant in `timezone`.

    Raises:
        RequestError: it is not a time.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RequestError(f"--at {text!r} is not a time such as 2026-11-26T02:00") from None
    return found if found.tzinfo else found.replace(tzinfo=ZoneInfo(timezone))


def zone(name: str) -> str:
    """The time zone `name`, or this machine's when that is empty.

    Raises:
        RequestError: there is no such zone.
    """
    there = available_timezones()
    if name and name not in there:
        raise RequestError(f"there is no time zone {name!r}{closest(name, there)}; zones are called Asia/Seoul, Europe/Berlin, UTC …")
    return name or machine_zone(os.environ.get("TZ", ""), Path("/etc/localtime"))


def machine_zone(variable: str, localtime: Path) -> str:
    """The machine's time zone by the variable TZ and by what /etc/localtime points to; UTC where neither says a name."""
    linked = str(localtime.resolve()).partition("/zoneinfo/")[2]
    there = available_timezones()
    return next((name for name in (variable.removeprefix(":"), linked) if name in there), "UTC")


def words(rule: Mapping[str, Any]) -> str:
    """A rule for people: `every 6h`, `0 2 * * *`, `FREQ=DAILY from 2026-11-26 02:00`."""
    if "interval" in rule:
        seconds = int(rule["interval"])
        unit = _unit(seconds)
        return f"every {seconds // UNITS[unit]}{unit}"
    if "cron" in rule:
        return str(rule["cron"])
    lines = str(rule["rrule"]).splitlines()
    start = next((line.partition(":")[2] for line in lines if line.startswith("DTSTART:") and line != PREFECTS_START), "")
    rest = " ".join(line.removeprefix("RRULE:") for line in lines if not line.startswith("DTSTART:"))
    try:
        return f"{rest} from {datetime.fromisoformat(start):%Y-%m-%d %H:%M}"
    except ValueError:
        return rest


def _unit(seconds: int) -> str:
    """The longest unit that `seconds` is a whole number of."""
    return next(unit for unit, length in UNITS.items() if seconds % length == 0)
