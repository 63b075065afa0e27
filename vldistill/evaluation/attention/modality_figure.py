"""Modality importance as heatmaps of heads and layers, and as averages with the gap between the modalities shaded."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vldistill.evaluation.attention.modality import ModalityView

_DPI = 150
_COLOURS = {"before": "#0072b2", "after": "#009e73"}


def heatmaps(view: ModalityView) -> bytes:
    """A PNG: a row for each model, vision at the left and text at the right, on one scale."""
    models = view.models
    depth, heads = view.after.vision.shape
    size = (2 * max(heads * 0.28, 2.6) + 1.4, len(models) * max(depth * 0.26, 1.7) + 0.8)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(len(models), 2, squeeze=False)
    most = max(float(values.max()) for _, measured in models for values in (measured.vision, measured.text))
    for row, (name, measured) in zip(axes, models, strict=True):
        for cell, (modality, values) in zip(row, (("vision", measured.vision), ("text", measured.text)), strict=True):
            drawn = cell.imshow(
                values,
                cmap="viridis",
                vmin=0,
                vmax=most,
                aspect="auto",
                origin="lower",
                extent=(0.5, values.shape[1] + 0.5, 0.5, values.shape[0] + 0.5),
            )
            cell.set_title(f"{modality}, {name}" if view.before else modality, fontsize=10)
            cell.set(xlabel="head", ylabel="layer")
            cell.tick_params(labelsize=8)
            for axis, most_ticks in ((cell.xaxis, values.shape[1]), (cell.yaxis, values.shape[0])):
                axis.get_major_locator().set_params(integer=True, nbins=min(most_ticks, 12))
    figure.colorbar(drawn, ax=axes, label="attention", shrink=0.8)
    return _png(figure)


def averages(view: ModalityView) -> bytes:
    """A PNG: the mean over heads by layer, vision and text of each model, and between them the gap."""
    figure = Figure(figsize=(5.4, 3.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for name, measured in view.models:
        layers = range(1, len(measured.vision) + 1)
        vision, text = measured.vision.mean(axis=1), measured.text.mean(axis=1)
        suffix = f", {name}" if view.before else ""
        axes.plot(layers, text, color=_COLOURS[name], marker="o", markersize=3.5, label=f"text{suffix}")
        axes.plot(layers, vision, color=_COLOURS[name], marker="s", markersize=3.5, linestyle="--", label=f"vision{suffix}")
        axes.fill_between(
            layers, vision, text, color=_COLOURS[name], alpha=0.16, label=f"gap{suffix}: {measured.averages['gap']:+.3f}"
        )
    axes.set(xlabel="layer", ylabel="attention, mean over heads", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return _png(figure)


def modality_figure(view: ModalityView) -> bytes:
    """Both in one PNG."""
    return stacked([heatmaps(view), averages(view)])


def stacked(pictures: list[bytes]) -> bytes:
    """PNGs one above the other, in the middle, as one PNG."""
    parts = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, ((sheet.width - part.width) // 2, top))
        top += part.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
