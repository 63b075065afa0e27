"""Attention distillation against a NumPy computation row by row, against numbers worked by hand, and with padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vldistill.models.base.outputs import QueryKey
from vldistill.objectives.attention import (
    attention_divergence,
    attention_log_probs,
    attention_loss,
    cross_modal_attention_loss,
    uni_modal_attention_loss,
    whole_attention_loss,
)

LOSSES = {"cross": cross_modal_attention_loss, "uni": uni_modal_attention_loss, "whole": whole_attention_loss}
DIRECTIONS = ["forward", "reverse"]
B, H, T, V, D = 3, 2, 5, 7, 4
TEXT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
IMAGE = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)


def projections(seed: int, dtype: torch.dtype = torch.float32) -> QueryKey:
    generator = torch.Generator().manual_seed(seed)
    return QueryKey(*(torch.randn(B, H, length, D, generator=generator).to(dtype) for length in (T, T, V, V)))


def block(student_q, student_k, teacher_q, teacher_k, rows, keys, kl: str) -> float:
    """One block with loops, in float64, over real rows and keys only: nothing is masked, so nothing can leak."""
    total, counted = 0.0, 0
    for b in range(B):
        valid = [k for k in range(len(keys[b])) if keys[b][k]]
        for h in range(H):
            for row in range(len(rows[b])):
                if not rows[b][row]:
                    continue
                both = []
                for query, key in ((student_q, student_k), (teacher_q, teacher_k)):
                    scores = [
                        sum(float(x) * float(y) for x, y in zip(query[b, h, row], key[b, h, k], strict=True)) for k in valid
                    ]
                    powers = np.exp(np.array(scores) / math.sqrt(D) - max(scores) / math.sqrt(D))
                    both.append(powers / powers.sum())
                student, teacher = both
                p, q = (teacher, student) if kl == "forward" else (student, teacher)
                total += float((p * np.log(p / q)).sum())
                counted += 1
    return total / counted


def reference(student: QueryKey, teacher: QueryKey, mode: str, kl: str) -> float:
    arrays = [{name: value.detach().double().numpy() for name, value in vars(side).items()} for side in (student, teacher)]

    def parts(query: str, key: str):
        return [arrays[0][f"{query}_query"], arrays[0][f"{key}_key"], arrays[1][f"{query}_query"], arrays[1][f"{key}_key"]]

    masks = {"text": TEXT.numpy(), "image": IMAGE.numpy()}
    if mode == "whole":
        joined = [
            np.concatenate([text, image], axis=2)
            for text, image in zip(parts("text", "text"), parts("image", "image"), strict=True)
        ]
        mask = np.concatenate([masks["text"], masks["image"]], axis=1)
        return block(*joined, mask, mask, kl)
    pairs = {"cross": [("text", "image"), ("image", "text")], "uni": [("text", "text"), ("image", "image")]}[mode]
    return sum(block(*parts(query, key), masks[query], masks[key], kl) for query, key in pairs)


@pytest.mark.parametrize("kl", DIRECTIONS)
@pytest.mark.parametrize("mode", LOSSES)
def test_equals_numpy_row_by_row(mode, kl):
    student, teacher = projections(1), projections(2)
    found = LOSSES[mode](student, teacher, TEXT, IMAGE, kl=kl).item()
    expected = reference(student, teacher, mode, kl)
    assert expected > 0.1
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_two_directions_and_the_three_kinds_differ():
    """So that the test above would notice one taken for another."""
    values = [reference(projections(1), projections(2), mode, kl) for mode in LOSSES for kl in DIRECTIONS]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-3


# One head of width 4. Query (1, 1, 1, 1); a key (s, 0, 0, 0) scores s / sqrt(4) = s / 2.
#   teacher's keys score ln 3 and 0: softmax (3/4, 1/4); the student's score 0 and 0: (1/2, 1/2).
#   KL(teacher || student) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812
#   KL(student || teacher) = 1/2 ln(2/3) + 1/2 ln 2     = -0.202733 + 0.346574 = 0.143841
BY_HAND = {"forward": 0.130812, "reverse": 0.143841}


def vectors(*firsts: float) -> torch.Tensor:
    """[1, 1, N, 4] with the given first components."""
    return torch.tensor([[[[first, 0.0, 0.0, 0.0] for first in firsts]]])


@pytest.mark.parametrize("kl", DIRECTIONS)
def test_two_keys_by_hand(kl):
    query, yes = torch.ones(1, 1, 1, 4), torch.tensor([[True]])
    keys = torch.tensor([[True, True]])
    found = attention_loss(query, vectors(0, 0), query, vectors(2 * math.log(3), 0), yes, keys, kl=kl)
    assert found.item() == pytest.approx(BY_HAND[kl], abs=1e-6)


@pytest.mark.parametrize("kl", DIRECTIONS)
def test_padding_and_the_mean_by_hand(kl):
    """A third key is padding, a third row is padding, and the second row's query is zero, so uniform on both sides:
    the mean over the two real rows is half of the value above."""
    query = torch.stack([torch.ones(4), torch.zeros(4), 5 * torch.ones(4)])[None, None]
    rows, keys = torch.tensor([[True, True, False]]), torch.tensor([[True, True, False]])
    found = attention_loss(query, vectors(0, 0, 9), query, vectors(2 * math.log(3), 0, -9), rows, keys, kl=kl)
    assert found.item() == pytest.approx(BY_HAND[kl] / 2, abs=1e-6)


def test_cross_modal_by_hand():
    """One text token, two image tokens. Text to image is the value above; image to text has one key, so it is 0."""
    ones = torch.ones(1, 1, 1, 4)
    student = QueryKey(ones, ones, vectors(3, 4), vectors(0, 0))
    teacher = QueryKey(ones, -ones, vectors(5, 6), vectors(2 * math.log(3), 0))
    text, image = torch.tensor([[True]]), torch.tensor([[True, True]])
    found = cross_modal_attention_loss(student, teacher, text, image, kl="forward")
    assert found.item() == pytest.approx(BY_HAND["forward"], abs=1e-6)


def test_log_probs_are_a_distribution_over_valid_keys():
    student = projections(4)
    found = attention_log_probs(student.text_query, student.image_key, IMAGE)
    assert found.dtype == torch.float32 and found.shape == (B, H, T, V)
    probabilities = found.exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(B, H, T))
    assert (probabilities.masked_select(~IMAGE[:, None, None, :]) == 0).all()


@pytest.mark.parametrize("kl", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("mode", LOSSES)
def test_finite_value_and_gradients_with_padding(mode, dtype, scale, kl):
    student, teacher = projections(1, dtype), projections(2, dtype)
    student = QueryKey(*((scale * value).requires_grad_() for value in vars(student).values()))
    value = LOSSES[mode](student, teacher, TEXT, IMAGE, kl=kl)
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value) and value > 0
    for name, part in vars(student).items():
        assert part.grad.dtype == dtype and torch.isfinite(part.grad).all(), name
        valid = (TEXT if name.startswith("text") else IMAGE)[:, None, :, None].expand_as(part.grad)
        assert (part.grad[~valid] == 0).all(), name
        assert scale > 1 or (part.grad[valid] != 0).any(), name  # a saturated softmax may have none


@pytest.mark.parametrize("kl", DIRECTIONS)
def test_gradient_is_that_of_the_unpadded_rows(kl):
    """One sample: masking gives the same gradient as cutting the padding off."""
    row, texts, regions = 1, 3, 7
    gradients = []
    for cut in (False, True):
        student, teacher = projections(1), projections(2)
        sides = [QueryKey(*(value[row : row + 1].clone() for value in vars(side).values())) for side in (student, teacher)]
        text, image = TEXT[row : row + 1], IMAGE[row : row + 1]
        if cut:
            sides = [QueryKey(s.text_query[:, :, :texts], s.text_key[:, :, :texts], s.image_query, s.image_key) for s in sides]
            text = text[:, :texts]
        leaves = [value.clone().requires_grad_() for value in vars(sides[0]).values()]
        cross_modal_attention_loss(QueryKey(*leaves), sides[1], text, image, kl=kl).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for masked, short, length in zip(*gradients, (texts, texts, regions, regions), strict=True):
        torch.testing.assert_close(masked[:, :, :length], short, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kl", DIRECTIONS)
@pytest.mark.parametrize("mode", LOSSES)
def test_what_stands_at_padding_does_not_matter(mode, kl):
    student, teacher = projections(1), projections(2)
    clean = LOSSES[mode](student, teacher, TEXT, IMAGE, kl=kl)
    for side, content in ((student, 1e4), (teacher, -1e4)):
        for name, value in vars(side).items():
            valid = (TEXT if name.startswith("text") else IMAGE)[:, None, :, None]
            value.masked_fill_(~valid.expand_as(value), content)
    assert LOSSES[mode](student, teacher, TEXT, IMAGE, kl=kl).item() == pytest.approx(clean.item(), abs=1e-6)


@pytest.mark.parametrize("kl", DIRECTIONS)
@pytest.mark.parametrize("mode", LOSSES)
def test_zero_with_zero_gradient_where_student_and_teacher_agree(mode, kl):
    student = QueryKey(*(value.requires_grad_() for value in vars(projections(1)).values()))
    value = LOSSES[mode](student, projections(1), TEXT, IMAGE, kl=kl)
    value.backward()
    assert value.item() == 0
    assert max(part.grad.abs().max().item() for part in vars(student).values()) < 1e-6


def test_divergence_of_given_distributions_by_hand():
    """Two heads of one row: (1/2, 1/2) and (3/4, 1/4) against the same uniform teacher; mean over heads."""
    student = torch.tensor([[[[0.5, 0.5]], [[0.75, 0.25]]]]).log()
    teacher = torch.full_like(student, 0.5).log()
    yes = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    assert attention_divergence(student, teacher, *yes, kl="forward").item() == pytest.approx(0.143841 / 2, abs=1e-6)
    assert attention_divergence(student, teacher, *yes, kl="reverse").item() == pytest.approx(0.130812 / 2, abs=1e-6)
