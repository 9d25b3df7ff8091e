"""A report as text for a terminal, at most 100 columns wide, and as markdown: the same tables, the verdict first."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flows.search import wording
from flows.search.findings import Report
from flows.search.quantity import Quantity, is_point
from flows.search.ranking import Configuration
from flows.search.statistics import NO_TEST, TOO_CLOSE, Factor, Level

WIDTH = 100
MOST_COMPARISONS = 100
"""Of more comparisons of one factor the first are shown, with the best levels in them; JSON has all."""
NO_SPREAD = " No interval: the difference was the same every time."
LAST = 30
"""Characters that the last column of a table has at least, where its cells are that long."""


@dataclass(frozen=True)
class Table:
    """A table of a report; `numbers` are the columns that stand to the right."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


def text(report: Report) -> str:
    """The report for a terminal."""
    lines = [*textwrap.wrap(title(report), WIDTH), ""]
    lines += [line for sentence in report.verdict for line in _bullet(sentence)]
    if report.command:
        lines += ["", "Train the best configuration:", "", *_command_lines(report.command)]
    if report.cautions:
        lines += ["", "Before you believe it:", *(line for sentence in report.cautions for line in _bullet(sentence))]
    for table in tables(report):
        lines += ["", *textwrap.wrap(table.title, WIDTH), *_aligned(table)]
        lines += textwrap.wrap(table.note, WIDTH - 2, initial_indent="  ", subsequent_indent="  ") if table.note else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def markdown(report: Report) -> str:
    """The report for a Prefect artifact."""
    parts = [f"# {_escaped(title(report))}"]
    if report.description:
        parts.append(_escaped(report.description))
    parts.append("\n".join(f"- {_escaped(sentence)}" for sentence in report.verdict))
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        parts.append(f"## Train the best configuration\n\n{fence}sh\n{report.command}\n{fence}")
    if report.cautions:
        parts.append("## Before you believe it\n\n" + "\n".join(f"- {_escaped(sentence)}" for sentence in report.cautions))
    for table in [*tables(report), *comparison_tables(report)]:
        rows = [table.head, tuple("---:" if i in table.numbers else "---" for i in range(len(table.head))), *table.rows]
        body = "\n".join("| " + " | ".join(cell if i == 1 else _escaped(cell) for cell in row) + " |" for i, row in enumerate(rows))
        parts.append(f"## {_escaped(table.title)}\n\n{body}" + (f"\n\n{_escaped(table.note)}" if table.note else ""))
    return "\n\n".join(parts) + "\n"


def title(report: Report) -> str:
    """What sweep it is, and what its numbers are."""
    quantity = Quantity(report.metric, report.direction)
    better = "higher" if report.direction == "max" else "lower"
    ones = "a fresh one" if report.fresh_seeds == 1 else f"{report.fresh_seeds} fresh ones"
    fresh = f" and {ones} to confirm" if report.fresh_seeds else ""
    values = f"{quantity.split} {quantity.name}".strip()
    return (
        f"{report.name}: {report.cost.ended} of {wording.count(report.cost.asked, 'trial')}, {wording.seeds(report.seeds)}{fresh}; "
        f"values are {values}, {better} is better"
    )


def tables(report: Report) -> list[Table]:
    """Levels, configurations, importance, test and cost; what there is nothing of is left out."""
    quantity = Quantity(report.metric, report.direction)
    found = [_levels(factor, quantity) for factor in report.factors]
    ranking = report.ranking
    if ranking.best:
        note = f"{wording.count(ranking.competing, 'configuration')} competed."
        found.append(_configurations("Best configurations", ranking.best, report, quantity, note))
    if ranking.rivals:
        found.append(_rivals(report, quantity))
    if ranking.front:
        are = "is" if ranking.front_size == 1 else "are"
        note = f"{wording.count(ranking.front_size, 'configuration')} {are} beaten by no other in every objective."
        found.append(_configurations("Pareto front", ranking.front, report, quantity, note))
    if report.importance:
        found.append(_importance(report))
    if report.test:
        found.append(_test(report))
    return [*found, _cost(report)]


def comparison_tables(report: Report) -> list[Table]:
    """Every comparison of two levels, a table for each factor that has any."""
    quantity = Quantity(report.metric, report.direction)
    return [_comparisons(factor, quantity) for factor in report.factors if any(each.pairs for each in factor.comparisons)]


