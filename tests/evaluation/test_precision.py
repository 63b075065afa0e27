"""Inference in fewer bits: what strays, what is refused, and that the answers of a run stay what they were."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from vldistill.errors import InputError
from vldistill.evaluation import opened as precisions
from vldistill.evaluation.bench import Setting
from vldistill.evaluation.bench_rows import precision_rows
from vldistill.evaluation.opened import check_precision, lowered, quantised, straying
from vldistill.models.vilt.model import EncoderConfig

CPU = torch.device("cpu")
TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=32,
    patch_size=8,
    max_position_embeddings=20,
)


def test_straying_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    logits = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([[1.0, 1.5], [6.0, 5.0]])
    found = straying(vectors, logits)
    assert found.cosine == pytest.approx(0.5**0.5) and found.agreement == 0.5


def test_int8_is_near_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(16, 32)
    exact = model(inputs)
    lower = quantised(model)
    assert type(lower[0]) is not nn.Linear and type(model[0]) is nn.Linear and torch.equal(model(inputs), exact)
    found = lower(inputs)
    assert not torch.equal(found, exact) and straying((exact, found), (exact, found)).cosine > 0.999


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_context_decides_the_precision(name):
    model, context = lowered(nn.Linear(4, 4), name, CPU)
    with context():
        assert model(torch.ones(1, 4)).dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


@pytest.mark.parametrize(
    "name, device, expected",
    [("fp8", CPU, "not known"), ("fp16", CPU, "needs a GPU"), ("int8", torch.device("cuda"), "is for the CPU")],
)
def test_what_a_device_has_not_is_refused(name, device, expected):
    with pytest.raises(InputError, match=expected):
        check_precision(name, device)


def test_a_torch_without_quantisation_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.ao.quantization", None)
    with pytest.raises(InputError, match="no dynamic quantisation"):
        quantised(nn.Linear(2, 2))
    assert "int8" in precisions.PRECISIONS


@pytest.mark.parametrize("images", [1, 2])
def test_rows_say_how_far_both_parts_stray(images):
    config = EncoderConfig(**{**TINY.to_dict(), "modality_type_vocab_size": images + 1})
    setting = Setting(config, (3, 4), 4, (12,), "fp32", CPU, 1)
    rows = precision_rows(setting, ("bf16", "int8"), images=images)
    assert [row.precision for row in rows] == ["fp32", "bf16", "int8"] * 2
    assert [row.variant for row in rows[:3]] == [f"text tower and head, {name}" for name in ("fp32", "bf16", "int8")]
    assert rows[3].variant == "image tower, fp32" and rows[0].speedup == rows[3].speedup == 1
    assert [bool(row.note) for row in rows] == [False, True, True] * 2
    assert all(("same answer" in row.note) == ("head" in row.variant) for row in rows if row.note)
    cosines = [float(row.note.split("fp32 ")[1][:7]) for row in rows if row.note]
    assert all(0.98 < cosine < 1.00001 for cosine in cosines) and min(cosines) < 1


def test_the_command_compares_all_precisions_at_once(well, tmp_path, world):
    out = tmp_path / "bench.json"
    run = "runs/quickstart_dide/default/seed0"
    told = well(
        "bench",
        run,
        "--rows",
        "precision",
        "--precision",
        "fp32,int8",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--length",
        "8",
        "--out",
        out,
    )
    rows = json.loads(out.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"] * 2 and told.out.count("precision, batch 4") == 1
    assert "text tower and head, int8: least cosine to fp32" in told.out


def test_evaluate_in_int8_answers_as_in_fp32(well, world, tmp_path):
    run = "runs/quickstart_dide/default/seed0"
    found = {}
    for name in ("fp32", "int8"):
        well("evaluate", run, "--split", "val", "--precision", name, "--out", tmp_path / name)
        found[name] = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
    same = [a["prediction"] == b["prediction"] for a, b in zip(*found.values(), strict=True)]
    assert sum(same) / len(same) > 0.9
    assert any(a["confidence"] != b["confidence"] for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize(
    "words, expected",
    [
        (("bench", "--precision", "int8"), "is for --rows precision"),
        (("evaluate", "runs/quickstart_dide", "--precision", "fp16"), "needs a GPU"),
    ],
)
def test_refusals(command, world, words, expected):
    result = command(*words)
    assert result.code == 2 and expected in result.err and len(result.err.splitlines()) == 1
