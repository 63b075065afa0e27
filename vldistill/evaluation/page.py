"""HTML pages that need nothing else: no script, no network; images lie within them. They are made from `templates/`."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

TEMPLATES = Path(__file__).with_name("templates")
_QUALITY = 82
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render(template: str, *, title: str, summary: str, **values: Any) -> str:
    """The page of a template: `title` and `summary` at its head, the rest by names of its own.

    All text of values is escaped, control characters of labels and texts too, which HTML forbids and a terminal that shows the
    file would obey.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here, since it is needed for pages alone

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"base64": _base64, "jpeg": _jpeg}
    page = environment.get_template(template).render(title=title, summary=summary, **values)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", page)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
