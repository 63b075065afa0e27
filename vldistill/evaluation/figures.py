"""What `analyze` shows, as pictures and as HTML pages: words shaded by their scores, heads by the modality that they attend
to, and images under the attention of words."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from PIL import Image

from vldistill.errors import InputError
from vldistill.evaluation.attention import ModalityView, TokenView
from vldistill.evaluation.cross_attention import CrossSample, CrossView, Looked
from vldistill.evaluation.page import render
from vldistill.evaluation.words import MEANINGS, SCALE, UNJUDGED, Sample, ScoredText, ShadedWord, WordView, largest

_CELL, _CROSS_DPI = 1.7, 110  # inches of a picture's height; dots an inch


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
    return _png(figure, _CROSS_DPI)


def _heat(cell, place: Looked, values: np.ndarray, most: float) -> None:
    high, wide = place.image.shape[:2]
    if place.grid is not None:
        shown: dict[str, Any] = {"extent": (0, wide, high, 0), "cmap": "magma", "vmin": 0, "vmax": most or 1, "alpha": 0.65}
        cell.imshow(values.reshape(place.grid), **shown, interpolation="nearest")
        return
    # The strongest last, so that weak regions around it do not cover it.
    for index in np.argsort(values):
        left, top, right, bottom = place.boxes[index] * (wide, high, wide, high)
        share = float(values[index]) / (most or 1)
        colours: dict[str, Any] = {"facecolor": (1.0, 0.45, 0.1, 0.4 * share), "edgecolor": (0.7, 0.1, 0.1, share)}
        cell.add_patch(Rectangle((left, top), right - left, bottom - top, **colours, linewidth=1.5))


def cross_figures(view: CrossView) -> bytes:
    """All samples, one above the other, in one PNG."""
    return stacked([cross_figure(sample) for sample in view.samples])


_HEATMAP_DPI = 150
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
    return _png(figure, _HEATMAP_DPI)


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
    return _png(figure, _HEATMAP_DPI)


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


def _png(figure: Figure, dpi: int) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


# In pixels.
_WIDTH, _MARGIN, _PICTURE, _LABEL, _INDENT, _LINE, _GAP, _PAD = 1200, 24, 220, 104, 36, 30, 12, 4
_DPI, _MOST = 100, 60_000
_TEXT, _FAINT, _MORE, _LESS = "#1c1c1f", "#6a6a72", (1.0, 0.667, 0.2), (0.43, 0.667, 0.94)
_PLAIN, _BOLD, _TITLE = FontProperties(size=10.5), FontProperties(size=10.5, weight="bold"), FontProperties(size=14)


def words_figure(view: WordView | TokenView) -> bytes:
    """A PNG of 1200 pixels' width, as high as it has to be. Raises InputError where that is more than a picture can be."""
    sheet = _Sheet()
    sheet.heading(view)
    for sample in view.samples:
        sheet.sample(sample)
    if sheet.y > _MOST:
        raise InputError(
            f"{len(view.samples)} texts make a picture {sheet.y:,.0f} pixels high, the most is {_MOST:,}",
            hint="give a smaller --samples, or a name that ends in .html",
        )
    # The font that comes along does not know every script; a box stands for what it lacks.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return sheet.png()


