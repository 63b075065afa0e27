"""A small DeCLIP in its published layout, with random weights, and its forward pass written out, to convert and compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, LAYERS, SHARED, CONTEXT, WORDS = 64, 2, 24, 14, 49409
PATCH, SIDE = 4, 3
HEADS = 1
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def official_declip(seed: int = 0) -> dict[str, Tensor]:
    """Both towers and all that the trainer keeps beside them."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float = 0.1) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    weights = {
        "logit_scale": torch.full((1,), 2.66),
        "visual.class_embedding": drawn(WIDTH),
        "visual.positional_embedding": drawn(SIDE**2 + 1, WIDTH),
        "visual.proj": drawn(WIDTH, SHARED),
        "visual.conv1.weight": drawn(WIDTH, 3, PATCH, PATCH),
        "encode_text.positional_embedding": drawn(CONTEXT, WIDTH),
        "encode_text.token_embedding.weight": drawn(WORDS, WIDTH),
        "encode_text.text_projection.weight": drawn(SHARED, WIDTH),
        "encode_text.text_projection.bias": drawn(SHARED),
        "text_label_predictor.weight": drawn(7, WIDTH),
        "text_label_predictor.bias": drawn(7),
    }
    for norm in ("visual.ln_pre", "visual.ln_post", "encode_text.ln_final"):
        weights |= {f"{norm}.weight": 1 + drawn(WIDTH), f"{norm}.bias": drawn(WIDTH)}
    for place in (f"{tower}.transformer.resblocks.{layer}" for tower in ("visual", "encode_text") for layer in range(LAYERS)):
        weights |= {
            f"{place}.attn.in_proj_weight": drawn(3 * WIDTH, WIDTH),
            f"{place}.attn.in_proj_bias": drawn(3 * WIDTH),
            f"{place}.attn.out_proj.weight": drawn(WIDTH, WIDTH),
            f"{place}.attn.out_proj.bias": drawn(WIDTH),
            f"{place}.mlp.c_fc.weight": drawn(4 * WIDTH, WIDTH),
            f"{place}.mlp.c_fc.bias": drawn(4 * WIDTH),
            f"{place}.mlp.c_proj.weight": drawn(WIDTH, 4 * WIDTH),
            f"{place}.mlp.c_proj.bias": drawn(WIDTH),
        }
        for norm in ("ln_1", "ln_2"):
            weights |= {f"{place}.{norm}.weight": 1 + drawn(WIDTH), f"{place}.{norm}.bias": drawn(WIDTH)}
    for head in ("projector.linear1", "projector.bn1", "predictor.layer2"):
        weights |= {f"{head}.weight": drawn(5), f"{head}.bias": drawn(5)}
    weights["projector.bn1.num_batches_tracked"] = torch.tensor(3)
    return {f"module.{name}": value for name, value in weights.items()}


def text_vectors(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """[B, T] padded with zeros to [B, D]: the state of the largest id, which is the end token's, projected."""
    own = {name.removeprefix("module.encode_text."): value for name, value in weights.items()}
    states = own["token_embedding.weight"][ids] + own["positional_embedding"][: ids.shape[1]]
    hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    states = _norm(_blocks(states, own, hidden), own, "ln_final")[torch.arange(len(ids)), ids.argmax(dim=1)]
    return states @ own["text_projection.weight"].T + own["text_projection.bias"]


def image_vectors(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] to [B, D]."""
    own = {name.removeprefix("module.visual."): value for name, value in weights.items()}
    seen = F.conv2d((pixels - MEAN[:, None, None]) / STD[:, None, None], own["conv1.weight"], stride=PATCH).flatten(2).mT
    states = torch.cat([own["class_embedding"].expand(len(seen), 1, -1), seen], dim=1) + own["positional_embedding"]
    states = _blocks(_norm(states, own, "ln_pre"), own, None)
    return _norm(states[:, 0], own, "ln_post") @ own["proj"]


def _norm(states: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * own[f"{name}.weight"] + own[f"{name}.bias"]


def _blocks(states: Tensor, own: dict[str, Tensor], hidden: Tensor | None) -> Tensor:
    """hidden: [T, T], True where a token must not look."""
    for layer in range(LAYERS):
        part = {name.removeprefix(f"transformer.resblocks.{layer}."): value for name, value in own.items()}
        query, key, value = (_norm(states, part, "ln_1") @ part["attn.in_proj_weight"].T + part["attn.in_proj_bias"]).chunk(3, -1)
        scores = query @ key.mT / (WIDTH / HEADS) ** 0.5
        scores = scores if hidden is None else scores.masked_fill(hidden, float("-inf"))
        states = states + scores.softmax(-1) @ value @ part["attn.out_proj.weight"].T + part["attn.out_proj.bias"]
        inner = _norm(states, part, "ln_2") @ part["mlp.c_fc.weight"].T + part["mlp.c_fc.bias"]
        states = states + inner * torch.sigmoid(1.702 * inner) @ part["mlp.c_proj.weight"].T + part["mlp.c_proj.bias"]
    return states
