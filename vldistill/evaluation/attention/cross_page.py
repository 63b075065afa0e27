"""Cross-modal attention as one HTML page."""

from __future__ import annotations

from html import escape

from vldistill.evaluation.attention.cross import CrossSample, CrossView
from vldistill.evaluation.attention.cross_figure import cross_figure
from vldistill.evaluation.page import document, png_uri

_STYLE = """
article { padding: 1.2rem 0; border-top: 1px solid var(--line); }
.wide { overflow-x: auto; margin-top: .6rem; padding: .5rem; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
article img { display: block; max-width: none; height: auto; }
@media (min-width: 700px) { article img { max-width: 100%; } }
"""


def cross_page(view: CrossView) -> str:
    return document(view.title, _STYLE, [f'<p class="faint">{escape(view.told)}</p>', *map(_article, view.samples)])


def _article(sample: CrossSample) -> str:
    kl = sample.divergence
    beside = "" if kl is None else f"; KL(teacher ‖ student) of the heads' mean, mean over tokens: {kl:.4f} nats"
    words = ", ".join(row.word for row in sample.rows)
    picture = f'<img src="{png_uri(cross_figure(sample))}" alt="attention over the image of: {escape(words)}">'
    return (f'<article><h2>{escape(sample.text)}</h2><p class="faint">{escape(sample.id)}{beside}</p>'
            f'<div class="wide" tabindex="0" role="region" aria-label="attention maps">{picture}</div></article>')
