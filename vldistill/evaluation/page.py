"""HTML pages that need nothing else: no script, no network; images lie within them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape

from PIL import Image

_QUALITY = 82
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1c1f; --faint: #6a6a72; --line: #dcdce2; }
@media (prefers-color-scheme: dark) { :root { --page: #17171a; --text: #ececf0; --faint: #9a9aa4; --line: #3a3a42; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, p, td { unicode-bidi: isolate; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; }
.faint { color: var(--faint); }
"""


def document(title: str, style: str, body: Sequence[str]) -> str:
    """A page under a title, which is escaped here, as are control characters of labels and texts, which HTML forbids and a
    terminal that shows the file would obey; the page itself forbids scripts and requests."""
    shown = escape(title)
    page = "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{shown}</title>", f"<style>{_STYLE}{style}</style>", "</head>", "<body>", "<main>", f"<h1>{shown}</h1>", *body,
        "</main>", "</body>", "</html>", ""])
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", page)


def png_uri(png: bytes) -> str:
    """A PNG within a URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def data_uri(image: Image.Image) -> str:
    """The image within a URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
