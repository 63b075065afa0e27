"""`analyze --words` as one HTML page that needs nothing else: no script, no network; images lie within it."""

from __future__ import annotations

from vldistill.evaluation.page import render
from vldistill.evaluation.words import MEANINGS, SCALE, UNJUDGED, ScoredText, ShadedWord, WordsView, largest


def words_page(view: WordsView) -> str:
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