def _levels(factor: Factor, quantity: Quantity) -> Table:
    """What is the same for every level is said once, below."""
    levels = factor.levels
    digits = quantity.decimals(level.interval for level in levels)
    columns = [
        ("level", [level.name for level in levels]),
        ("mean", [quantity.value(level.mean, digits) for level in levels]),
        ("95 % over seeds", [quantity.interval(level.interval, digits) for level in levels]),
        ("middle half", [quantity.span(level.spread, quantity.decimals(each.spread for each in levels)) for level in levels]),
        ("seeds", [str(level.seeds) for level in levels]),
        ("combinations", [str(level.combinations) for level in levels]),
        ("trials", [_trials(level) for level in levels]),
        ("with", [wording.settings(level.settings or {}) for level in levels]),
    ]
    counts = {name: cells[0] for name, cells in columns if name in ("seeds", "combinations", "trials") and len(set(cells)) == 1}
    kept = [(name, cells) for name, cells in columns if name not in counts and set(cells) - {"–", ""}]
    names = [name for name, _ in kept]
    note = [f"Each: {', '.join(f'{name} {count}' for name, count in counts.items())}."] if counts else []
    same = _same_values(level.interval for level in levels)
    if same:
        note.append(same)
    elif "95 % over seeds" not in names:
        note.append("No interval: one seed says nothing about chance.")
    barred = [level.name for level in levels if not level.allowed]
    if barred:
        note.append(f"Breaking a constraint: {', '.join(barred)}.")
    if "middle half" in names:
        note.append("Middle half: of the combinations of everything else; no interval of the mean.")
    basis = {"same conditions": "", "confirmed": ", fresh seeds", "best of tuned": ", best of tuned", "own conditions": ", not comparable"}
    return Table(
        f"{factor.key}{basis[factor.basis]}",
        " ".join(note),
        tuple(names),
        tuple(zip(*(cells for _, cells in kept), strict=True)),
        frozenset(i for i, name in enumerate(names) if name in ("mean", "95 % over seeds", "middle half", "seeds", "combinations")),
    )


def _same_values(intervals: Iterable[tuple[float, float] | None]) -> str:
    """Why there is a dash where there might be an interval."""
    alike = any(each is not None and is_point(each) for each in intervals)
    return "No interval (–): all seeds gave the same value, which makes it no more certain." if alike else ""


def _trials(level: Level) -> str:
    others = [(level.pruned, "pruned"), (level.failed, "failed"), (level.lost, "no number")]
    return ", ".join([str(level.complete), *(f"{count} {what}" for count, what in others if count)])


def _comparisons(factor: Factor, quantity: Quantity) -> Table:
    rows = tuple(
        (
            comparison.better,
            comparison.worse,
            "–" if comparison.difference is None else quantity.lead(comparison.difference, comparison.interval, unit=False),
            "not tested" if comparison.test == NO_TEST else f"{comparison.test} ({comparison.units})",
            f"{comparison.pairs}" + (f", {comparison.left_out} left out" if comparison.left_out else ""),
            "–" if comparison.adjusted is None else _p(comparison.adjusted),
            "beats" if comparison.beats else TOO_CLOSE,
        )
        for comparison in factor.comparisons[:MOST_COMPARISONS]
    )
    left = f" The first {len(rows)} of {len(factor.comparisons):,}." if len(rows) < len(factor.comparisons) else ""
    if any(each.interval is not None and is_point(each.interval) for each in factor.comparisons[:MOST_COMPARISONS]):
        left += NO_SPREAD
    unit = "points" if quantity.scale == 100 else quantity.name
    return Table(
        f"{factor.key}: level against level",
        f"p is corrected for all comparisons of the report (Holm); intervals are of 95 % for one comparison alone.{left}",
        ("better", "worse", f"by ({unit})", "test", "pairs", "p", "verdict"),
        rows,
        frozenset({2, 5}),
    )


def _configurations(name: str, shown: Sequence[Configuration], report: Report, quantity: Quantity, note: str) -> Table:
    interval = any(each.interval and not is_point(each.interval) for each in shown)
    note = f"{note} {_same_values(each.interval for each in shown)}".rstrip()
    digits = quantity.decimals(each.interval for each in shown)
    others = [Quantity(metric, direction) for metric, direction in report.objectives[1:]]
    head = [
        "",
        f"{quantity.split} {quantity.name}".strip(),
        *(["95 %"] if interval else []),
        *(other.name for other in others),
        "configuration",
    ]
    rows = tuple(
        (
            f"{place}.",
            quantity.value(each.mean, digits),
            *([quantity.interval(each.interval, digits)] if interval else []),
            *(other.value(value) for other, value in zip(others, each.means[1:], strict=True)),
            wording.settings(each.params),
        )
        for place, each in enumerate(shown, 1)
    )
    return Table(name, note, tuple(head), rows, frozenset(range(1, len(head) - 1)))


