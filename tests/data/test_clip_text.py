"""CLIP's byte pairs against open_clip's own tokenizer, DeCLIP's with their one token more, and their files."""

from __future__ import annotations

import pytest
from open_clip.tokenizer import SimpleTokenizer
from transformers import AutoTokenizer, CLIPTokenizer

from vldistill.data.text import clip_tokenizer, load_tokenizer

TOKENIZERS = {mask: clip_tokenizer(mask=mask) for mask in (False, True)}
TRICKY = [
    "The left image contains twice the number of dogs.",
    "I don't think it's 42 o'clock; we've 1,234.5 DOGS!!",
    "Café naïve — “quotes” ’s",
    "cat\U0001f431\U0001f436 日本語 ΣΊΣΥΦΟΣ İstanbul",
    "&lt;b&gt; R&amp;amp;D (a)/(b)",
    "e\u0301cole \ufb01ne 'S 'LL 'd n't",
    "½ ² ________ ???",
    "schÃ¶n",
    "x" * 90,
    "",
]


@pytest.mark.parametrize("text", TRICKY)
def test_byte_pairs_are_open_clips(text):
    words = text.split()
    expected = SimpleTokenizer().encode(text)
    for mask in (False, True):
        ids, places = TOKENIZERS[mask].pieces(words)
        assert ids == expected
        assert sorted(set(places)) == list(range(len(words)))


@pytest.mark.parametrize("mask", [False, True])
def test_the_vocabulary_is_saved_and_read_again_here_and_by_the_library(tmp_path, mask):
    own = TOKENIZERS[mask]
    assert (own.cls_id, own.sep_id, own.pad_id) == (49406 + mask, 49407 + mask, 49407 + mask)
    assert own.mask_id == (49406 if mask else None) and len(own.vocabulary) == 49408 + mask
    own.save(tmp_path)
    read = load_tokenizer(tmp_path)
    assert read.mask_id == own.mask_id and all(read.pieces(text.split()) == own.pieces(text.split()) for text in TRICKY)
    library = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(library, CLIPTokenizer) and not (tmp_path / "vocab.txt").exists()
    # Without the mending, which this text does not need.
    assert library(TRICKY[1])["input_ids"] == [own.cls_id, *own.pieces(TRICKY[1].split())[0], own.sep_id]
