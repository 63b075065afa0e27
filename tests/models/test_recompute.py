"""Gradient checkpointing: the same outputs, captured parts and gradients, with dropout, for less memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vldistill.models.base.bert import BertEncoder, RegionBertConfig
from vldistill.models.base.outputs import Capture
from vldistill.models.base.recompute import set_recompute
from vldistill.models.vilt.model import EncoderConfig, ViltEncoder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.3,
}
CAPTURE = Capture(qk=frozenset({2, 6}), hidden=frozenset({3}))


def bert():
    encoder = BertEncoder(RegionBertConfig(vocab_size=10, **SIZES))
    return encoder, lambda states, mask: encoder(states, mask, CAPTURE)


def vilt():
    encoder = ViltEncoder(
        EncoderConfig(vocab_size=10, max_position_embeddings=8, modality_type_vocab_size=2, image_size=8, patch_size=4, **SIZES)
    )
    return encoder, lambda states, mask: encoder._encode(states, mask, CAPTURE)


def passes(encoder, encode) -> tuple[dict[str, torch.Tensor], int]:
    """Values and gradients of one pass with all that is captured, and the bytes that it keeps for its backward pass."""
    torch.manual_seed(3)
    states = torch.randn(4, 9, 16, requires_grad=True)
    mask = torch.arange(9) < torch.tensor([[9], [7], [9], [4]])
    kept = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        found = encode(states, mask)
        outputs = {
            "hidden": found.hidden,
            "layer": found.layers[3],
            **{f"{name}{number}": part for number in (2, 6) for name, part in zip("qk", found.qk[number], strict=True)},
        }
        loss = sum((number + 1) * (value * value).sum() for number, value in enumerate(outputs.values()))
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    return {**outputs, **gradients, "states": states.grad}, sum(kept.values())


@pytest.mark.parametrize("build", [bert, vilt])
def test_the_same_values_and_gradients_for_less_memory(build):
    torch.manual_seed(0)
    encoder, encode = build()
    plain, much = passes(encoder, encode)
    assert set_recompute(encoder)
    again, little = passes(encoder, encode)
    assert plain.keys() == again.keys() and len(plain) > 6 * 16
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name
    # Weights and what is captured are kept either way.
    assert little < 0.5 * much


def test_nothing_is_done_twice_without_a_backward_pass(monkeypatch):
    encoder, encode = bert()
    set_recompute(encoder)
    monkeypatch.setattr("vldistill.models.base.recompute.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    with torch.no_grad():
        encode(torch.randn(4, 9, 16), torch.ones(4, 9, dtype=torch.bool))


def test_a_model_without_such_an_encoder_says_so():
    assert not set_recompute(torch.nn.Linear(2, 2))


METER = "student={{kind: {}, sizes: {{layers: 2, width: 16, heads: 2, feedforward: 24, patch: 6}}}}"


@pytest.mark.parametrize(
    "stage, recipe, fields",
    [
        ("finetune", "quickstart_teacher", ()),
        ("finetune", "quickstart_teacher", (METER.format("meter"), "image.size=12")),
        ("finetune", "quickstart_teacher", (METER.format("meter_dual"), "image.size=12")),
        ("distill", "quickstart_dide", ()),
        ("distill", "quickstart_dide", ("objective.attention=whole", "objective.hidden_states=true")),
    ],
)
def test_a_run_learns_the_same(world, well, few, tmp_path, stage, recipe, fields):
    runs = [
        Path(
            well(
                stage,
                "-r",
                recipe,
                "--runs",
                tmp_path / name,
                "--name",
                name,
                *few,
                *fields,
                "student.dropout=0.2",
                f"train.gradient_checkpointing={name}",
            ).last["run"]
        )
        for name in ("true", "false")
    ]
    first, second = ((run / "model/model.safetensors").read_bytes() for run in runs)
    assert first == second


def test_a_student_that_cannot_is_refused(world, command, few, tmp_path):
    fields = ("data.path=artifacts/data/toy-visual_genome", "data.val=train", "train.gradient_checkpointing=true")
    refused = command("pretrain", "-r", "quickstart_advl_text", "--runs", tmp_path, *few, *fields)
    assert refused.code == 2 and "a text_encoder student computes no layer twice" in refused.err, refused.err
