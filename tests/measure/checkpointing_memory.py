"""What gradient checkpointing saves: python tests/measure/checkpointing_memory.py

A forward and a backward pass of ViLT-B/32's encoder over 8 images of 384 x 640 pixels with 40 text tokens, fp32, one thread, each
way in a process of its own: the largest memory of the process over what it had before, and CPU seconds, the better of two passes.
About a minute.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import torch

from vldistill.models.base.outputs import NOTHING
from vldistill.models.base.recompute import set_recompute
from vldistill.models.vilt.model import EncoderConfig, ViltEncoder

PAIRS, TOKENS = 8, 40 + 1 + 240


def peak() -> int:
    """Bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(*, recompute: bool) -> tuple[float, float]:
    """MB and seconds."""
    torch.set_num_threads(1)
    encoder = ViltEncoder(EncoderConfig())
    if recompute:
        set_recompute(encoder)
    states, mask = torch.randn(PAIRS, TOKENS, encoder.config.hidden_size), torch.ones(PAIRS, TOKENS, dtype=torch.bool)
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, seconds = peak(), []
    for _ in range(2):
        started = time.process_time()
        encoder._encode(states, mask, NOTHING).hidden.square().sum().backward()
        seconds.append(time.process_time() - started)
    return (peak() - before) / 1e6, min(seconds)


def main() -> None:
    if len(sys.argv) > 1:
        print(*measure(recompute=sys.argv[1] == "on"))
        return
    found = {}
    for name in ("off", "on"):
        told = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout
        found[name] = tuple(map(float, told.split()))
        print(f"{name:4}{found[name][0]:8,.0f} MB  {found[name][1]:6.2f} s")
    memory, seconds = (found["on"][place] / found["off"][place] for place in (0, 1))
    print(f"{memory:.0%} of the memory, {seconds:.2f} x the time")


if __name__ == "__main__":
    main()
