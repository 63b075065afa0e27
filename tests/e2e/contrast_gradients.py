"""CMC's loss and gradients, of the whole batch in one process, or of its share in each of two.

The model is wrapped as the loop wraps it; each process writes OUT/<world>-<rank>.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vldistill.data.batch import RecordSource
from vldistill.objectives.contrastive import CrossModalContrast, pair_keys
from vldistill.runtime import choose_precision, make_accelerator

PAIRS, INPUTS, WIDTH = 8, 6, 5


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.image, self.contrast = nn.Linear(INPUTS, WIDTH), nn.Linear(INPUTS, WIDTH), CrossModalContrast(0.5)

    def forward(self, text: torch.Tensor, image: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return self.contrast(self.text(text), self.image(image), keys)


def main(out: Path) -> None:
    accelerator = make_accelerator(choose_precision("fp32"), 1, [], out, uses_all_parameters=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    towers = accelerator.prepare(Towers())
    text, image = torch.randn(PAIRS, INPUTS), torch.randn(PAIRS, INPUTS)
    # Rows 1 and 6 share an image: with two processes they are on different ranks.
    images = [6 if row == 1 else row for row in range(PAIRS)]
    keys = pair_keys([RecordSource((f"{images[row]}.jpg",), ((("word", str(row)),),)) for row in range(PAIRS)])
    share = slice(rank * PAIRS // world, (rank + 1) * PAIRS // world)
    loss = towers(text[share], image[share], keys[share])
    accelerator.backward(loss)
    inner = accelerator.unwrap_model(towers)
    found = {name: parameter.grad.clone() for name, parameter in inner.named_parameters()}
    save_file({"loss": loss.detach(), "negatives": inner.contrast.negatives, **found}, out / f"{world}-{rank}.safetensors")
