"""Seconds, memory and energy of a training."""

from __future__ import annotations

import torch

from vldistill.training.cost import CostMeter, Counter, package_counters

CPU = torch.device("cpu")


def test_a_counter_adds_up_over_its_end():
    values = iter([10.0, 30.0, 5.0, None, 7.0])
    counter = Counter(lambda: next(values), span=100.0)
    for _ in range(5):
        counter.update()
    assert counter.total == 20 + 75 + 2


def test_a_machine_s_packages_are_found_and_their_parts_are_not(tmp_path):
    for zone, used in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 7_000_000), ("intel-rapl:0:0", 1_000_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{used}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("262143328850\n")
    (tmp_path / "intel-rapl:2").mkdir()  # one that only root reads
    first, second = package_counters(tmp_path)
    assert (first.read(), second.read()) == (5.0, 7.0) and first.span == 262143.32885
    assert package_counters(tmp_path / "nothing") == []


def test_the_meter_reads_from_its_start_on():
    used = iter([100.0, 130.0, 160.0])
    meter = CostMeter(CPU, [Counter(lambda: next(used))])
    with meter:
        pass
    told = meter.read()
    assert told["energy_j"] == 30.0 and told["energy_of"] == "CPU packages"
    assert told["seconds"] >= 0 and told["memory_bytes"] > 1e7 and "gpu_memory_bytes" not in told


def test_energy_that_nobody_counts_is_left_out():
    with CostMeter(CPU, []) as meter:
        told = meter.read()
    assert "energy_j" not in told
    with CostMeter(CPU, [Counter(lambda: None)]) as meter:
        assert "energy_j" not in meter.read()
