"""Attention losses keep fp32 under mixed precision."""

from __future__ import annotations

import pytest
import torch

from vldistill.objectives.attention import attention_log_probs, attention_loss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    torch.manual_seed(0)
    student_query, student_key, teacher_query, teacher_key = (torch.randn(2, 3, 5, 8) * 4 for _ in range(4))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    blocks = student_query, student_key, teacher_query, teacher_key, mask, mask
    expected = attention_loss(*blocks)
    with torch.autocast("cpu", dtype=dtype):
        assert attention_log_probs(student_query, student_key, mask).dtype == torch.float32
        found = attention_loss(*blocks)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
