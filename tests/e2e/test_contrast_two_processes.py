"""CMC over two processes is CMC of one process with the doubled batch, gradients included."""

from __future__ import annotations

from pathlib import Path

import contrast_gradients
import forked
import torch
from safetensors.torch import load_file


def test_two_processes_find_the_gradients_of_the_doubled_batch(tmp_path: Path):
    contrast_gradients.main(tmp_path)
    ends = forked.ends_of(forked.call_pair(lambda: contrast_gradients.main(tmp_path), tmp_path / "log"))
    assert [code for code, _ in ends] == [0, 0], ends
    whole = load_file(tmp_path / "1-0.safetensors")
    parts = [load_file(tmp_path / f"2-{rank}.safetensors") for rank in range(2)]
    assert torch.allclose((parts[0]["loss"] + parts[1]["loss"]) / 2, whole["loss"], atol=1e-6)
    assert torch.allclose((parts[0]["negatives"] + parts[1]["negatives"]) / 2, whole["negatives"])
    assert not torch.allclose(parts[0]["loss"], parts[1]["loss"])
    for name in whole.keys() - {"loss", "negatives"}:
        for part in parts:
            assert torch.allclose(part[name], whole[name], atol=1e-6), name
    assert all(value.abs().sum() > 0 for value in whole.values())
