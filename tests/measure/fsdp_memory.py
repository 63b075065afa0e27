"""What sharing a student out saves: python tests/measure/fsdp_memory.py

Two processes take two optimiser steps (AdamW, fp32, one thread each) of ViLT-B/32's encoder over 2 images of 384 x 640 pixels
with 40 text tokens, each holding all of it (DDP) or half (FSDP): what a process has resident after the steps over what it had
before there was an encoder, and the second step's seconds, over sockets of one machine. Linux with glibc; about a minute.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from vldistill.models.base.outputs import NOTHING
from vldistill.models.vilt.model import EncoderConfig, ViltEncoder
from vldistill.training.optim import make_optimizer, parameter_groups
from vldistill.training.sharding import shard

PAIRS, TOKENS = 2, 40 + 1 + 240


def resident() -> int:
    """Bytes, without what was freed and not yet given back."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Encoder(ViltEncoder):
    """Called as a student is."""

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._encode(states, mask, NOTHING).hidden


def measure(*, shared: bool) -> None:
    """Prints MB and seconds of the first process."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    before = resident()
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig())
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.startswith(("encoder.", "layernorm.")))  # what the pass below reaches
    if shared:
        shard(encoder, accelerator)
    optimizer = make_optimizer(parameter_groups(encoder, torch.nn.Module(), weight_decay=0.01, lr=1e-4, head_lr_multiplier=1.0))
    learner = encoder if shared else accelerator.prepare(encoder)
    states, mask = torch.randn(PAIRS, TOKENS, encoder.config.hidden_size), torch.ones(PAIRS, TOKENS, dtype=torch.bool)
    for _ in range(2):
        started = time.perf_counter()
        learner(states, mask).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        print((resident() - before) / 1e6, seconds, flush=True)
    accelerator.end_training()


def main() -> None:
    if len(sys.argv) > 1:
        measure(shared=sys.argv[1] == "FSDP")
        return
    found = {}
    for name in ("DDP", "FSDP"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = tuple(map(float, told.split()))
        print(f"{name:4}{found[name][0]:8,.0f} MB a process  {found[name][1]:6.2f} s", flush=True)
    memory, seconds = (found["FSDP"][place] / found["DDP"][place] for place in (0, 1))
    print(f"{memory:.0%} of the memory, {seconds:.2f} x the time")


if __name__ == "__main__":
    main()
