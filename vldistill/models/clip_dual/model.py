"""CLIP (Radford et al., 2021), SLIP (Mu et al., 2021) and DeCLIP (Li et al., 2022): two towers, each giving one vector of the
space that they share, and DiDE's fusion MLP and heads on these vectors (its Table 2).

Text: a causal Transformer, read at the end token. Image: a Vision Transformer, read at its CLS; SLIP's is timm's. Parameter
names are the published checkpoints'. What these hold beside the towers (the temperature `logit_scale`, heads of
self-supervision) has no place here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.data.transforms import MEAN, STD
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.outputs import NOTHING, Capture, Encoded
from vldistill.models.encoders.model import pixels_of
from vldistill.models.meter.parts import CLIP_MEAN, CLIP_STD

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QUICK_GELU, GELU = "quick_gelu", "gelu"
CLIP_VISION, TIMM_VISION = "clip", "timm"
_NAME = "vit_base_patch16_224"  # a name that timm knows; every size is overridden


@dataclass(frozen=True)
class ClipConfig(ModelConfig):
    """Sizes; the defaults are CLIP ViT-B/32's. hidden_size: of the shared space, which is the width of both vectors.
    num_hidden_layers: of the text. vision: "clip", OpenAI's layout, or "timm", whose activation is GELU. image_size: of the
    square that is cut out of an image whose shorter side is image_size / crop_ratio, and that the position table is for.
    pixel_mean, pixel_std: of pixels in [0, 1]. All images are resized bicubically, though SLIP's and DeCLIP's authors do so
    bilinearly."""

    hidden_size: int = 512
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    num_hidden_layers: int = 12
    text_width: int = 512
    text_heads: int = 8
    text_feedforward: int = 2048
    text_activation: str = QUICK_GELU
    text_projection_bias: bool = False
    vision: str = CLIP_VISION
    vision_layers: int = 12
    vision_width: int = 768
    vision_heads: int = 12
    vision_feedforward: int = 3072
    vision_activation: str = QUICK_GELU
    image_size: int = 224
    patch_size: int = 32
    pixel_mean: tuple[float, ...] = CLIP_MEAN
    pixel_std: tuple[float, ...] = CLIP_STD
    crop_ratio: float = 1.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipConfig:
        pixels = {name: tuple(values[name]) for name in ("pixel_mean", "pixel_std") if name in values}
        return super().from_dict({**values, **pixels})

    def described(self) -> dict[str, Any]:
        return {
            "vision": f"{self.vision_layers} x {self.vision_width}",
            "shared": self.hidden_size,
            "text": f"{self.num_hidden_layers} x {self.text_width}",
        }


class ClipTextTower(nn.Module):
    """The text. Its vector is all that is kept of its states, so nothing of them is captured."""

    words, types, positions = "token_embedding.weight", None, None

    def __init__(self, config: ClipConfig):
        super().__init__()
        from open_clip.transformer import Transformer

        self.config, width, context = config, config.text_width, config.max_position_embeddings
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(
            width,
            config.num_hidden_layers,
            config.text_heads,
            act_layer=_activation(config.text_activation),
            mlp_ratio=_ratio(config.text_feedforward, width),
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = (
            nn.Linear(width, config.hidden_size)
            if config.text_projection_bias
            else nn.Parameter(torch.empty(width, config.hidden_size))
        )
        self.register_buffer("attn_mask", torch.full((context, context), float("-inf")).triu_(1), persistent=False)
        _initialise(self, width)

    def encode_text(self, text: TextBatch, capture: Capture = NOTHING) -> Encoded:
        """[B, 1, D]: the vector alone, that of the last token which the mask has. Padding stands behind it and is not seen."""
        length = text.ids.shape[1]
        states = self.token_embedding(text.ids) + self.positional_embedding[:length]
        states = self.transformer(states, attn_mask=self.attn_mask[:length, :length])
        last = text.mask.sum(dim=1) - 1
        state = self.ln_final(states[torch.arange(len(states), device=states.device), last])
        linear = isinstance(self.text_projection, nn.Linear)
        vector = self.text_projection(state) if linear else state @ self.text_projection
        return Encoded(vector[:, None], {}, {})

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, 1, D] to [B, D]."""
        return hidden[:, 0]

    def of_other_half(self, name: str) -> bool:
        """Nothing: published towers are told apart before they are loaded."""
        return False


class ClipImageTower(nn.Module):
    """The image. Its vector is all that is kept of its states, so nothing of them is captured."""

    words, types = None, None

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config, width = config, config.vision_width
        ratio = _ratio(config.vision_feedforward, width)
        if config.vision == TIMM_VISION:
            import timm

            self.visual = timm.create_model(
                _NAME,
                pretrained=False,
                num_classes=0,
                img_size=config.image_size,
                patch_size=config.patch_size,
                embed_dim=width,
                depth=config.vision_layers,
                num_heads=config.vision_heads,
                mlp_ratio=ratio,
            )
            self.image_projection = nn.Parameter(torch.empty(width, config.hidden_size))
            self.positions = "visual.pos_embed"
        else:
            from open_clip.transformer import VisionTransformer

            self.visual = VisionTransformer(
                config.image_size,
                config.patch_size,
                width,
                config.vision_layers,
                config.vision_heads,
                ratio,
                output_dim=config.hidden_size,
                act_layer=_activation(config.vision_activation),
            )
            self.positions = "visual.positional_embedding"
        # From pixels in [-1, 1] to the model's own normalisation.
        for name, values in (
            ("scale", [STD / std for std in config.pixel_std]),
            ("shift", [(MEAN - mean) / std for mean, std in zip(config.pixel_mean, config.pixel_std, strict=True)]),
        ):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        _initialise(self, width)

    def encode_image(self, image: ImageBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """[B, 1, D]: the vector alone, the same at each place of a record."""
        pixels = pixels_of(image) * self.scale + self.shift
        if self.config.vision == TIMM_VISION:
            vector = self.visual.forward_features(pixels)[:, 0] @ self.image_projection
        else:
            vector = self.visual(pixels)
        return Encoded(vector[:, None], {}, {})

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, 1, D] to [B, D]."""
        return hidden[:, 0]

    def of_other_half(self, name: str) -> bool:
        """See `ClipTextTower`."""
        return False


def _activation(name: str) -> type[nn.Module]:
    from open_clip.transformer import QuickGELU

    return {QUICK_GELU: QuickGELU, GELU: nn.GELU}[name]


def _ratio(feedforward: int, width: int) -> float:
    """Of which the libraries take the whole part, times the width: half a unit more, so that rounding takes nothing away."""
    return (feedforward + 0.5) / width


def _initialise(tower: nn.Module, width: int) -> None:
    """Fresh weights, CLIP's own draws in proportion to the width: what is no Linear, convolution, table or norm is a parameter of
    its own."""
    std = initial_std(width)
    init_weights(tower, std)
    for name, value in tower.named_parameters():
        if name.endswith(("embedding", "projection", "proj", "cls_token", "pos_embed", "in_proj_weight")):
            nn.init.normal_(value, std=std)
        elif name.endswith("in_proj_bias"):
            nn.init.zeros_(value)


class ClipDual(DualEncoder):
    """Both towers as they were pre-trained, projections included: the fusion MLP, and the cosine of retrieval, read the vectors
    of the shared space. No fusion model of this kind could teach it, so it learns from labels or by contrast alone."""

    def __init__(self, config: ClipConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(ClipTextTower(config), ClipImageTower(config), images=images, classes=classes, pretraining=pretraining)
