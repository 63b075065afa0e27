"""DeCLIP's official checkpoints, converted to folders of a clip_dual model without a head: its two towers. Every other key is
named here, or is an error that lists it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.text import clip_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec, save_weights, write_spec
from vldistill.models.base.converter import renaming, sort_out
from vldistill.models.base.official import CLIP_IMAGE, CLIP_TEXT, Stack, heads_of, read_official
from vldistill.models.clip_dual.model import IMAGENET_MEAN, IMAGENET_STD, ClipConfig, ClipDual
from vldistill.models.clip_dual.start import load_towers

_LEFT_OUT = (
    (r"^logit_scale$", "pre-training's temperature"),
    (r"^(?:projector|predictor)(?:_text|_nn_text|_d)?\.", "SimSiam's heads, of images and texts"),
    (r"^text_label_predictor\.", "pre-training's head for hidden words"),
    (r"^nn_replacer_(?:img|text)\.", "the queues of nearest neighbours"),
)
_RENAMED = ((r"^module\.", ""), (r"^encode_text\.", ""))
_TEXT, _IMAGE = "transformer.resblocks.", "visual.transformer.resblocks."
_CROP = 224 / 256
"""Images are resized to 256 and cut to 224."""


def convert(source: Path, out: Path, *, heads: Sequence[int] | None = None, overwrite: bool = False) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer, which open_clip's vocabulary gives; returns what the folder says
    of itself. heads: see `heads_of`; of texts and of images. Raises InputError where the file cannot be read safely, is another
    model's, or a key has no place or is missing."""
    weights, account = sort_out(read_official(source), _place, _LEFT_OUT, str(source))
    config = _sizes(weights, source, heads)
    tokenizer = clip_tokenizer(mask=True)
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(
            f"has {config.vocab_size:,} tokens, DeCLIP's vocabulary has {len(tokenizer.vocabulary):,}",
            where=str(source),
            hint="name a DeCLIP with a Transformer of its own for text",
        )
    spec = ModelSpec("clip_dual", config, "", 1, [], config.image_size, config.max_position_embeddings)
    model = ClipDual(config, images=1, classes=0)
    load_towers(model, weights, str(source))
    towers = tuple(f"{name}." for name in model.towers)
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        tokenizer.save(folder)
        write_spec(folder, spec)
        # A fusion MLP comes with a task.
        save_weights(folder, {name: value for name, value in model.state_dict().items() if name.startswith(towers)})
        write_converted(folder, source, **account.to_manifest())
    return spec


def _place(name: str, value: Tensor) -> dict[str, Tensor]:
    """An official weight under the name that a tower has for it; a name that is not known stays as it is."""
    return renaming(_RENAMED)(name, value.float() if value.is_floating_point() else value)


def _sizes(weights: dict[str, Tensor], source: Path, heads: Sequence[int] | None) -> ClipConfig:
    def depth(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})

    try:
        words, text_width = weights["token_embedding.weight"].shape
        vision_width, _, _, patch = weights["visual.conv1.weight"].shape
        side = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
        head_counts = heads_of({"text": Stack(CLIP_TEXT, text_width), "image": Stack(CLIP_IMAGE, vision_width)}, heads, source)
        return ClipConfig(
            hidden_size=len(weights["text_projection.bias"]),
            vocab_size=words,
            text_projection_bias=True,
            max_position_embeddings=len(weights["positional_embedding"]),
            num_hidden_layers=depth(_TEXT),
            text_width=text_width,
            text_heads=head_counts["text"],
            text_feedforward=len(weights[f"{_TEXT}0.mlp.c_fc.bias"]),
            vision_layers=depth(_IMAGE),
            vision_width=vision_width,
            vision_heads=head_counts["image"],
            vision_feedforward=len(weights[f"{_IMAGE}0.mlp.c_fc.bias"]),
            image_size=side * patch,
            patch_size=patch,
            pixel_mean=IMAGENET_MEAN,
            pixel_std=IMAGENET_STD,
            crop_ratio=_CROP,
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is no DeCLIP checkpoint: it lacks {error}",
            where=str(source),
            hint="name a checkpoint with both towers, a ViT for images and a Transformer for text",
        ) from None
