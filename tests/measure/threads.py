"""How fast training steps are on an idle and on a busy machine, by number of threads and by how they wait for each other:

    python tests/measure/threads.py [SECONDS]

Each setting in a process of its own, in turn, three times; the best is told, in steps a second. The busy machine has one other
process that never rests, as on a shared workstation. SECONDS: of one measurement, 3 by default; 16 minutes in all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

SIZES = {
    "quick start": (3, 64, 4, 128, 128, 27),
    "width 192": (6, 192, 4, 768, 32, 60),
    "width 384": (6, 384, 6, 1536, 8, 120),
    "ViLT-B/32": (12, 768, 12, 3072, 4, 281),
}
"""Layers, width, heads, feed-forward, pairs, and tokens of a pair."""
SETTINGS = {
    "all cores, as they come": {},
    "all cores, passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "all cores, spin 20000": {"GOMP_SPINCOUNT": "20000"},
    "one": {"OMP_NUM_THREADS": "1"},
}
ROUNDS = 3


def steps_per_second(size: str, seconds: float) -> float:
    import torch

    from vldistill.models.base.outputs import NOTHING
    from vldistill.models.vilt.model import EncoderConfig, ViltEncoder

    layers, width, heads, feedforward, pairs, tokens = SIZES[size]
    encoder = ViltEncoder(
        EncoderConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=feedforward)
    )
    optimizer = torch.optim.AdamW(encoder.parameters())
    states, mask = torch.randn(pairs, tokens, width), torch.ones(pairs, tokens, dtype=torch.bool)

    def step() -> None:
        encoder._encode(states, mask, NOTHING).hidden.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - started)


def measured(size: str, setting: dict[str, str], seconds: float) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    told = subprocess.run(
        [sys.executable, __file__, "--child", size, str(seconds)], env=kept | setting, capture_output=True, text=True, check=True
    )
    return float(told.stdout)


def main(seconds: float) -> None:
    from vldistill.terminal import Table, show

    for busy in (False, True):
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            table = Table("", title=f"{'one busy neighbour' if busy else 'idle'}, {os.cpu_count()} cores: steps/s")
            table.figures(*SIZES)
            found = {name: dict.fromkeys(SIZES, 0.0) for name in SETTINGS}
            for _ in range(ROUNDS):
                for name, setting in SETTINGS.items():
                    for size in SIZES:
                        found[name][size] = max(found[name][size], measured(size, setting, seconds))
            for name, row in found.items():
                table.add_row(name, *(f"{value:.3g}" for value in row.values()))
            show(table)
        finally:
            if neighbour is not None:
                neighbour.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(steps_per_second(sys.argv[2], float(sys.argv[3])))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
