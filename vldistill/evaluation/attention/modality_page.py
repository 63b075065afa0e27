"""Modality importance as one HTML page."""

from __future__ import annotations

from vldistill.evaluation.attention.modality import ModalityView
from vldistill.evaluation.attention.modality_figure import averages, heatmaps
from vldistill.evaluation.page import render


def modality_page(view: ModalityView) -> str:
    figures = [("Every head of every layer", heatmaps(view)), ("Mean over heads; shaded: the gap", averages(view))]
    title = f"Modality importance of {view.after.run}"
    return render("modality.html", title=title, summary=view.summary, view=view, figures=figures)
