"""`bench --rows fusions` at toy sizes: its rows, and its FLOP against torch's own count of what the models compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vldistill.data.batch import TextBatch
from vldistill.evaluation import bench_rows, cost
from vldistill.evaluation.bench import Setting
from vldistill.models.vilt.model import EncoderConfig

TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=64,
    patch_size=32,
    max_position_embeddings=20,
)
SETTING = Setting(TINY, (2, 4), 2, (12, 5), "fp32", torch.device("cpu"), 1)
VARIANTS = [
    "ViLT",
    "Pixel-BERT-R50",
    *(f"{name}, {count} regions" for name in ("VisualBERT", "LXMERT", "UNITER") for count in (36, 100)),
    "dual, images cached",
]


@pytest.fixture(autouse=True)
def a_small_network(monkeypatch):
    monkeypatch.setattr(bench_rows, "NETWORK", "test_resnet")
    monkeypatch.setattr(bench_rows, "FEATURES", 96)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_model_is_timed_beside_the_dual_encoder(precision):
    rows = bench_rows.fusion_rows(replace(SETTING, precision=precision))
    assert [row.variant for row in rows] == VARIANTS
    assert {(row.group, row.batch, row.tokens, row.precision) for row in rows} == {(bench_rows.TITLE, 2, 12, precision)}
    first = rows[0]
    assert first.speedup == first.limit == 1 and all(row.speedup == pytest.approx(first.seconds / row.seconds) for row in rows)
    limits = {row.variant: row.limit for row in rows}
    dual = cost.text_flops(12, TINY) + cost.fuse_flops(TINY)
    assert limits["dual, images cached"] == pytest.approx(cost.fusion_flops(12, 8, TINY) / dual)
    assert limits["VisualBERT, 36 regions"] > limits["VisualBERT, 100 regions"]


@torch.no_grad()
@pytest.mark.parametrize("name", ["VisualBERT", "LXMERT"])
def test_flop_of_the_librarys_models_are_what_torch_counts(name):
    student, count = bench_rows._region_students(SETTING)[name]
    ids = torch.randint(5, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), None, torch.zeros_like(ids))
    for regions in (3, 36):
        with FlopCounterMode(display=False) as counter:
            student.see(text, bench_rows._regions(SETTING, regions))
        assert counter.get_total_flops() == 2 * count(regions)  # a batch of 2


def test_flop_by_hand():
    assert cost._layer_flops(3, TINY) == 2 * 3 * (4 * 256 + 2 * 16 * 32) + 4 * 9 * 16
    convolution = torch.nn.Conv2d(3, 5, 2, stride=2, bias=False)
    convolution.forward_features = convolution.forward
    assert cost.network_flops(convolution, 4, 6) == 2 * (2 * 3) * 5 * 3 * 4


def test_the_command(world, well, command, monkeypatch):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    monkeypatch.setattr("vldistill.models.vilt.model.EncoderConfig", lambda **more: EncoderConfig(**small, **more))
    monkeypatch.setattr("vldistill.evaluation.bench.PAPER_GRID", (2, 2))
    shown = well("bench", "--rows", "fusions", "--batch", "1", "--rounds", "1", "--length", "8").out
    assert all(name in shown for name in VARIANTS) and "detectors not timed" in shown
    refused = command("bench", "--rows", "fusion")
    assert refused.code == 2 and "fusions" in refused.err
