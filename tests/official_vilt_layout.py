"""ViLT's official layout: random checkpoints in it, and its forward pass out of timm's blocks and the library's embeddings."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

WIDTH, HEADS, LAYERS, INNER, SIDE, PATCH, POSITIONS = 128, 2, 2, 48, 3, 4, 12
_EPS = 1e-12
_OLD_NAMES = {
    "attention.output.dense": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


class OfficialVilt(nn.Module):
    """Parameters under the official names."""

    def __init__(self, words: int, types: int, head: str | None = None, outputs: int = 0):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=_EPS)
        self.text_embeddings = BertEmbeddings(
            BertConfig(vocab_size=words, hidden_size=WIDTH, max_position_embeddings=POSITIONS, layer_norm_eps=_EPS)
        )
        self.token_type_embeddings = nn.Embedding(types, WIDTH)
        self.transformer = nn.Module()
        self.transformer.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.transformer.pos_embed = nn.Parameter(torch.zeros(1, SIDE**2 + 1, WIDTH))
        self.transformer.patch_embed = nn.Module()
        self.transformer.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.transformer.blocks = nn.ModuleList(
            Block(WIDTH, HEADS, INNER / WIDTH, qkv_bias=True, norm_layer=norm) for _ in range(LAYERS)
        )
        self.transformer.norm = norm(WIDTH)
        self.pooler = nn.Module()
        self.pooler.dense = nn.Linear(WIDTH, WIDTH)
        if head:
            self.add_module(
                head,
                nn.Sequential(
                    nn.Linear(types * WIDTH - WIDTH, 2 * WIDTH), nn.LayerNorm(2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, outputs)
                ),
            )
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
        self.eval()

    def pooled(self, ids: Tensor, pixels: Tensor, image_type: int = 1) -> Tensor:
        """[B, D] of unpadded texts [B, T] and images [B, 3, SIDE * PATCH, SIDE * PATCH]."""
        text = self.text_embeddings(ids) + self.token_type_embeddings.weight[0]
        body = self.transformer
        patches = body.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        image = torch.cat([body.cls_token.expand(len(patches), -1, -1), patches], dim=1) + body.pos_embed
        states = torch.cat([text, image + self.token_type_embeddings.weight[image_type]], dim=1)
        for block in body.blocks:
            states = block(states)
        return torch.tanh(self.pooler.dense(body.norm(states)[:, 0]))

    def weights(self) -> dict[str, Tensor]:
        """As an older checkpoint has them, with its buffer of positions."""
        own = {name: value for name, value in self.state_dict().items() if not name.endswith("_ids")}
        return own | {"text_embeddings.position_ids": torch.arange(POSITIONS)[None]}


def official_weights(library: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """The weights of a model in the library's layout, in the official one. head: what its classifier is called there."""
    found: dict[str, Tensor] = {}
    for name, value in library.items():
        name = name.removeprefix("vilt.")
        if name.startswith("encoder.layer."):
            layer, _, part = name.removeprefix("encoder.layer.").partition(".")
            module, kind = part.rsplit(".", 1)
            if module == "attention.attention.query":
                rows = [
                    library[f"vilt.encoder.layer.{layer}.attention.attention.{each}.{kind}"] for each in ("query", "key", "value")
                ]
                found[f"transformer.blocks.{layer}.attn.qkv.{kind}"] = torch.cat(rows)
            elif module in _OLD_NAMES:
                found[f"transformer.blocks.{layer}.{_OLD_NAMES[module]}.{kind}"] = value
            continue
        for new, old in (
            ("embeddings.text_embeddings.", "text_embeddings."),
            ("embeddings.cls_token", "transformer.cls_token"),
            ("embeddings.position_embeddings", "transformer.pos_embed"),
            ("classifier.", f"{head}."),
            ("embeddings.patch_embeddings.projection.", "transformer.patch_embed.proj."),
            ("embeddings.token_type_embeddings.", "token_type_embeddings."),
            ("layernorm.", "transformer.norm."),
        ):
            if name.startswith(new):
                name = old + name.removeprefix(new)
                break
        found[name] = value
    return found
