"""When a schedule is due: the options, the rules that Prefect gets, and the words for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr

from components.errors import RequestError
from flows.commands import when

NOW = datetime(2026, 11, 25, 13, 30, 0, 500_000, tzinfo=UTC)
SEOUL = "Asia/Seoul"  # nine hours ahead of UTC, the whole year


def rule(**given: str) -> dict[str, Any]:
    empty = {"cron": "", "every": "", "rrule": "", "timezone": SEOUL, "at": ""}
    return when.rule(**(empty | given), now=NOW)


def test_cron_and_rrule_are_handed_on() -> None:
    assert rule(cron="0 2 * * *") == {"cron": "0 2 * * *", "timezone": SEOUL}
    assert rule(rrule=r"DTSTART:20261126T020000\nRRULE:FREQ=DAILY") == {
        "rrule": "DTSTART:20261126T020000\nRRULE:FREQ=DAILY",
        "timezone": SEOUL,
    }


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("60s", 60), ("15m", 900), ("6h", 21_600), ("1d", 86_400), (" 2h ", 7_200), ("100d", 8_640_000)]
)
def test_durations(text: str, seconds: int) -> None:
    assert when.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("59s", "--every 59s has to be from 60s to 100d"),
        ("101d", "--every 101d has to be from 60s to 100d"),
        ("6", "--every '6' is not a duration such as 90s, 15m, 6h or 1d"),
        ("1.5h", "--every '1.5h' is not a duration such as 90s, 15m, 6h or 1d"),
        ("6 h", "--every '6 h' is not a duration such as 90s, 15m, 6h or 1d"),
        ("-6h", "--every '-6h' is not a duration such as 90s, 15m, 6h or 1d"),
        ("٦h", "--every '٦h' is not a duration such as 90s, 15m, 6h or 1d"),
        ("9999999999d", "--every '9999999999d' is not a duration such as 90s, 15m, 6h or 1d"),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        rule(every=text)
    assert str(caught.value) == message


def test_without_a_first_time_it_is_one_interval_from_now() -> None:
    assert rule(every="6h") == {"interval": 21_600, "anchor_date": "2026-11-25T19:30:00+00:00", "timezone": SEOUL}


@pytest.mark.parametrize(
    ("at", "anchor"),
    [
        ("2026-11-26T02:00", "2026-11-26T02:00:00+09:00"),  # 3 h 30 min from now
        ("2026-11-26 02:00:30", "2026-11-26T02:00:30+09:00"),
        ("2026-11-25T18:00+01:00", "2026-11-25T18:00:00+01:00"),
        ("2026-11-25", "2026-11-25T00:00:00+09:00"),  # gone by: in step with it
    ],
)
def test_a_first_time_within_one_interval_is_the_anchor(at: str, anchor: str) -> None:
    assert rule(every="6h", at=at) == {"interval": 21_600, "anchor_date": anchor, "timezone": SEOUL}


@pytest.mark.parametrize(
    ("every", "frequency", "step"),
    [("6h", "HOURLY;INTERVAL=6", 6 * 60), ("1d", "DAILY;INTERVAL=1", 24 * 60), ("90m", "MINUTELY;INTERVAL=90", 90)],
)
def test_a_first_time_further_ahead_is_a_rule_with_a_start(every: str, frequency: str, step: int) -> None:
    found = rule(every=every, at="2026-11-28T02:00")
    assert found == {"rrule": f"DTSTART:20261128T020000\nRRULE:FREQ={frequency}", "timezone": SEOUL}
    first, second = list(rrulestr(found["rrule"]).xafter(datetime(2026, 11, 1), count=2))
    assert (first, second - first) == (datetime(2026, 11, 28, 2), timedelta(minutes=step))


def test_a_start_is_written_in_the_zone_of_the_schedule() -> None:
    assert rule(every="90s", at="2026-11-27T17:00Z")["rrule"] == "DTSTART:20261128T020000\nRRULE:FREQ=SECONDLY;INTERVAL=90"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "say when with exactly one of --cron"),
        ({"cron": "0 2 * * *", "every": "6h"}, "say when with exactly one of --cron"),
        ({"cron": "0 2 * * *", "at": "2026-11-26"}, "--at is the first time of --every; leave it out with --cron and --rrule"),
        ({"every": "6h", "at": "tomorrow"}, "--at 'tomorrow' is not a time such as 2026-11-26T02:00"),
        ({"every": "6h", "timezone": "Asia/Soul"}, r"there is no time zone 'Asia/Soul' \(did you mean 'Asia/Seoul'\?\)"),
        ({"every": "6h", "timezone": "../etc/passwd"}, r"there is no time zone '\.\./etc/passwd'"),
    ],
)
def test_what_does_not_go_together(given: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        rule(**given)
    assert "\n" not in str(caught.value)


def test_the_zone_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seoul = tmp_path / "zoneinfo" / "Asia" / "Seoul"
    seoul.parent.mkdir(parents=True)
    seoul.touch()
    link, copy = tmp_path / "localtime", tmp_path / "copy"
    link.symlink_to(seoul)
    copy.touch()
    assert when.machine_zone("", link) == SEOUL
    assert when.machine_zone(":Europe/Berlin", link) == "Europe/Berlin"
    assert when.machine_zone("EST5EDT4,M3.2.0,M11.1.0", link) == SEOUL
    assert when.machine_zone("", copy) == "UTC"
    assert when.machine_zone("", tmp_path / "missing") == "UTC"
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert rule(every="6h", timezone="", at="2026-11-25T18:00") == {
        "interval": 21_600,
        "anchor_date": "2026-11-25T18:00:00+01:00",
        "timezone": "Europe/Berlin",
    }


def test_moments() -> None:
    assert when.moment("2026-11-26T02:00", SEOUL) == datetime(2026, 11, 25, 17, tzinfo=UTC)
    assert when.moment("2026-07-01T02:00", "Europe/Berlin").utcoffset() == timedelta(hours=2), "summer time"
    assert when.moment("2026-11-26T02:00-05:00", SEOUL) == datetime(2026, 11, 26, 2, tzinfo=timezone(timedelta(hours=-5)))
    assert when.moment("2026-11-26T02:00", SEOUL).tzinfo == ZoneInfo(SEOUL)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"interval": 21_600.0, "anchor_date": "2026-11-26T02:00:00Z"}, "every 6h"),
        ({"interval": 90.0}, "every 90s"),
        ({"interval": 172_800.0}, "every 2d"),
        ({"cron": "0 2 * * *", "day_or": True}, "0 2 * * *"),
        ({"rrule": "DTSTART:20261128T020000\nRRULE:FREQ=HOURLY;INTERVAL=6"}, "FREQ=HOURLY;INTERVAL=6 from 2026-11-28 02:00"),
        ({"rrule": "DTSTART:20200101T000000\nFREQ=WEEKLY;BYDAY=MO"}, "FREQ=WEEKLY;BYDAY=MO"),  # Prefect has added the start
        ({"rrule": "FREQ=DAILY\nEXDATE:20261225T000000"}, "FREQ=DAILY EXDATE:20261225T000000"),
    ],
)
def test_words(found: dict[str, Any], words: str) -> None:
    assert when.words(found) == words
