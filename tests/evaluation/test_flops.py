"""The FLOP formulas against PyTorch's own counter on a tiny model, and the paper's limit."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vldistill.evaluation import cost
from vldistill.evaluation.bench import Setting, make_batch
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual

TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    image_size=32,
    patch_size=8,
    max_position_embeddings=20,
)
ROWS = 3


def counted(call) -> float:
    """FLOP of a call for one row; matrix products alone are counted, as in the formulas."""
    # Before 2.15 torch did not count the attention that is one operation on a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / ROWS


@pytest.mark.parametrize("tokens, grid", [(12, (4, 4)), (5, (2, 3))])
def test_formulas_are_what_the_counter_counts(tokens, grid):
    batch = make_batch(Setting(TINY, grid, ROWS, (tokens,), "fp32", torch.device("cpu"), 1), tokens)
    fusion, dual = Vilt(TINY, images=1, classes=3).eval(), ViltDual(TINY, images=1, classes=3).eval()
    patches = grid[0] * grid[1]
    assert cost.text_flops(tokens, TINY) == counted(lambda: dual.encode_text(batch.text))
    assert cost.image_flops(patches, TINY) == counted(lambda: dual.encode_image(batch.images[0]))
    assert cost.fusion_flops(tokens, patches, TINY) == counted(
        lambda: fusion.vilt.pool(fusion.vilt.encode_pair(batch.text, batch.images[0]).hidden)
    )
    assert cost.fuse_flops(TINY) == counted(lambda: dual.fusion(torch.zeros(ROWS, 2 * TINY.hidden_size)))


def test_the_limit_at_the_papers_size():
    """ViLT-B/32, 384x640 pixels, 40 tokens: fusion against text tower and fusion MLP."""
    config = EncoderConfig()
    limit = cost.fusion_flops(40, 240, config) / (cost.text_flops(40, config) + cost.fuse_flops(config))
    assert limit == pytest.approx(7.55, abs=0.05)
    assert cost.fusion_flops(40, 240, config) / cost.text_flops(12, config) > 20
