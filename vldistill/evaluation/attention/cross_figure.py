"""Attention of words over images as heat on the image: the teacher beside the student, a row for each word."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vldistill.evaluation.attention.cross import CrossSample, CrossView, Looked

_CELL, _DPI = 1.7, 110  # inches of a picture's height; dots an inch


def cross_figure(sample: CrossSample) -> bytes:
    """A PNG: for each image the image itself, then one column for each model. Teacher and student of a word share one scale."""
    models = list(sample.rows[0].maps)
    columns = [(number, name) for number in range(len(sample.places)) for name in ("", *models)]
    ratios = [place.image.shape[1] / place.image.shape[0] for place in sample.places for _ in ("", *models)]
    size = (_CELL * sum(ratios) + 1.2, _CELL * len(sample.rows) + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(len(sample.rows), len(columns), squeeze=False, width_ratios=ratios)
    for line, row in zip(axes, sample.rows, strict=True):
        for cell, (number, name) in zip(line, columns, strict=True):
            cell.set_xticks([])
            cell.set_yticks([])
            place = sample.places[number]
            high, wide = place.image.shape[:2]
            cell.imshow(place.image, extent=(0, wide, high, 0))
            if name:
                most = max(float(row.maps[each][number].max()) for each in models)
                _heat(cell, place, row.maps[name][number], most)
        line[0].set_ylabel(row.word, fontsize=10, parse_math=False)
    for cell, (number, name) in zip(axes[0], columns, strict=True):
        title = name or (f"image {number + 1}" if len(sample.places) > 1 else "image")
        cell.set_title(title, fontsize=10)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _heat(cell, place: Looked, values: np.ndarray, most: float) -> None:
    high, wide = place.image.shape[:2]
    if place.grid is not None:
        cell.imshow(
            values.reshape(place.grid),
            extent=(0, wide, high, 0),
            cmap="magma",
            vmin=0,
            vmax=most or 1,
            alpha=0.65,
            interpolation="nearest",
        )
        return
    # The strongest last, so that weak regions around it do not cover it.
    for index in np.argsort(values):
        left, top, right, bottom = place.boxes[index] * (wide, high, wide, high)
        share = float(values[index]) / (most or 1)
        cell.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                facecolor=(1.0, 0.45, 0.1, 0.4 * share),
                edgecolor=(0.7, 0.1, 0.1, share),
                linewidth=1.5,
            )
        )


def cross_figures(view: CrossView) -> bytes:
    """All samples, one above the other, in one PNG."""
    from vldistill.evaluation.attention.modality_figure import stacked

    return stacked([cross_figure(sample) for sample in view.samples])
