"""What an index answered, as one HTML page with thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from vldistill.data.images import ImageFolder
from vldistill.evaluation.index_query import Hit
from vldistill.evaluation.page import render

THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""


def results_page(title: str, summary: str, texts: Sequence[str], hits: Sequence[Sequence[Hit]], images: ImageFolder) -> str:
    """A section for each text, its images best first. Raises InputError where an image cannot be read."""
    sections = [
        (text, [(hit, _thumbnail(images.open(hit.path))) for hit in own_hits]) for text, own_hits in zip(texts, hits, strict=True)
    ]
    return render("index.html", title=title, summary=summary, sections=sections)


def _thumbnail(image: Image.Image) -> Image.Image:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
