"""Parameter groups and the learning-rate schedule, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vldistill.models.meter.model import MeterDual
from vldistill.models.meter.parts import MeterConfig
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual
from vldistill.training.optim import (
    linear_factor,
    linear_schedule,
    make_optimizer,
    milestone_steps,
    parameter_groups,
    phase_rate,
    stepped_factor,
    stepped_schedule,
    warmup_steps,
)

TINY = EncoderConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    image_size=8,
    patch_size=4,
    max_position_embeddings=6,
)


@pytest.mark.parametrize(
    "warmup, total, steps",
    [
        (0.1, 100, 10),
        (0, 100, 0),
        (5, 100, 5),
        (0.05, 1200, 60),
        (200, 100, 100),
        (0.1, 4, 0),
        (1, 10, 1),
        (0.5, 3, 2),
    ],
)
def test_warmup_is_a_fraction_below_one_and_else_a_count(warmup, total, steps):
    assert warmup_steps(warmup, total) == steps


@pytest.mark.parametrize(
    "warmup, total, factors",
    [
        (2, 6, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (0, 4, [1, 0.75, 0.5, 0.25]),
        (3, 3, [1 / 3, 2 / 3, 1]),
        (0, 1, [1]),
        (1, 1, [1]),
    ],
)
def test_linear_factor(warmup, total, factors):
    assert [linear_factor(step, warmup, total) for step in range(total)] == pytest.approx(factors)
    assert linear_factor(total, warmup, total) == 0 and linear_factor(total + 5, warmup, total) == 0


def test_the_schedule_scales_every_group():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [parameter], "lr": lr} for parameter, lr in zip(parameters, (0.1, 1.0), strict=True)]
    optimizer = make_optimizer(groups, betas=(0.9, 0.98), eps=1e-8)
    schedule = linear_schedule(optimizer, 2, 4)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [lr for lr, _ in seen] == pytest.approx([0.05, 0.1, 0.1, 0.05])
    assert [lr for _, lr in seen] == pytest.approx([0.5, 1, 1, 0.5])


@pytest.mark.parametrize("kind", [Vilt, ViltDual])
def test_every_parameter_is_in_the_group_that_it_belongs_to(kind):
    student = kind(TINY, images=2, classes=3)

    class Scalars(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

    objective = Scalars()
    groups = parameter_groups(student, objective, weight_decay=0.01, lr=1e-3, head_lr_multiplier=10)
    place = {id(p): (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    named = dict(student.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(named) + 1 == len(place)
    for name, parameter in named.items():
        norm = "norm" in name.lower() or name.startswith(("classifier.1.", "fusion.1."))
        decay = 0.0 if name.endswith(".bias") or norm else 0.01
        rate = 1e-2 if name.startswith("classifier.") else 1e-3
        assert place[id(parameter)] == (decay, pytest.approx(rate)), name
    assert place[id(objective.temperature)] == (0.0, 1e-3)
    assert {decay for decay, _ in place.values()} == {0.0, 0.01}


def test_meters_parts_behind_its_encoders_have_a_rate_of_their_own():
    sizes = dict.fromkeys(("num_hidden_layers", "text_layers", "vision_layers"), 1)
    sizes |= dict.fromkeys(("hidden_size", "text_width", "vision_width"), 4)
    sizes |= dict.fromkeys(("num_attention_heads", "text_heads", "vision_heads"), 2)
    student = MeterDual(MeterConfig(vocab_size=9, image_size=4, patch_size=2, **sizes), images=1, classes=2)
    groups = parameter_groups(student, nn.Module(), weight_decay=0.01, lr=1.0, head_lr_multiplier=10, cross_lr_multiplier=5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in student.named_parameters():
        side, _, own = name.partition(".")
        expected = 10 if side == "classifier" else 5 if own.startswith("cross_modal_") else 1
        assert rates[id(parameter)] == expected, name
    assert set(rates.values()) == {1, 5, 10}


def test_frozen_parameters_are_left_out():
    student = Vilt(TINY, images=1, classes=2)
    student.vilt.requires_grad_(False)
    groups = parameter_groups(student, nn.Module(), weight_decay=0.01, lr=1.0, head_lr_multiplier=1)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in student.classifier.parameters()}


def test_decay_shrinks_weights_and_not_biases():
    student = Vilt(TINY, images=1, classes=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = make_optimizer(
        parameter_groups(student, nn.Module(), weight_decay=0.5, lr=0.1, head_lr_multiplier=1), betas=(0.9, 0.98), eps=1e-8
    )
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = student.state_dict()
    assert torch.allclose(after["classifier.0.weight"], 0.95 * before["classifier.0.weight"])
    assert torch.equal(after["vilt.layernorm.weight"], before["vilt.layernorm.weight"])


def test_all_of_the_student_decays_where_asked_and_nothing_of_the_objective():
    class Scalars(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

    student, objective = Vilt(TINY, images=1, classes=2), Scalars()
    groups = parameter_groups(student, objective, weight_decay=0.01, lr=1.0, head_lr_multiplier=1, decay_all=True)
    place = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {place.pop(id(objective.temperature))} == {0.0} and set(place.values()) == {0.01}


def test_sgd_by_hand():
    """v = m v + (g + d w), w = w - lr v."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([{"params": [weight], "weight_decay": 0.1, "lr": 0.5}], kind="sgd", momentum=0.9)
    expected, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected -= 0.5 * velocity
        assert weight.item() == pytest.approx(expected)


def test_vlberts_rates_come_out_as_its_configurations_have_them():
    """7e-5 a sample on 4 x 4 x 4 samples, and 6.25e-7 on 256, are 4.48e-3 and 1.6e-4."""
    assert phase_rate(7e-5, "per_sample", 4 * 4 * 4) == pytest.approx(4.48e-3)
    assert phase_rate(6.25e-7, "per_sample", 256) == pytest.approx(1.6e-4)
    assert phase_rate(7e-5, "none", 64) == 7e-5


@pytest.mark.parametrize(
    "milestones, length, total, steps",
    [
        ([14, 18, 26], 30, 300, [140, 180, 260]),
        ([14, 18, 26], 30, 240, [112, 144, 208]),
        ([0.5, 0.75], 30, 80, [40, 60]),
        ([100], 1000, 1000, [100]),
        ([1.5], 3, 10, [5]),
    ],
)
def test_milestones_keep_their_place_in_a_shorter_phase(milestones, length, total, steps):
    assert milestone_steps(milestones, length, total) == steps


def test_a_stepped_schedule_warms_up_and_then_falls_at_its_milestones():
    assert [stepped_factor(step, 0, [1, 3], 0.1) for step in range(4)] == pytest.approx([1, 0.1, 0.1, 0.01])
    optimizer = make_optimizer([{"params": [nn.Parameter(torch.ones(1))], "lr": 0.8}], kind="sgd")
    schedule, seen = stepped_schedule(optimizer, 4, [5, 7], 0.5), []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.4, 0.4, 0.2])
