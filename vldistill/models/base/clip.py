"""CLIP as open_clip has it: loaded by name and tag, from a folder in its layout, or with random weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from vldistill.errors import InputError
from vldistill.models.base.weights import RANDOM


def load_open_clip(model: str, weights: str | None, **options: Any) -> tuple[nn.Module, Any]:
    """The network and its transform from a PIL image to pixels.

    model: a name of open_clip (`ViT-B-32-quickgelu`), or a folder in its layout. weights: its tag (`openai`) or a file; None for
    a folder's own; "random". options: of open_clip's `create_model`. Raises InputError where a tag is not known, or a folder is
    given other weights.
    """
    import open_clip

    name = model
    if Path(model).is_dir():
        if weights not in (None, RANDOM):
            raise InputError(
                f"has weights of its own, {weights} beside it would be ignored", where=model, hint="leave weights out"
            )
        name, options["load_weights"] = f"local-dir:{model}", weights != RANDOM
    elif weights != RANDOM:
        options["pretrained"] = weights
        if not Path(weights or "").is_file():
            # Some configurations name GELU where the weights were trained with its quick form.
            options["force_quick_gelu"] = bool(published(model, weights).get("quick_gelu"))
    # The library warns of weights that are random on purpose.
    logging.getLogger().addFilter(_not_about_weights)
    try:
        network, _, transform = open_clip.create_model_and_transforms(name, **options)
    finally:
        logging.getLogger().removeFilter(_not_about_weights)
    return network, transform


def published(model: str, weights: str | None) -> dict[str, Any]:
    """What open_clip knows of a tag. Raises InputError where it does not know it."""
    import open_clip

    known = open_clip.get_pretrained_cfg(model, weights or "")
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)[:8])
        raise InputError(
            f"open_clip knows no weights {weights!r} of it",
            where=model,
            hint=f"set weights to one of: {tags}" if tags else "give a model of open_clip, or a folder",
        )
    return known


def _not_about_weights(record: logging.LogRecord) -> bool:
    return "weights" not in record.getMessage()
