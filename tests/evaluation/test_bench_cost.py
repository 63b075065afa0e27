"""Timing: what is called how often, percentiles, and memory."""

from __future__ import annotations

import pytest
import torch

from vldistill.evaluation import cost
from vldistill.evaluation.cost import measure, peak_memory, percentile

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "values, percent, expected",
    [
        ([4.0, 1.0, 3.0, 2.0], 95, 4.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([7.0], 95, 7.0),
        (list(range(1, 101)), 95, 95),
        (list(range(1, 21)), 95, 19),
        ([1.0, 2.0], 0, 1.0),
        ([1.0, 2.0, 3.0], 100, 3.0),
    ],
)
def test_percentile_is_the_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


def test_variants_are_warmed_up_and_take_turns():
    calls = []
    timings = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, device=CPU, memory=False)
    assert calls == ["a", "b"] * 4
    assert list(timings) == ["a", "b"] and timings["a"].peak_mb is None
    assert all(0 <= one.minimum <= one.p50 <= one.p95 for one in timings.values())


def test_seconds_are_those_of_the_clock(monkeypatch):
    ticks = iter([0, 1, 10, 13, 20, 22])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(ticks)))
    timings = measure({"a": lambda: None}, rounds=3, device=CPU, memory=False)
    assert (timings["a"].minimum, timings["a"].p50, timings["a"].p95) == (1, 2, 3)


@pytest.mark.skipif(cost._reset_peak() is None, reason="this system does not tell the highest resident memory")
def test_peak_memory_sees_what_a_call_holds():
    def hold():
        torch.ones(64, 1 << 18)  # 64 MiB

    # What was freed before stays with the C library, and must not hide what is needed now.
    for _ in range(3):
        kept = [bytearray(1 << 16) for _ in range(2000)]
        del kept
        assert 60 < peak_memory(hold, CPU) < 80
        assert peak_memory(lambda: None, CPU) < 4
    assert measure({"a": lambda: None}, rounds=1, device=CPU)["a"].peak_mb >= 0


def test_memory_that_cannot_be_read_is_none(monkeypatch):
    monkeypatch.setattr(cost, "_reset_peak", lambda: None)
    assert peak_memory(lambda: None, CPU) is None
