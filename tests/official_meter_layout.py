"""METER's official layout: random checkpoints in it, and its forward pass out of open_clip's blocks and transformers' layers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from transformers import BridgeTowerTextConfig, RobertaConfig, RobertaModel
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

WIDTH, LAYERS, INNER = 128, 2, 48
TEXT_WIDTH, TEXT_LAYERS, TEXT_INNER = 64, 2, 40
VISION_WIDTH, VISION_LAYERS, SIDE, PATCH = 128, 2, 3, 4
HEADS = "1,2,2"
"""Of text, image and co-attention."""
POSITIONS = 12
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def write_vocabulary(folder: Path) -> int:
    """A small RoBERTa's vocab.json and merges.txt; returns how many tokens it has."""
    merges = [("Ġ", "d"), ("o", "g"), ("Ġd", "og")]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz?.'Ġ", *("".join(pair) for pair in merges), "<mask>"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(tokens)


def _named(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def additive(mask: Tensor) -> Tensor:
    """[B, N] bool to what the library's attention adds to its scores, [B, 1, 1, N]."""
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]


class OfficialMeter(nn.Module):
    """Parameters under the official names. types: rows of the modality table, one more than images of a record."""

    def __init__(self, words: int, types: int = 2, head: str | None = None, outputs: int = 0, *, side: int = SIDE):
        super().__init__()
        block = [ResidualAttentionBlock(VISION_WIDTH, VISION_WIDTH // 64, act_layer=QuickGELU) for _ in range(VISION_LAYERS)]
        visual = _named(
            conv1=nn.Conv2d(3, VISION_WIDTH, PATCH, PATCH, bias=False),
            ln_pre=nn.LayerNorm(VISION_WIDTH),
            transformer=_named(resblocks=nn.ModuleList(block)),
            ln_post=nn.LayerNorm(VISION_WIDTH),
        )
        visual.class_embedding = nn.Parameter(torch.zeros(VISION_WIDTH))
        visual.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, VISION_WIDTH))
        self.vit_model = _named(visual=visual, ln_final=nn.LayerNorm(16))  # the latter of CLIP's text side, unused
        self.vit_model.positional_embedding = nn.Parameter(torch.zeros(7, 16))
        self.text_transformer = RobertaModel(
            RobertaConfig(
                vocab_size=words,
                hidden_size=TEXT_WIDTH,
                num_hidden_layers=TEXT_LAYERS,
                num_attention_heads=TEXT_WIDTH // 64,
                intermediate_size=TEXT_INNER,
                max_position_embeddings=POSITIONS + 2,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        )
        self.cross_modal_text_transform = nn.Linear(TEXT_WIDTH, WIDTH)
        self.cross_modal_image_transform = nn.Linear(VISION_WIDTH, WIDTH)
        self.token_type_embeddings = nn.Embedding(types, WIDTH)
        config = BridgeTowerTextConfig(
            hidden_size=WIDTH,
            num_attention_heads=WIDTH // 64,
            intermediate_size=INNER,
            layer_norm_eps=1e-12,
            attn_implementation="eager",
        )
        for stream in ("text", "image"):
            layers = nn.ModuleList(BridgeTowerBertCrossLayer(config) for _ in range(LAYERS))
            self.add_module(f"cross_modal_{stream}_layers", layers)
            self.add_module(f"cross_modal_{stream}_pooler", _named(dense=nn.Linear(WIDTH, WIDTH)))
        if head:
            self.add_module(
                head,
                nn.Sequential(
                    nn.Linear(2 * WIDTH * (types - 1), 2 * WIDTH),
                    nn.LayerNorm(2 * WIDTH),
                    nn.GELU(),
                    nn.Linear(2 * WIDTH, outputs),
                ),
            )
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape, generator=generator)
        self.eval()

    def embedded(self, ids: Tensor, mask: Tensor, pixels: Tensor, image_type: int = 1) -> tuple[Tensor, Tensor]:
        """What the co-attention layers read of texts [B, T] with their mask, and of images [B, 3, H, W], pixels in [0, 1]."""
        words = self.cross_modal_text_transform(self.text_transformer(ids, attention_mask=mask.long()).last_hidden_state)
        visual = self.vit_model.visual
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        patches = visual.conv1((pixels - mean) / std).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(patches), 1, -1)
        states = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
        for block in visual.transformer.resblocks:
            states = block(states)
        image = self.cross_modal_image_transform(visual.ln_post(states)) + self.token_type_embeddings.weight[image_type]
        return words + self.token_type_embeddings.weight[0], image

    def streams(self, ids: Tensor, mask: Tensor, pixels: Tensor, image_type: int = 1) -> tuple[Tensor, Tensor]:
        """Final states of both."""
        text, image = self.embedded(ids, mask, pixels, image_type)
        hide, show = additive(mask), torch.zeros(len(image), 1, 1, image.shape[1])
        for of_text, of_image in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            text, image = (of_text(text, image, hide, show)[0], of_image(image, text, show, hide)[0])
        return text, image

    def pooled(self, ids: Tensor, mask: Tensor, pixels: Tensor, image_type: int = 1) -> Tensor:
        """[B, 2 D]."""
        text, image = self.streams(ids, mask, pixels, image_type)
        return torch.cat(
            [
                torch.tanh(self.cross_modal_text_pooler.dense(text[:, 0])),
                torch.tanh(self.cross_modal_image_pooler.dense(image[:, 0])),
            ],
            dim=-1,
        )

    def weights(self) -> dict[str, Tensor]:
        """As a checkpoint has them, with RoBERTa's buffer of positions."""
        own = {name: value for name, value in self.state_dict().items() if not name.endswith("_ids")}
        return own | {"text_transformer.embeddings.position_ids": torch.arange(POSITIONS + 2)[None]}
