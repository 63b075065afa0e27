"""CMC: by hand, against two cross-entropies, and with pairs that are no negatives of each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from vldistill.data.batch import RecordSource
from vldistill.objectives.contrastive import COLDEST, CrossModalContrast, cross_modal_info_nce, pair_keys


def source(text: str, image: str) -> RecordSource:
    return RecordSource((image,), ((tuple(text.split()),),))


def test_info_nce_by_hand():
    scores = torch.tensor([[math.log(6.0), math.log(2.0), math.log(1.0)]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert cross_modal_info_nce(scores, torch.tensor([0]), none) == pytest.approx(-math.log(6 / 9))
    one = torch.tensor([[True, True, False]])  # its own column counts whatever is said of it
    assert cross_modal_info_nce(scores, torch.tensor([0]), one) == pytest.approx(-math.log(6 / 7))


def test_both_directions_are_summed_over_normalised_vectors():
    generator = torch.Generator().manual_seed(0)
    text, image = (torch.randn(5, 8, generator=generator) for _ in range(2))
    contrast = CrossModalContrast(0.07)
    keys = pair_keys([source(f"text {row}", f"{row}.jpg") for row in range(5)])
    similar = (text / text.norm(dim=1, keepdim=True)) @ (image / image.norm(dim=1, keepdim=True)).T / 0.07
    expected = F.cross_entropy(similar, torch.arange(5)) + F.cross_entropy(similar.T, torch.arange(5))
    assert contrast(text, image, keys).item() == pytest.approx(expected.item(), rel=1e-5)
    assert contrast.negatives.item() == 4


def test_pairs_with_a_common_text_or_image_are_no_negatives():
    generator = torch.Generator().manual_seed(1)
    text, image = (F.normalize(torch.randn(3, 4, generator=generator), dim=1) for _ in range(2))
    contrast = CrossModalContrast(1.0)
    # The first two share their image, so each has only the third as a negative.
    keys = pair_keys([source("a dog", "1.jpg"), source("a cat", "1.jpg"), source("a cow", "2.jpg")])
    scores = (image @ text.T).exp()
    kept = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    expected = sum(-(table.diagonal() / (table * kept).sum(dim=1)).log().mean() for table in (scores, scores.T))
    assert contrast(text, image, keys).item() == pytest.approx(expected.item(), rel=1e-5)
    assert contrast.negatives.item() == pytest.approx(4 / 3)


def test_the_temperature_is_learned_and_has_a_floor():
    contrast = CrossModalContrast()
    assert contrast.temperature.item() == pytest.approx(0.07)
    text, image = torch.eye(4), torch.eye(4)
    contrast(text, image, pair_keys([source(str(row), str(row)) for row in range(4)])).backward()
    assert contrast.log_temperature.grad.item() > 0  # all right: colder is better
    contrast.bound()
    assert contrast.temperature.item() == pytest.approx(0.07)
    with torch.no_grad():
        contrast.log_temperature.fill_(-20.0)
    contrast.bound()
    assert contrast.temperature.item() == pytest.approx(COLDEST)


def test_a_temperature_below_its_floor_comes_back():
    """A clamp in the forward pass would hold it there, without a gradient."""
    contrast = CrossModalContrast(0.0099)
    optimizer = torch.optim.SGD(contrast.parameters(), lr=0.1)
    keys, course = pair_keys([source(str(row), str(row)) for row in range(4)]), []
    for _ in range(20):
        optimizer.zero_grad()
        contrast(torch.eye(4), torch.eye(4).roll(1, 0), keys).backward()  # all wrong: warmer is better
        optimizer.step()
        contrast.bound()
        course.append(contrast.temperature.item())
    assert min(course) >= COLDEST * (1 - 1e-6) and course[-1] > 2 * COLDEST


def test_keys_are_equal_where_texts_or_images_are():
    keys = pair_keys([source("a dog", "1.jpg"), source("a dog", "2.jpg"), source("a", "1.jpg")])
    assert keys[0, 0] == keys[1, 0] != keys[2, 0] and keys[0, 1] == keys[2, 1] != keys[1, 1]
    assert (keys == pair_keys([source("a dog", "1.jpg"), source("a dog", "2.jpg"), source("a", "1.jpg")])).all()
