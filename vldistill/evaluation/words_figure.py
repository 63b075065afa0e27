"""`analyze --words` as a picture, for papers and slides: the same as the page, without its figures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from vldistill.errors import InputError
from vldistill.evaluation.words import MEANINGS, SCALE, UNJUDGED, Sample, ScoredText, ShadedWord, WordsView, largest

# In pixels.
_WIDTH, _MARGIN, _PICTURE, _LABEL, _INDENT, _LINE, _GAP, _PAD = 1200, 24, 220, 104, 36, 30, 12, 4
_DPI, _MOST = 100, 60_000
_TEXT, _FAINT, _MORE, _LESS = "#1c1c1f", "#6a6a72", (1.0, 0.667, 0.2), (0.43, 0.667, 0.94)
_PLAIN, _BOLD, _TITLE = FontProperties(size=10.5), FontProperties(size=10.5, weight="bold"), FontProperties(size=14)


def words_figure(view: WordsView) -> bytes:
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

    def heading(self, view: WordsView) -> None:
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
        FigureCanvasAgg(figure)
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
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()


def _with_cuts(parts: list[list[ShadedWord]]) -> Iterator[ShadedWord]:
    """All words, and a stroke between two parts."""
    for number, part in enumerate(parts):
        if number:
            yield ShadedWord("|", 0.0, None, 0)
        yield from part
