"""A report as one self-contained HTML page: no script, no network, pictures within."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vldistill.evaluation.page import data_uri, document, png_uri
from vldistill.evaluation.report.analyses import Importance, Picture, Shift
from vldistill.evaluation.report.charts import Chart, bar_charts, cost_chart, curve_charts, style_of
from vldistill.evaluation.report.grid import Group
from vldistill.evaluation.report.samples import Given, SampleCard, SampleSet
from vldistill.evaluation.report.tables import Grid, note_of, text_table

_STYLE = """
:root { --panel: #fff; --right: #00704d; --wrong: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --right: #4fc79b; --wrong: #ff8f85; --warn: #e8b23c; } }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: .6rem 0 0; list-style: none; }
section { padding: 1.4rem 0 .4rem; border-top: 1px solid var(--line); margin-top: 1.4rem; }
section > h2 { font-size: 1.15rem; margin-bottom: .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .5rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
.wide:focus-visible { outline: 2px solid var(--faint); }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.paper { color: var(--faint); }
.key { display: inline-block; width: 1.4rem; height: 0; border-top: 3px solid; margin-right: .5rem; vertical-align: middle; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0; list-style: none; font-size: .9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .9rem; }
figure { margin: 0; padding: .5rem .6rem .3rem; background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  color: #1c1c1f; }
figure img { display: block; width: 100%; height: auto; }
summary { cursor: pointer; font-weight: 600; margin-top: .8rem; }
figure.whole { margin: .9rem 0; }
figure.whole img { width: auto; max-width: 100%; margin: 0 auto; }
figcaption { font-size: .85rem; font-weight: 600; margin-bottom: .2rem; }
.flags { padding-left: 1.2rem; color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; min-width: 0; }
article .pictures { display: flex; gap: .5rem; }
article .pictures img { min-width: 0; max-width: 100%; height: auto; max-height: 11rem; object-fit: contain; border-radius: 4px; }
article blockquote { margin: .6rem 0 .3rem; font-weight: 600; }
article table { width: 100%; } article td { white-space: normal; padding: .2rem .5rem .2rem 0; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
@media print { section { break-inside: avoid-page; } }
"""


@dataclass(frozen=True)
class TaskReport:
    """The runs of one task. title: the data they were trained on."""

    title: str
    groups: tuple[Group, ...]
    grid: Grid


@dataclass(frozen=True)
class Report:
    """problems: lines on runs whose figures do not count. remarks: on what else to know of them."""

    title: str
    told: str
    tasks: tuple[TaskReport, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    samples: tuple[SampleSet, ...]
    shifts: tuple[Shift, ...]
    pictures: tuple[Picture, ...]


def report_page(report: Report) -> str:
    """The page. All text of runs and data is escaped."""
    sections = [("results", "Results", [part for task in report.tasks for part in _results(task)]),
                ("curves", "Learning curves", [part for task in report.tasks for part in _curves(task)]),
                ("cost", "Cost", [part for task in report.tasks for part in _cost(task)]),
                ("samples", "Sample predictions", [part for found in report.samples for part in _samples(found)]),
                ("attention", "What they attend to", [*_modality(report.shifts), *map(_picture, report.pictures)]),
                ("runs", "Runs", [_runs(report.tasks)])]
    kept = [(anchor, title, body) for anchor, title, body in sections if any(body)]
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title, _ in kept)
    body = [f'<p class="faint">{escape(report.told)}</p>', f"<nav><ul>{links}</ul></nav>", _flags("Not counted", report.problems),
            _flags("To be known", report.remarks)]
    body += [f'<section id="{anchor}"><h2>{title}</h2>{"".join(parts)}</section>' for anchor, title, parts in kept]
    return document(report.title, _STYLE, body)


def _flags(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section><h2>{title}</h2><ul class="flags">{items}</ul></section>'


def _results(task: TaskReport) -> list[str]:
    table = text_table(task.grid)
    head = "".join(_cell("th", name, numeric, name == "paper") for name, numeric in zip(table.head, table.numeric, strict=True))
    rows = "".join("<tr>" + "".join(_cell("td", cell, numeric, name == "paper") for name, cell, numeric
                                     in zip(table.head, row, table.numeric, strict=True)) + "</tr>" for row in table.rows)
    sources = "; ".join(task.grid.sources)
    told = f'<p class="faint">{escape(note_of([task.grid]))}{escape(" Sources: " + sources + ".") if sources else ""}</p>'
    return [f"<h3>{escape(task.title)}</h3>", _wide(f"<table><tr>{head}</tr>{rows}</table>", f"results on {task.title}"), told,
            _charts(bar_charts(task.grid), task.title)]


def _cell(tag: str, text: str, numeric: bool, paper: bool) -> str:
    kinds = " ".join(["n"] * numeric + ["paper"] * paper)
    return f'<{tag}{f" class={chr(34)}{kinds}{chr(34)}" if kinds else ""}>{escape(text)}</{tag}>'


def _wide(table: str, label: str) -> str:
    """A table that scrolls by itself where the page is narrow, with the keyboard too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def _charts(charts: Sequence[Chart], of: str) -> str:
    return '<div class="charts">' + "".join(_chart(chart, of) for chart in charts) + "</div>" if charts else ""


def _chart(chart: Chart, of: str) -> str:
    uri = f"data:image/svg+xml;base64,{base64.b64encode(chart.svg.encode()).decode()}"
    return (f'<figure><figcaption>{escape(chart.title)}</figcaption>'
            f'<img src="{uri}" alt="{escape(chart.title)}, {escape(of)}"></figure>')


def _curves(task: TaskReport) -> list[str]:
    charts = curve_charts(task.groups)
    if not charts:
        return []
    lines = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"}
    keys = ""
    for place, group in enumerate(task.groups):
        colour, dash = style_of(place)
        style = f"border-color:{colour};border-top-style:{lines[dash]}"
        keys += f'<li><span class="key" style="{style}"></span>{escape(group.name)}</li>'
    return [f"<h3>{escape(task.title)}</h3>", f'<ul class="legend">{keys}</ul>', _charts(charts, task.title)]


def _cost(task: TaskReport) -> list[str]:
    chart = cost_chart(task.grid)
    return [_charts([chart], task.title)] if chart else []


def _modality(shifts: Sequence[Shift]) -> list[str]:
    if not shifts:
        return []
    rows = "".join(f"<tr><td>{escape(shift.name)}</td><td>{escape(shift.split)}</td>{_importance(shift.before)}"
                   f"{_importance(shift.after)}</tr>" for shift in shifts)
    columns = "".join(f'<th class="n">{when} {name}</th>' for when in ("before:", "after:") for name in ("vision", "text", "gap"))
    told = "Mean attention of [CLS] on visual and on text tokens; gap: text less vision (ADVL, Fig. 8)."
    table = f"<table><tr><th>run</th><th>split</th>{columns}</tr>{rows}</table>"
    return [_wide(table, "modality importance"), f'<p class="faint">{told}</p>']


def _picture(picture: Picture) -> str:
    title = f"{picture.name}: {picture.view}"
    shown = f'<figure class="whole"><img src="{png_uri(picture.png)}" alt="{escape(title)}"></figure>'
    return f'<details{" open" * picture.short}><summary>{escape(title)}</summary>{shown}</details>'


def _importance(found: Importance | None) -> str:
    cells = ["–"] * 3 if found is None else [f"{value:.4f}" for value in (found.vision, found.text, found.gap)]
    return "".join(f'<td class="n">{cell}</td>' for cell in cells)


def _samples(found: SampleSet) -> list[str]:
    told = f'<p class="faint">{escape(found.told)}</p>' if found.told else ""
    return [f"<h3>{escape(found.title)}</h3>", told, '<div class="cards">', *map(_card, found.cards), "</div>"]


def _card(card: SampleCard) -> str:
    pictures = "".join(f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" '
                       f'alt="image {number} of {escape(card.id)}">' for number, image in enumerate(card.images, start=1))
    truth = f'<p>right: <b>{escape(card.truth)}</b></p>' if card.truth else ""
    rows = "".join(map(_given, card.given))
    return (f'<article><div class="pictures">{pictures}</div><blockquote>{escape(card.text)}</blockquote>{truth}'
            f'<table>{rows}</table><p class="faint">{escape(card.id)}</p></article>')


def _given(given: Given) -> str:
    mark, kind = ("", "") if given.score is None else ("✓\u00a0", "right") if given.score >= 0.5 else ("✗\u00a0", "wrong")
    return (f'<tr><td>{escape(given.model)}</td><td class="{kind}">{mark}{escape(given.answer)}</td>'
            f'<td class="n">{given.confidence:.0%}</td></tr>')


def _runs(tasks: Sequence[TaskReport]) -> str:
    rows = ""
    for run in (run for task in tasks for group in task.groups for run in group.runs):
        best = run.best.get("accuracy")
        cells = (str(run.folder), run.stage, run.flag or "complete", run.device or "–")
        figures = (str(run.best.get("step", "–")), "–" if best is None else f"{100 * best:.2f}",
                   "–" if run.cost.seconds is None else f"{run.cost.seconds:,.0f}")
        rows += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows += "".join(f'<td class="n">{escape(figure)}</td>' for figure in figures) + "</tr>"
    names = ("run", "stage", "state", "device", "best step", "validation %", "seconds")
    head = "".join(f'<th{" class=n" if place > 3 else ""}>{name}</th>' for place, name in enumerate(names))
    return _wide(f"<table><tr>{head}</tr>{rows}</table>", "runs")
