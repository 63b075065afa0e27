"""What an index answered, as one HTML page with thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from vldistill.data.images import ImageFolder
from vldistill.evaluation.index_query import Hit
from vldistill.evaluation.page import data_uri, document

THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""
_STYLE = """
section { padding: 1rem 0; border-top: 1px solid var(--line); }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: .75rem 0 0; padding: 0;
  list-style: none; }
li { min-width: 0; }
img { display: block; width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: contain; border-radius: 4px;
  background: var(--line); }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .3rem; }
figure { margin: 0; }
b { font-variant-numeric: tabular-nums; }
@media (max-width: 480px) { ol { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; } }
"""


def results_page(title: str, told: str, texts: Sequence[str], hits: Sequence[Sequence[Hit]], images: ImageFolder) -> str:
    """A section for each text, its images best first. Raises InputError where an image cannot be read."""
    heads = [f"<h2>{escape(text)}</h2>" for text in texts] if len(texts) > 1 else [""]  # the title is the one text
    sections = [_section(head, found, images) for head, found in zip(heads, hits, strict=True)]
    return document(title, _STYLE, [f'<p class="faint">{escape(told)}</p>', *sections])


def _section(head: str, hits: Sequence[Hit], images: ImageFolder) -> str:
    figures = [_figure(place, hit, _thumbnail(images.open(hit.path))) for place, hit in enumerate(hits, start=1)]
    return "\n".join(["<section>", head, "<ol>", *figures, "</ol>", "</section>"])


def _figure(place: int, hit: Hit, image: Image.Image) -> str:
    path = escape(hit.path)
    shown = f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" alt="{path}">'
    return (f'<li><figure>{shown}'
            f'<figcaption><b>{place}</b> &middot; <b>{hit.score:.3f}</b><br>{path}</figcaption></figure></li>')


def _thumbnail(image: Image.Image) -> Image.Image:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
