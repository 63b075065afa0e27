"""Modality importance as one HTML page."""

from __future__ import annotations

from html import escape

from vldistill.evaluation.attention.modality import ModalityView
from vldistill.evaluation.attention.modality_figure import averages, heatmaps
from vldistill.evaluation.page import document, png_uri

_STYLE = """
figure { margin: 1.2rem 0; padding: .6rem; background: #fff; border: 1px solid var(--line); border-radius: 6px; color: #1c1c1f; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
"""


def modality_page(view: ModalityView) -> str:
    rows = ""
    for name, found in view.shown:
        cells = "".join(f"<td>{value:.4f}</td>" for value in found.averages.values())
        rows += f"<tr><td>{f'{name}: ' * bool(view.before)}{escape(found.run)}</td>{cells}</tr>"
    table = f'<table><tr><th>mean over heads and layers</th><th>vision</th><th>text</th><th>gap</th></tr>{rows}</table>'
    return document(f"Modality importance of {view.after.run}", _STYLE, [
        f'<p class="faint">{escape(view.told)}</p>', f'<div class="wide">{table}</div>',
        _figure("Every head of every layer", heatmaps(view)), _figure("Mean over heads; shaded: the gap", averages(view))])


def _figure(title: str, png: bytes) -> str:
    return f'<figure><figcaption>{title}</figcaption><img src="{png_uri(png)}" alt="{title}"></figure>'
