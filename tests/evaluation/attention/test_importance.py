"""Attention divided between modalities and words, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vldistill.evaluation.attention import (
    by_word,
    modality_mass,
    text_to_image,
    token_attention,
    whole_attention,
)
from vldistill.models.base.outputs import PairStates, QueryKey


def view_of(scores_text: list[float], scores_image: list[float], *, text_mask=None, image_mask=None, visual=None) -> PairStates:
    """A view of one head of width 1, whose [CLS] asks with 1, so that keys are its scores; other tokens ask with 0."""
    text, image = (torch.tensor(values)[None, None, :, None] for values in (scores_text, scores_image))
    asks = torch.zeros_like(text)
    asks[:, :, 0] = 1.0
    masks = [
        torch.tensor([mask]) if mask is not None else torch.ones(1, len(values), dtype=torch.bool)
        for mask, values in ((text_mask, scores_text), (image_mask, scores_image))
    ]
    shown = torch.tensor([visual]) if visual is not None else masks[1]
    return PairStates(masks[0], masks[1], shown, {1: QueryKey(asks, text, torch.zeros_like(image), image)})


def test_the_mass_of_each_modality_is_a_softmax_over_both():
    view = view_of([0.0, math.log(2)], [math.log(3), 0.0])
    vision, text = modality_mass(view, 1)[0, 0].tolist()
    assert vision == pytest.approx(4 / 7) and text == pytest.approx(3 / 7)


def test_padding_gets_nothing_and_what_is_no_region_counts_for_none():
    view = view_of(
        [0.0, 9.0], [0.0, 0.0, 9.0], text_mask=[True, False], image_mask=[True, True, False], visual=[False, True, False]
    )
    vision, text = modality_mass(view, 1)[0, 0].tolist()
    assert vision == pytest.approx(1 / 3) and text == pytest.approx(1 / 3), "the image's own CLS has the third part"


def test_the_mean_over_all_tokens_leaves_padding_out():
    view = view_of([0.0, math.log(2), 5.0], [math.log(3), 0.0], text_mask=[True, True, False])
    # [CLS] as above; the three other real tokens ask with 0 and divide evenly: two of four keys are visual.
    vision, text = modality_mass(view, 1, first_only=False)[0, 0].tolist()
    assert vision == pytest.approx((4 / 7 + 3 * 0.5) / 4) and text == pytest.approx((3 / 7 + 3 * 0.5) / 4)
    assert whole_attention(view, 1, first_only=False).shape == (1, 1, 5, 5)


def test_tokens_sum_over_heads():
    one, other = view_of([0.0, math.log(2)], [0.0]), view_of([0.0, math.log(6)], [0.0])
    both = [
        torch.cat(parts, dim=1)
        for parts in zip(
            *(
                (view.qk[1].text_query, view.qk[1].text_key, view.qk[1].image_query, view.qk[1].image_key)
                for view in (one, other)
            ),
            strict=True,
        )
    ]
    view = PairStates(one.text_mask, one.image_mask, one.visual, {1: QueryKey(*both)})
    assert token_attention(view, 1)[0].tolist() == pytest.approx([1 / 4 + 1 / 8, 2 / 4 + 6 / 8])


def test_text_over_the_image_alone_and_words():
    view = view_of([0.0, 0.0, 0.0], [math.log(3), 0.0])
    maps = text_to_image(view, 1)[0]
    assert maps[0].tolist() == pytest.approx([0.75, 0.25]) and maps[1].tolist() == pytest.approx([0.5, 0.5])
    words = torch.tensor([0, 2, 2])
    assert by_word(maps, words, 3, mean=True).tolist() == [pytest.approx([0.75, 0.25]), [0.0, 0.0], pytest.approx([0.5, 0.5])]
    assert by_word(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([-1, 0, 0]), 1, mean=False).tolist() == [6.0]
