"""Distil vision-language models from the command line; see `vldistill --help`.

From Python, a trained model answers in three lines:

    import vldistill
    model = vldistill.load("runs/dide_vilt_vqa")
    label, probability = model.answer("photo.jpg", "is there a cat?")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vldistill.api import Model

__all__ = ["load"]


def load(source: str | Path, *, precision: str = "fp32", max_pixels: int | None = None) -> Model:
    """Opens a trained model: a run folder (or `runs/<recipe>` with one run), a model folder, or a hub name.

    `model.answer(images, text)` gives a label and its probability, `model.rank` several; a dual encoder also has
    `encode_images` and `encode_text`, [N, D] each. See `vldistill.api.Model`. precision: fp32, bf16, fp16 (GPU) or int8 (CPU).
    max_pixels: of an image; None: 25,000,000.
    Raises `vldistill.errors.InputError` where there is no such model.
    """
    # Here, since torch takes seconds to import and the command line need not wait for it.
    from vldistill.api import Model

    return Model(source, precision=precision, max_pixels=max_pixels)
