"""Means between two logged steps, batches that are not finite, and going on in the middle of an interval."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from vldistill.errors import VldistillError
from vldistill.training.run_log import MOST_SKIPPED, TrainMetrics


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def add(meter: TrainMetrics, *losses: float, ids: str = "ab") -> None:
    for number, loss in enumerate(losses):
        value = torch.tensor(loss)
        meter.add({"task": value}, value, {"w": torch.tensor(0.5)}, [f"{letter}{number}" for letter in ids])


def test_means_and_a_fresh_start(accelerator):
    meter = TrainMetrics(accelerator, 2, tolerant=False)
    add(meter, 1.0, 3.0)
    told = meter.read(1)
    assert (told["loss"], told["loss/task"], told["w"], told["pairs"]) == (2.0, 2.0, 0.5, 4.0)
    add(meter, 5.0, 5.0)
    assert meter.read(2)["loss"] == 5.0


def test_what_is_not_finite_ends_the_run_and_names_its_records(accelerator):
    meter = TrainMetrics(accelerator, 1, tolerant=False)
    add(meter, 1.0, float("nan"), 1.0)
    with pytest.raises(VldistillError, match=r"loss, loss/task is not finite at step 7, in a batch of records a1, b1 \("):
        meter.check(7)


def test_many_records_are_shortened(accelerator):
    meter = TrainMetrics(accelerator, 1, tolerant=False)
    add(meter, float("inf"), ids="abcdefghij")
    with pytest.raises(VldistillError, match=r"records a0, b0, c0, d0, e0, f0, g0, h0 and 2 more"):
        meter.check(1)


def test_in_fp16_they_count_for_nothing_and_are_told(accelerator):
    meter = TrainMetrics(accelerator, 1, tolerant=True)
    add(meter, 1.0, float("inf"), 3.0)
    told = meter.read(1)
    assert told["loss"] == 2.0 and told["skipped"] == 1 and told["w"] == 0.5 and told["pairs"] == 2.0
    add(meter, 4.0)
    assert "skipped" not in meter.read(2)


def test_in_fp16_an_interval_without_any_has_no_means(accelerator):
    meter = TrainMetrics(accelerator, 1, tolerant=True)
    add(meter, float("inf"))
    assert set(meter.read(1)) == {"skipped", "pairs_per_s"}


def test_too_many_in_a_row_end_a_run_in_fp16_too(accelerator):
    meter = TrainMetrics(accelerator, 1, tolerant=True)
    add(meter, 1.0, *[float("nan")] * (MOST_SKIPPED - 1))
    assert meter.read(1)["skipped"] == MOST_SKIPPED - 1
    add(meter, float("nan"))
    with pytest.raises(VldistillError, match=f"in {MOST_SKIPPED} batches in a row, at step 2, in a batch of records a0"):
        meter.read(2)
    other = TrainMetrics(accelerator, 1, tolerant=True)
    for step in range(3):  # a good one in between starts anew
        add(other, *[float("nan")] * (MOST_SKIPPED - 1), 1.0)
        assert other.read(step)["skipped"] == MOST_SKIPPED - 1


def test_an_interval_goes_on_where_it_was_left(accelerator):
    whole, first, second = (TrainMetrics(accelerator, 1, tolerant=False) for _ in range(3))
    values = [0.1, 0.7, 0.3, 1.9]
    add(whole, *values)
    add(first, *values[:2])
    plain, tensors = first.state()
    second.load(plain, tensors)
    add(second, *values[2:])
    one, other = whole.read(1), second.read(1)
    assert one | {"pairs_per_s": 0} == other | {"pairs_per_s": 0}
    empty, again = TrainMetrics(accelerator, 1, tolerant=False), TrainMetrics(accelerator, 1, tolerant=False)
    again.load(*empty.state())
    add(again, 2.0)
    assert again.read(1)["loss"] == 2.0