def _rivals(report: Report, quantity: Quantity) -> Table:
    ranking = report.ranking
    rows = tuple(
        (
            quantity.lead(rival.lead, rival.interval, unit=False),
            _p(rival.adjusted),
            TOO_CLOSE if rival.close else "beaten",
            wording.settings(rival.params),
        )
        for rival in ranking.rivals
    )
    unit = "points" if quantity.scale == 100 else quantity.name
    note = "Paired over seeds; p is corrected (Holm)."
    if ranking.judged > 1:
        note += f" {ranking.close or 'None'} of {ranking.judged:,} {'is' if ranking.close == 1 else 'are'} {TOO_CLOSE}."
    if any(rival.interval is not None and is_point(rival.interval) for rival in ranking.rivals):
        note += NO_SPREAD
    return Table(
        "The chosen configuration against others", note, (f"ahead by ({unit})", "p", "verdict", "configuration"), rows, frozenset({0, 1})
    )


def _importance(report: Report) -> Table:
    found = report.importance
    assert found is not None
    rows = [
        (
            share.key,
            f"{100 * share.share:.1f} %",
            "–" if share.interval is None else f"[{100 * share.interval[0]:.1f}, {100 * share.interval[1]:.1f}]",
        )
        for share in found.shares
    ]
    if found.rest is not None:
        rows.append(("interactions and chance", f"{100 * found.rest:.1f} %", "–"))
    what = (
        "Share of the variance of all trials that goes with a factor (ANOVA)"
        if found.method == "ANOVA"
        else "How much a key has to do with being among the best tenth (PED-ANOVA)"
    )
    note = f"{what}; intervals from {found.samples} samples of the {found.resampled}, drawn with replacement."
    return Table("What matters", note, ("key", "importance", "95 %"), tuple(rows), frozenset({1, 2}))


def _test(report: Report) -> Table:
    rows = []
    for tested in report.test:
        quantity = Quantity(tested.metric, "max")
        rows.append((tested.metric, quantity.value(tested.mean), quantity.interval(tested.interval), str(tested.seeds)))
    note = "The test split was looked at for the chosen configuration only, after it was chosen."
    if report.tested > 1:
        note = (
            f"The test split has been looked at for {report.tested} configurations by now, the chosen one included, as more trials "
            "changed the choice; these numbers are therefore a little optimistic."
        )
    note = f"{note} {_same_values(tested.interval for tested in report.test)}".rstrip()
    return Table("Test, the chosen configuration", note, ("metric", "mean", "95 % over seeds", "seeds"), tuple(rows), frozenset({1, 2, 3}))


def _cost(report: Report) -> Table:
    cost = report.cost
    hours, rest = divmod(round(cost.seconds), 3600)
    rows = [
        (f"{cost.complete:,}", "trial that finished" if cost.complete == 1 else "trials that finished"),
        *([(f"{cost.pruned:,}", "pruned")] if cost.pruned else []),
        *([(f"{cost.failed:,}", "failed")] if cost.failed else []),
        *([(f"{cost.lost:,}", "ended without a number")] if cost.lost else []),
        (f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s", "of training and evaluation, added up"),
        (f"{cost.samples:,}", "training examples seen"),
        *((f"{failure.trials:,}", f"failed: {failure.reason}") for failure in cost.failures),
    ]
    note = "Reasons that differ in numbers only are counted as one." if cost.failures else ""
    return Table("What it cost", note, ("", ""), tuple(rows), frozenset({0}))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _bullet(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH - 2, initial_indent="- ", subsequent_indent="  ")


def _command_lines(command: str) -> list[str]:
    """The command over several lines that a shell puts together again; a single long word stays whole."""
    lines = ["  lab train"]
    for word in shlex.split(command)[2:]:
        quoted = shlex.quote(word)
        if len(lines[-1]) + len(quoted) > WIDTH - 4:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {quoted}"
    return lines


def _aligned(table: Table) -> list[str]:
    """Rows under each other. The last cell goes on below itself where it is too long, other cells lose their middle."""
    rows = [table.head, *table.rows] if any(table.head) else table.rows
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    last = min(max(len(row[-1]) for row in rows), LAST)
    while (before := 2 + sum(widths) + 2 * len(widths)) + last > WIDTH:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [_short(cell, width) for cell, width in zip(row, widths, strict=False)]
        padded = [
            cell.rjust(width) if i in table.numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        first, *more = textwrap.wrap(row[-1], WIDTH - before) or [""]
        lines.append("  " + "".join(f"{cell}  " for cell in padded) + first)
        lines += [" " * before + line for line in more]
    return lines


def _short(cell: str, longest: int) -> str:
    return cell if len(cell) <= longest else f"{cell[: longest // 2]}…{cell[len(cell) - (longest - 1 - longest // 2) :]}"


def _escaped(cell: str) -> str:
    """Text that markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(cell.split()))