@dataclass
class _Sheet:
    """What is drawn, collected from the top downwards: the height is known at the end only."""

    y: float = _MARGIN
    texts: list[tuple[float, float, str, FontProperties, str]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, ShadedWord]] = field(default_factory=list)
    pictures: list[tuple[float, float, float, float, np.ndarray]] = field(default_factory=list)
    rules: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ruler = RendererAgg(8, 8, _DPI)

    def width(self, text: str, font: FontProperties = _PLAIN) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            return self._ruler.get_text_width_height_descent(text, font, ismath=False)[0]

    def write(self, x: float, text: str, font: FontProperties = _PLAIN, color: str = _TEXT) -> None:
        self.texts.append((x, self.y, text, font, color))

    def lines(self, x: float, text: str, font: FontProperties = _PLAIN, color: str = _FAINT, line: float = 22) -> None:
        """A paragraph, broken between its words."""
        start = x
        for word in text.split():
            if x > start and x + self.width(word, font) > _WIDTH - _MARGIN:
                self.y, x = self.y + line, start
            self.write(x, word, font, color)
            x += self.width(word + " n", font) - self.width("n", font)
        self.y += line

    def heading(self, view: WordView | TokenView) -> None:
        self.lines(_MARGIN, view.title, _TITLE, _TEXT, 30)
        self.lines(_MARGIN, view.summary)
        meanings = "; ".join(f"{symbol}: {MEANINGS[symbol]}" for symbol in view.symbols)
        words = f" Outlined: {view.outlined}. Grey: {UNJUDGED}." if view.outlined else ""
        self.lines(_MARGIN, f"{meanings}. Orange: above zero, blue: below; {SCALE}.{words}")
        self.y += _GAP

    def sample(self, sample: Sample) -> None:
        self.rules.append(self.y)
        self.y += 2 * _GAP
        height = _PICTURE * sample.image.height / sample.image.width
        top, left = self.y, _MARGIN + _PICTURE + 2 * _GAP
        self.pictures.append((_MARGIN, top, _PICTURE, height, np.asarray(sample.image)))
        self.lines(left, sample.id, _BOLD, _TEXT)
        if sample.facts:
            self.lines(left, sample.facts)
        self.y += 4
        for symbol in sample.text.scores:
            self.row(left, symbol, sample.text)
        self.y = max(self.y, top + height) + _GAP

    def row(self, left: float, symbol: str, text: ScoredText) -> None:
        self.write(left, symbol)
        self.write(left + _INDENT, f"to {largest(text.scores[symbol]):.2f}", color=_FAINT)
        x = start = left + _LABEL
        for word in _with_cuts(text.shaded(symbol)):
            font = _BOLD if word.rank else _PLAIN
            wide = self.width(word.word, font) + 2 * _PAD
            if x > start and x + wide > _WIDTH - _MARGIN:
                x, self.y = start, self.y + _LINE
            self.boxes.append((x, self.y, wide, word))
            self.write(x + _PAD, word.word, font, _FAINT if word.shade is None else _TEXT)
            x += wide + 2 * _PAD
        self.y += _LINE

    def png(self) -> bytes:
        height = self.y + _MARGIN
        figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        for x, y, wide, high, pixels in self.pictures:
            axes.imshow(pixels, extent=(x, x + wide, y + high, y), aspect="auto", interpolation="antialiased")
        axes.hlines(self.rules, _MARGIN, _WIDTH - _MARGIN, color="#dcdce2", linewidth=1)
        for x, y, wide, word in self.boxes:
            if word.shade is not None:
                color = (*(_MORE if word.shade >= 0 else _LESS), abs(word.shade))
                edge = _TEXT if word.rank else "none"
                axes.add_patch(Rectangle((x, y - 3), wide, _LINE - 6, facecolor=color, edgecolor=edge, linewidth=1.4))
        for x, y, text, font, color in self.texts:
            # As it is: a dollar sign begins no formula here.
            axes.text(x, y + 14, text, fontproperties=font, color=color, va="baseline", parse_math=False)
        axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        return _png(figure, _DPI)


def _with_cuts(parts: list[list[ShadedWord]]) -> Iterator[ShadedWord]:
    """All words, and a stroke between two parts."""
    for number, part in enumerate(parts):
        if number:
            yield ShadedWord("|", 0.0, None, 0)
        yield from part


def words_page(view: WordView | TokenView) -> str:
    return render(
        "words.html",
        title=view.title,
        summary=view.summary,
        view=view,
        meanings=MEANINGS,
        scale=SCALE,
        unjudged=UNJUDGED,
        largest=largest,
        judged=_judged,
    )


def _judged(text: ScoredText) -> list[tuple[ShadedWord, ...]]:
    """Each word that is judged, once for each symbol."""
    columns = [[word for part in text.shaded(symbol) for word in part] for symbol in text.scores]
    return [row for row in zip(*columns, strict=True) if row[0].shade is not None]


def modality_page(view: ModalityView) -> str:
    figures = [("Every head of every layer", heatmaps(view)), ("Mean over heads; shaded: the gap", averages(view))]
    title = f"Modality importance of {view.after.run}"
    return render("modality.html", title=title, summary=view.summary, view=view, figures=figures)


def cross_page(view: CrossView) -> str:
    samples = [(sample, cross_figure(sample)) for sample in view.samples]
    return render("cross.html", title=view.title, summary=view.summary, samples=samples)
