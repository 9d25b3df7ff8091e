"""The report as one HTML file that needs nothing else: no script, no font, no picture from anywhere; readable on a phone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from flows.search.findings import Report
from flows.search.results import Results
from flows.search.statistics import TOO_CLOSE
from flows.search.tables import Table, comparison_tables, tables, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "sweep/levels": "Each level of each factor",
    "sweep/heatmap": "Levels together",
    "sweep/importance": "What matters",
    "sweep/history": "Trial after trial",
    "sweep/parallel": "Every trial as a line",
}

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.25rem 4rem; background: #fff; color: #1f2328;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 1rem 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; }
.faint { color: #57606a; font-size: .9rem; }
.verdict { border-left: 4px solid #0072b2; background: #f2f8fc; padding: .6rem 1rem; margin: 1rem 0; }
.cautions { border-left: 4px solid #e69f00; background: #fef9ee; padding: .6rem 1rem; margin: 1rem 0; }
.verdict ul, .cautions ul { margin: .2rem 0; padding-left: 1.1rem; }
.verdict li, .cautions li { margin: .35rem 0; }
.verdict li:first-child { font-weight: 600; }
pre { background: #f6f8fa; padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top; overflow-wrap: normal; }
th { color: #57606a; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.winner td { font-weight: 600; }
tr.close td { color: #57606a; }
figure { margin: 1rem 0; }
figure img { width: 100%; max-width: 900px; height: auto; display: block; border: 1px solid #d8dee4; border-radius: 6px; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 .4rem; }
"""


def html(results: Results, report: Report, figures: Mapping[str, Figure]) -> str:
    """The whole report as a page: the verdict first, then figures and tables."""
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="faint">{escape(title(report).removeprefix(f"{report.name}: "))}</p>',
        f"<p>{escape(report.description)}</p>" if report.description else "",
        _list("verdict", report.verdict),
        f"<h2>Train the best configuration</h2><pre>{escape(report.command)}</pre>" if report.command else "",
        f"<h2>Before you believe it</h2>{_list('cautions', report.cautions)}" if report.cautions else "",
        "<h2>Figures</h2>" if figures else "",
        *(_figure(name, figure) for name, figure in figures.items()),
        *(f"<h2>{escape(table.title)}</h2>{_table(table)}" for table in tables(report)),
        *(f"<details><summary>{escape(table.title)}</summary>{_table(table)}</details>" for table in comparison_tables(report)),
        f'<p class="faint">{escape(_how(results))}</p>',
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _list(kind: str, sentences: tuple[str, ...]) -> str:
    return f'<div class="{kind}"><ul>{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul></div>'


def _figure(name: str, figure: Figure) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    caption = CAPTIONS.get(name, f"Learning: {name.removeprefix('sweep/curves_')}")
    said = f"{caption}. {figure.get_suptitle()}"
    return f'<figure><figcaption>{escape(caption)}</figcaption><img alt="{escape(said)}" src="data:image/png;base64,{data}"></figure>'


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        kind = ' class="close"' if TOO_CLOSE in cells else ' class="winner"' if "beats" in cells else ""
        number = [' class="number"' if i in table.numbers else "" for i in range(len(cells))]
        made = "".join(f"<{tag}{right}>{escape(cell)}</{tag}>" for right, cell in zip(number, cells, strict=True))
        return f"<tr{kind}>{made}</tr>"

    head = f"<thead>{row(table.head, 'th')}</thead>" if any(table.head) else ""
    note = f'<p class="faint">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(row(cells, "td") for cells in table.rows)}</tbody></table></div>{note}'


def _how(results: Results) -> str:
    """How the sweep was run."""
    balance = f", balanced over {results.balance}" if results.balance else ""
    common = f" All trials: {' '.join(results.overrides)}." if results.overrides else ""
    return f"Sampler {results.sampler}, pruner {results.pruner}{balance}.{common}"
