"""`analyze --words` as one HTML page that needs nothing else: no script, no network; images lie within it."""

from __future__ import annotations

from html import escape

from vldistill.evaluation.page import data_uri, document
from vldistill.evaluation.words import MEANINGS, SCALE, UNJUDGED, Sample, ScoredText, ShadedWord, View, largest

_CUT = ' <span class="cut">|</span> '

_STYLE = """
:root { --mark: #1c1c1f; --more: 255 170 51; --less: 110 170 240; }
@media (prefers-color-scheme: dark) { :root { --mark: #ececf0; --more: 168 96 0; --less: 32 92 170; } }
.row small { color: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; align-items: center; margin: .8rem 0; padding: 0; list-style: none; }
.bar { display: inline-block; width: 9rem; height: .9rem; border: 1px solid var(--line); border-radius: 3px; vertical-align: -2px;
  background: linear-gradient(90deg, rgb(var(--less)), transparent 50%, rgb(var(--more))); }
article { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 1.25rem; padding: 1.25rem 0;
  border-top: 1px solid var(--line); }
article img { display: block; width: 100%; height: auto; border-radius: 4px; }
dl { margin: 0; }
.row { display: grid; grid-template-columns: 4.5rem minmax(0, 1fr); gap: .75rem; margin-bottom: .6rem; }
.row dt { line-height: 1.3; padding-top: .15rem; }
.row small { display: block; }
.row dd { margin: 0; line-height: 1.9; }
.w { padding: .1rem .25rem; border-radius: 3px; border: 2px solid transparent; unicode-bidi: isolate;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.stop { color: var(--faint); }
.more { background: rgb(var(--more) / var(--a)); }
.less { background: rgb(var(--less) / var(--a)); }
.best { border-color: var(--mark); font-weight: 600; }
.cut { color: var(--faint); margin: 0 .3rem; }
summary { cursor: pointer; color: var(--faint); }
table { border-collapse: collapse; margin-top: .5rem; font-size: .9rem; }
th, td { padding: .1rem .6rem .1rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { article { grid-template-columns: minmax(0, 1fr); gap: .75rem; }
  article img { width: min(100%, 15rem); } .row { grid-template-columns: 3.6rem minmax(0, 1fr); } }
@media print { details { display: none; } article { break-inside: avoid; } .w { print-color-adjust: exact; } }
"""


def words_page(view: View) -> str:
    """The page. All text of the data is escaped."""
    return document(view.title, _STYLE, [_introduction(view), _legend(view), *map(_article, view.samples)])


def _introduction(view: View) -> str:
    return f'<p class="faint">{escape(view.told)}</p>'


def _legend(view: View) -> str:
    meanings = [f"<li>{_italic(symbol)} {escape(MEANINGS[symbol])}</li>" for symbol in view.symbols]
    return "\n".join([
        '<ul class="legend">', *meanings, f'<li>&minus;<span class="bar" role="img" aria-label="{SCALE}"></span>+ {SCALE}</li>',
        *[f'<li><span class="w best">word</span> {view.outlined}</li>', f'<li><span class="w stop">word</span> {UNJUDGED}</li>']
        * bool(view.outlined), "</ul>"])


def _article(sample: Sample) -> str:
    facts = f'<p class="faint">{escape(sample.facts)}</p>' if sample.facts else ""
    size = f'width="{sample.image.width}" height="{sample.image.height}"'
    return "\n".join([
        "<article>", f'<div><img src="{data_uri(sample.image)}" {size} alt="image of {escape(sample.id)}"></div>',
        f"<div><h2>{escape(sample.id)}</h2>{facts}<dl>", *(_row(symbol, sample.text) for symbol in sample.text.scores),
        f"</dl>{_figures(sample.text)}</div>", "</article>"])


def _row(symbol: str, text: ScoredText) -> str:
    parts = [" ".join(_word(symbol, word) for word in part) for part in text.shaded(symbol)]
    end = f"to {largest(text.scores[symbol]):.3f}"
    return f'<div class="row"><dt>{_italic(symbol)}<small>{end}</small></dt><dd>{_CUT.join(parts)}</dd></div>'


def _word(symbol: str, drawn: ShadedWord) -> str:
    word = escape(drawn.word)
    if drawn.shade is None:
        return f'<span class="w stop">{word}</span>'
    kind = ("more" if drawn.shade >= 0 else "less") + (" best" if drawn.rank else "")
    tip = f"{word}: {symbol} {drawn.value:.3f}" + (f", number {drawn.rank} of those compared" if drawn.rank else "")
    return f'<span class="w {kind}" style="--a:{abs(drawn.shade):.2f}" title="{tip}">{word}</span>'


def _figures(text: ScoredText) -> str:
    """Every figure in a table that unfolds, where there is no pointer for tooltips."""
    columns = [[word for part in text.shaded(symbol) for word in part] for symbol in text.scores]
    head = "".join(f"<th>{_italic(symbol)}</th>" for symbol in text.scores)
    lines = [f"<tr><td>{escape(row[0].word)}</td>{''.join(f'<td>{word.value:.3f}</td>' for word in row)}</tr>"
             for row in zip(*columns, strict=True) if row[0].shade is not None]
    return f"<details><summary>figures</summary><table><tr><th>word</th>{head}</tr>{''.join(lines)}</table></details>"


def _italic(symbol: str) -> str:
    base, _, index = symbol.partition("_")
    return f"<i>{base}</i><sub>{index}</sub>" if index else f"<i>{base}</i>"
