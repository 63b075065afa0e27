"""Checkpoints on disk: whole or not at all, damage is seen, optimisers come back as they were."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from vldistill.errors import InputError
from vldistill.training import checkpoint
from vldistill.training.checkpoint import State, load_optimizer, load_state, newest, optimizer_state, save_state


def state_at(step: int) -> State:
    return State(
        0,
        step,
        step,
        0,
        step,
        {"best": {"step": 1, "metrics": None}},
        {"student.w": torch.arange(4.0) + step},
        {"processes": 1, "threads": 1},
    )


def test_what_is_saved_is_loaded_and_the_newest_are_kept(tmp_path):
    for step in (1, 2, 12):
        save_state(tmp_path, state_at(step))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000012"]
    found = load_state(newest(tmp_path))
    assert found.step == 12 and found.part("student")["w"].tolist() == [12.0, 13.0, 14.0, 15.0]
    assert newest(tmp_path / "nothing") is None


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    save_state(tmp_path, state_at(1))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(OSError):
        save_state(tmp_path, state_at(2))
    assert load_state(newest(tmp_path)).step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"], "what was half-written is gone"


@pytest.mark.parametrize("damage", ["flip", "cut", "json", "field", "gone"])
def test_damage_is_seen(tmp_path, damage):
    folder = save_state(tmp_path, state_at(3))
    tensors, plain = folder / "state.safetensors", folder / "state.json"
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(bytes(content))
    elif damage == "cut":
        tensors.write_bytes(bytes(content[:-4]))
    elif damage == "json":
        plain.write_text(plain.read_text()[:-9])
    elif damage == "field":
        plain.write_text(json.dumps({**json.loads(plain.read_text()), "stp": 1}))
    else:
        tensors.unlink()
    with pytest.raises(InputError, match="is damaged"):
        load_state(folder)


@pytest.mark.parametrize("make", [lambda p: torch.optim.AdamW(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_an_optimiser_takes_the_same_steps_afterwards(tmp_path, make):
    def build():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, make([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "lr": 0.01}])

    def step(layer, optimizer):
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, ours = build()
    for _ in range(4):
        step(whole, ours)
    half, first = build()
    for _ in range(2):
        step(half, first)
    plain, tensors = optimizer_state(first)
    resumed, second = build()
    resumed.load_state_dict(half.state_dict())
    load_optimizer(second, json.loads(json.dumps(plain)), tensors)
    for _ in range(2):
        step(resumed, second)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
