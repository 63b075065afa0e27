"""Texts whose tags name objects: how they are tokenized and put together."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.data.sequences import EncodedText, Phrase, shorten
from vldistill.data.text import WordTokenizer

PERSON = "person"


@dataclass(frozen=True)
class Unit:
    """What is tokenized at once. text: to be split into pieces, or a token id. word: its index. tag: the object that it names."""

    text: str | int
    word: int
    tag: int | None = None


Part = list[tuple[int, int | None, int | None]]
"""(token id, word, tag) of each token."""


def written(tokenizer: WordTokenizer, phrase: Phrase, first: int) -> Part:
    """The tokens of a text. first: the index of its first word."""
    return [(token, None if word is None else first + word, None) for token, word in zip(*tokenizer.pieces(phrase), strict=True)]


def tokenize(tokenizer: WordTokenizer, units: list[Unit]) -> Part:
    """The tokens of units, in order."""
    texts = [place for place, unit in enumerate(units) if isinstance(unit.text, str)]
    pieces: dict[int, list[int]] = {place: [] for place in texts}
    for token, place in zip(*tokenizer.pieces([units[place].text for place in texts]), strict=True):
        pieces[texts[place]].append(token)
    return [(token, unit.word, unit.tag) for place, unit in enumerate(units) for token in pieces.get(place, [unit.text])]


def assemble(tokenizer: WordTokenizer, parts: list[Part], segments: list[int], max_length: int, *, ahead: bool) -> EncodedText:
    """[CLS] part [SEP] part [SEP] ..., shortened as `PlainLayout` does. segments: of each part. ahead: whether a separator
    between parts counts with the part behind it."""
    kept = shorten([len(part) for part in parts], max_length - 1 - len(parts))
    ids, words, kinds, tags = [tokenizer.cls_id], [None], [segments[0]], [None]
    for place, (part, length) in enumerate(zip(parts, kept, strict=True)):
        ids += [*(token for token, _, _ in part[:length]), tokenizer.sep_id]
        words += [*(word for _, word, _ in part[:length]), None]
        tags += [*(tag for _, _, tag in part[:length]), None]
        following = segments[place + 1] if ahead and place + 1 < len(parts) else segments[place]
        kinds += [*[segments[place]] * length, following]
    return EncodedText(ids, words, kinds, tags)
