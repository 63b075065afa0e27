"""By what a teacher's features are found again: what the teacher read, never a place in a data set. So low-shot subsets, shifted
variants and swapped pairs find their rows, and equal images are stored once."""

from __future__ import annotations

import hashlib

from vldistill.data.sequences import Phrase, Sentence

LENGTH = 20


def text_key(sentence: Sentence) -> bytes:
    """20 bytes of a sentence: words, the borders of its parts, and the text where its source wrote one."""
    text = "\x1e".join("\x1f".join(part) + (f"\x1d{part.text}" if isinstance(part, Phrase) else "") for part in sentence)
    return hashlib.sha1(text.encode(errors="surrogatepass"), usedforsecurity=False).digest()


def pair_key(image: bytes, text: bytes) -> bytes:
    """20 bytes of an image's and a text's keys, the text's first: an array of writers splits keys by their first bytes, so that a
    text and all its pairs fall to one writer, which encodes it once."""
    return text[: LENGTH // 2] + image[: LENGTH // 2]
