"""Looking at whole images on canvases that lie or stand, each image once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vldistill.data.batch import LetterboxBatch


def look(image: LetterboxBatch, network: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Cells [I, N, C] of the images, whose canvases `network` sees as they lie or stand, and [S] the place of each row's among
    them. network: [N, 3, H, W] uint8 to [N, n, C], of as many cells either way."""
    cells, order = [], []
    for stands in (False, True):
        chosen = [index for index, upright in enumerate(image.upright) if upright == stands]
        if chosen:
            pixels = image.pixels[chosen]
            cells.append(network(pixels.transpose(2, 3) if stands else pixels))
            order += chosen
    place = torch.tensor(order).argsort().to(image.rows.device)
    return torch.cat(cells), place[image.rows]
