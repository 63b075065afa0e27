"""A run's losses are those that were written down, see golden_curves.py: to the bit on the platform that the file names, nearly
on every other where models start with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_curves import CURVES, FILE, STEPS, curve, make_world, start_drawn, this_platform
from programs import ENVIRONMENT

GOLDEN = json.loads(FILE.read_text())
pytestmark = pytest.mark.skipif(start_drawn() != GOLDEN["start"], reason="this torch draws other weights to start with")
TOLERANCE = 1e-5
FEW = 3
# Changes one weight by a hundredth.
CHANGED = {
    "advl matching": "objective.start={vision: 0.2525}",
    "advl task": "objective.start={text: 0.2525}",
    "dide pretrain": "objective.soft_label_weight=1.01",
    "dide finetune": "objective.attention_weight=1.01",
}


@pytest.fixture(scope="module")
def golden_world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("golden"))


def differences(name: str, found: dict[str, list], steps: int = STEPS) -> list[float]:
    """Of each step, the largest difference of its terms, as a share of the step's loss: a divergence of nearly nothing is itself
    rounded to a share of 1."""
    golden = GOLDEN["curves"][name]
    assert found["terms"] == golden["terms"] and len(found["steps"]) == steps
    return [
        max(abs(one - other) for one, other in zip(*rows, strict=True)) / abs(rows[1][0])
        for rows in zip(found["steps"], golden["steps"][:steps], strict=True)
    ]


def check(name: str, found: dict[str, list], steps: int = STEPS, *, same: bool) -> None:
    worst = max(differences(name, found, steps))
    assert worst == 0 if same else worst < TOLERANCE, f"{name}: {worst:.1e} of the loss away from {FILE.name}"


@pytest.mark.parametrize("name", CURVES)
def test_the_first_steps(golden_world, name):
    check(name, curve(golden_world, name, FEW), FEW, same=this_platform() == GOLDEN["platform"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_all_steps(golden_world, name):
    check(name, curve(golden_world, name), same=this_platform() == GOLDEN["platform"])


@pytest.mark.slow
@pytest.mark.parametrize("name, override", CHANGED.items())
def test_a_changed_weight_is_seen_at_once(golden_world, name, override):
    assert min(differences(name, curve(golden_world, name, FEW, (override,)), FEW)) > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name, override", [(name, f"optim.{field}") for name in CURVES for field in ("clip=0.98", "lr=1.02e-3")])
def test_what_the_optimiser_does_is_seen(golden_world, name, override):
    assert max(differences(name, curve(golden_world, name, overrides=(override,)))) > 10 * TOLERANCE


@pytest.mark.slow
def test_with_two_threads_they_are_nearly_the_same(golden_world):
    torch.set_num_threads(2)
    try:
        for name in CURVES:
            check(name, curve(golden_world, name, 10), 10, same=False)
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", [None, "default"])
def test_another_process_and_a_lesser_processor(tmp_path, instructions):
    """As the file is written: the same processor gives the same bits, one without vectors nearly so."""
    environment = {**os.environ, **ENVIRONMENT}
    if instructions:
        environment |= {"ATEN_CPU_CAPABILITY": instructions, "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    subprocess.run(
        [sys.executable, Path(__file__).with_name("golden_curves.py"), tmp_path / "losses.json"],
        check=True,
        env=environment,
        capture_output=True,
    )
    told = json.loads((tmp_path / "losses.json").read_text())
    assert (told["platform"] == this_platform()) == (instructions is None)
    for name, found in told["curves"].items():
        check(name, found, same=told["platform"] == GOLDEN["platform"])
