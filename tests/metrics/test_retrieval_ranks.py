"""Ranks and recalls by hand, their ties, and against a whole sort."""

from __future__ import annotations

import math

import pytest
import torch

from vldistill.metrics import retrieval
from vldistill.metrics.retrieval import Ranks, ranks_of_scores, ranks_of_vectors, recalls


def places(scores: list[list[float]], owner: list[int]) -> tuple[list[int], list[int]]:
    found = ranks_of_scores(torch.tensor(scores), torch.tensor(owner))
    return found.image.tolist(), found.text.tolist()


def test_places_by_hand():
    # Four texts, the first two of image 0; columns are images.
    scores = [[0.9, 0.1, 0.5], [0.2, 0.6, 0.8], [0.3, 0.7, 0.1], [0.4, 0.8, 0.6]]
    # Image 0's best text has 0.9, ahead of all; image 1's own 0.7 stands behind 0.8; image 2's own 0.6 behind 0.8.
    assert places(scores, [0, 0, 1, 2]) == ([1, 3, 1, 2], [1, 2, 2])


@pytest.mark.parametrize(
    "scores, owner, image, text",
    [
        ([[1.0, 1.0], [1.0, 1.0]], [0, 1], [2, 2], [2, 2]),  # everything alike finds nothing
        ([[1.0, 0.0], [1.0, 0.0], [1.0, 5.0]], [0, 0, 1], [1, 1, 1], [2, 1]),  # ties with another's text count, with its own not
        ([[math.nan, 0.0], [0.0, 1.0]], [0, 1], [2, 1], [2, 1]),  # no number is behind everything
        ([[1.0, math.nan], [0.0, 1.0]], [0, 1], [2, 1], [1, 2]),  # and ahead where it is another's
    ],
)
def test_ties_and_what_is_no_number_count_against(scores, owner, image, text):
    assert places(scores, owner) == (image, text)


@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("shuffled", [False, True])
def test_blocks_agree_with_a_whole_sort(monkeypatch, block, shuffled):
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    generator = torch.Generator().manual_seed(3)
    images, texts = (torch.randn(rows, 6, generator=generator) for rows in (9, 40))
    owner = torch.arange(40) % 9 if shuffled else torch.arange(40) * 9 // 40
    found, scores = ranks_of_vectors(texts, images, owner), texts @ images.T
    for row in range(40):
        assert scores[row].argsort(descending=True).tolist().index(owner[row]) + 1 == found.image[row]
    for column in range(9):
        order = owner[scores[:, column].argsort(descending=True)].tolist()
        assert order.index(column) + 1 == found.text[column]
    given = ranks_of_scores(scores, owner)
    assert torch.equal(given.image, found.image) and torch.equal(given.text, found.text)


def test_recalls_by_hand():
    found = recalls(Ranks(torch.tensor([1, 1, 6, 11]), torch.tensor([1, 5])))
    assert found == {
        "accuracy": 0.5,
        "ir_r1": 0.5,
        "ir_r5": 0.5,
        "ir_r10": 0.75,
        "tr_r1": 0.5,
        "tr_r5": 1.0,
        "tr_r10": 1.0,
        "mean_recall": pytest.approx(4.25 / 6),
        "count": 4,
        "images": 2,
    }
