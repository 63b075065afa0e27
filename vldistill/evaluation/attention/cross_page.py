"""Cross-modal attention as one HTML page."""

from __future__ import annotations

from vldistill.evaluation.attention.cross import CrossView
from vldistill.evaluation.attention.cross_figure import cross_figure
from vldistill.evaluation.page import render


def cross_page(view: CrossView) -> str:
    samples = [(sample, cross_figure(sample)) for sample in view.samples]
    return render("cross.html", title=view.title, summary=view.summary, samples=samples)
