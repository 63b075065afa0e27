"""Images on canvases: sizes and borders by hand, upright ones laid down and up again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vldistill.data.images import ImageFolder
from vldistill.data.visual import LetterboxInput, fitted_size, letterbox, stack_letterboxes


@pytest.mark.parametrize(
    "given, fitted",
    [
        ((640, 480), (512, 384)),
        ((480, 640), (384, 512)),
        ((500, 500), (384, 384)),
        ((1000, 600), (640, 384)),
        ((1000, 400), (640, 256)),
        ((400, 1000), (256, 640)),
        ((64, 48), (512, 384)),
        ((3889, 1000), (640, 165)),
        ((2000, 1), (640, 1)),
    ],
)
def test_sizes_by_hand(given, fitted):
    assert fitted_size(*given, 384, 640) == fitted


def test_an_image_stands_in_the_middle_of_black():
    canvas = letterbox(Image.new("RGB", (40, 30), (200, 10, 20)), 6, 11)  # 8 x 6: a border of 2 and 1
    assert canvas.shape == (6, 11, 3) and canvas.dtype == np.uint8
    assert (canvas[:, 2:10] == [200, 10, 20]).all() and not canvas[:, :2].any() and not canvas[:, 10:].any()
    upright = letterbox(Image.new("RGB", (30, 40), (200, 10, 20)), 6, 11)
    assert upright.shape == (11, 6, 3) and (upright[2:10] == [200, 10, 20]).all() and not upright[:2].any()


def test_a_batch_keeps_which_canvases_stand(tmp_path):
    draw = np.random.default_rng(0)
    for name, shape in (("wide.png", (24, 40, 3)), ("tall.png", (40, 24, 3))):
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    seen = LetterboxInput(ImageFolder(tmp_path), 32, 64)
    wide, tall = seen.read("wide.png", None), seen.read("tall.png", (0, 0, 0, 0))
    batch = seen.stack([wide, tall, wide])
    assert batch.pixels.shape == (3, 3, 32, 64) and batch.pixels.dtype == torch.uint8 and batch.upright == [False, True, False]
    assert (batch.pixels[0].permute(1, 2, 0).numpy() == wide).all() and (batch.pixels[1].permute(2, 1, 0).numpy() == tall).all()
    picked = batch[torch.tensor([2, 1, 1])]
    assert picked.rows.tolist() == [2, 1, 1] and picked[torch.tensor([1, 0])].rows.tolist() == [1, 2]
    assert len(picked.pixels) == 3 and picked.to(device="cpu").upright == batch.upright


def test_a_square_canvas_never_stands():
    assert stack_letterboxes([letterbox(Image.new("RGB", size), 8, 8) for size in ((3, 5), (5, 3))]).upright == [False, False]
