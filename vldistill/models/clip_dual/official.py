"""DeCLIP's official checkpoints, converted to folders of a clip_dual model without a head: its two towers. Every other key is
named here, or is an error that lists it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.data.text import WordTokenizer, clip_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.converter import Account, OfficialLayout, Weights, depth_of
from vldistill.models.base.official import CLIP_IMAGE, CLIP_TEXT, Stack, heads_of
from vldistill.models.clip_dual.model import IMAGENET_MEAN, IMAGENET_STD, ClipConfig, ClipDual
from vldistill.models.clip_dual.start import load_towers

_TEXT, _IMAGE = "transformer.resblocks.", "visual.transformer.resblocks."
_CROP = 224 / 256
"""Images are resized to 256 and cut to 224."""


class DeclipLayout(OfficialLayout):
    kind = "clip_dual"
    called = "DeCLIP"
    renamed = ((r"^module\.", ""), (r"^encode_text\.", ""))
    left_out = (
        (r"^logit_scale$", "pre-training's temperature"),
        (r"^(?:projector|predictor)(?:_text|_nn_text|_d)?\.", "SimSiam's heads, of images and texts"),
        (r"^text_label_predictor\.", "pre-training's head for hidden words"),
        (r"^nn_replacer_(?:img|text)\.", "the queues of nearest neighbours"),
    )
    file_hint = "name a checkpoint with both towers, a ViT for images and a Transformer for text"

    def tokenizer(self, vocabulary: Path | None, lowercase: bool | None) -> WordTokenizer:
        """open_clip's vocabulary."""
        return clip_tokenizer(mask=True)

    def check_vocabulary(self, config: ClipConfig, tokenizer: WordTokenizer, file: Path, vocabulary: Path | None) -> None:
        if not self.fits(config, tokens := len(tokenizer.vocabulary)):
            raise InputError(
                f"has {config.vocab_size:,} tokens, DeCLIP's vocabulary has {tokens:,}",
                where=str(file),
                hint="name a DeCLIP with a Transformer of its own for text",
            )

    def completed(
        self, config: ClipConfig, official: Weights, weights: Weights, account: Account, answers: Path | None, file: Path
    ) -> tuple[ModelSpec, Weights]:
        """Without a fusion MLP, which comes with a task."""
        model = ClipDual(config, images=1, classes=0)
        load_towers(model, {name: value.float() for name, value in weights.items()}, str(file))
        towers = tuple(f"{name}." for name in model.towers)
        spec = ModelSpec(self.kind, config, "", 1, [], config.image_size, config.max_position_embeddings)
        return spec, {name: value for name, value in model.state_dict().items() if name.startswith(towers)}

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> ClipConfig:
        """heads: of texts and of images."""
        words, text_width = weights["token_embedding.weight"].shape
        vision_width, _, _, patch = weights["visual.conv1.weight"].shape
        side = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
        head_counts = heads_of({"text": Stack(CLIP_TEXT, text_width), "image": Stack(CLIP_IMAGE, vision_width)}, heads, file)
        return ClipConfig(
            hidden_size=len(weights["text_projection.bias"]),
            vocab_size=words,
            text_projection_bias=True,
            max_position_embeddings=len(weights["positional_embedding"]),
            num_hidden_layers=depth_of(weights, _TEXT),
            text_width=text_width,
            text_heads=head_counts["text"],
            text_feedforward=len(weights[f"{_TEXT}0.mlp.c_fc.bias"]),
            vision_layers=depth_of(weights, _IMAGE),
            vision_width=vision_width,
            vision_heads=head_counts["image"],
            vision_feedforward=len(weights[f"{_IMAGE}0.mlp.c_fc.bias"]),
            image_size=side * patch,
            patch_size=patch,
            pixel_mean=IMAGENET_MEAN,
            pixel_std=IMAGENET_STD,
            crop_ratio=_CROP,
        )


LAYOUT = DeclipLayout()
