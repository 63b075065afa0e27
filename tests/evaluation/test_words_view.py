"""`analyze --words`: shades by hand, and a page that text of any kind leaves as it is."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vldistill.errors import InputError
from vldistill.evaluation.figures import words_figure, words_page
from vldistill.evaluation.words import Sample, ScoredText, WordView, largest, shades

HOSTILE = '<script>alert("1")</script>'
SCORES = {
    "S": np.array([0.0, 0.5, 0.0, 0.25, -0.1]),
    "S_v": np.array([0.0, 0.3, 0.0, 0.15, -0.3]),
    "S_l": np.array([0.0, 0.8, 0.0, 0.4, 0.0]),
}
TEXT = ScoredText((("is", HOSTILE, "?"), ("person1 and person3", "$fox$")), SCORES, [1, 3])


def view(text: ScoredText = TEXT, name: str = "a", answer: str | None = "yes") -> WordView:
    sample = Sample(name, Image.new("RGB", (40, 20), (200, 30, 30)), text, "choice 2 of 2", answer, True)
    return WordView(f"runs/{name}", "val", "toy", 7, [sample], "clip and yake", 2)


class Page(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and all text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text.append(text)

    def named(self, kind: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if kind in attributes.get("class", "").split()]


def test_shades_end_at_the_largest_magnitude():
    assert shades(np.array([0.1, -0.4, 0.0])).tolist() == [0.25, -1.0, 0.0] and largest(np.array([0.1, -0.4])) == 0.4
    assert shades(np.zeros(3)).tolist() == [0.0, 0.0, 0.0] and largest(np.array([])) == 0.0


def test_words_keep_their_parts_and_know_their_rank():
    first, second = TEXT.shaded("S")
    assert [word.word for word in first] == ["is", HOSTILE, "?"] and len(second) == 2
    assert [word.rank for word in (*first, *second)] == [0, 1, 0, 2, 0]
    assert [word.shade for word in (*first, *second)] == [None, 1.0, None, 0.5, -0.2]  # stop words and marks are not judged


def test_the_page_shows_every_word_three_times_with_its_figures():
    page = Page(words_page(view()))
    (image,) = [attributes for tag, attributes in page.elements if tag == "img"]
    assert image["src"].startswith("data:image/jpeg;base64,") and image["alt"] == "image of a"
    tips = [attributes["title"] for attributes in page.named("w") if "title" in attributes]
    assert len(tips) == 9 and "person1 and person3: S_v 0.150, number 2 of those compared" in tips and "$fox$: S -0.100" in tips
    assert len(page.named("best")) == 1 + 3 * 2 and len(page.named("cut")) == 3  # one in the legend
    shaded = [float(word["style"].removeprefix("--a:")) for word in page.named("more") + page.named("less")]
    assert sorted(shaded) == [0.0, 0.2, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0] and len(page.named("less")) == 2
    text = " ".join(page.text)
    assert "choice 2 of 2; answer: yes" in text and "1 from the cache, 0 computed anew" in text
    assert text.count("0.300") >= 2  # the scale of S_v, and the table


@pytest.mark.parametrize(
    "hostile",
    [HOSTILE, '"><img src=x onerror=alert(1)>', "' onmouseover='x", "</style><script>", "&lt;dog", "\u202edog", "<!--dog"],
)
def test_text_of_any_kind_stays_text(hostile):
    text = ScoredText((("red", hostile, "dog", "on", "skates"),), SCORES, [0, 2])
    plain = Page(words_page(view(ScoredText((("red", "big", "dog", "on", "skates"),), SCORES, [0, 2]))))
    source = words_page(view(text, hostile, hostile))
    page = Page(source)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(hostile) >= 3
    assert "default-src 'none'" in source and "http://" not in source and "https://" not in source and "url(" not in source


def test_a_text_without_visual_scores_has_two_rows():
    without = ScoredText(TEXT.sentence, {name: values for name, values in SCORES.items() if name != "S_v"}, [1])
    page = words_page(view(without))
    assert "CLIP&#39;s cosine" in words_page(view())
    assert page.count('<div class="row">') == 2 and "CLIP's cosine" not in page and "CLIP&#39;s cosine" not in page


def test_the_picture_is_as_high_as_its_texts():
    sizes = []
    for words in (3, 60):
        text = ScoredText((("telescope",) * words,), dict.fromkeys(SCORES, np.linspace(-1, 1, words)), [words - 1])
        picture = words_figure(view(text))
        assert picture == words_figure(view(text))
        sizes.append(Image.open(io.BytesIO(picture)).size)
    assert [width for width, _ in sizes] == [1200, 1200] and sizes[1][1] > sizes[0][1] + 200


def test_the_picture_shades_and_outlines(recwarn):
    text = ScoredText((("telescope", "dog"), (HOSTILE, "$x^2$ \\frac", "犬")), {"S": np.array([1.0, -1.0, 0.5, 0.0, 0.0])}, [0])
    pixels = np.asarray(Image.open(io.BytesIO(words_figure(view(text)))).convert("RGB")).astype(int)
    for color in ((255, 170, 51), (110, 170, 240)):
        assert (np.abs(pixels - color).max(axis=-1) <= 2).sum() > 100
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_picture_that_would_be_too_high_is_refused():
    text = ScoredText((("dog",),), {"S": np.ones(1)}, [0])
    many = [Sample("a", Image.new("RGB", (10, 40)), text, None, None, True)] * 80
    with pytest.raises(InputError, match="80 texts make a picture"):
        words_figure(WordView("run", "val", "toy", 80, many, "yake", 1))
