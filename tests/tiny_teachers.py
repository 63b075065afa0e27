"""Small teachers on disk in the layouts that the libraries read, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vldistill.data.text import train_tokenizer

SIDE, PATCH = 24, 8
TEXTS = [["is", "there", "a", "red", "circle", "?"], ["two", "blue", "squares", "run"], ["the", "dog", "sleeps"]]


def write_vit(folder: Path, *, seed: int = 7) -> Path:
    """timm's layout: a ViT of two blocks, 16 wide, over 3 x 3 patches and a CLS token."""
    import timm

    arguments = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 16, "depth": 2, "num_heads": 2}
    config = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": arguments, "pretrained_cfg": config})
    )
    torch.manual_seed(seed)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments).state_dict(), folder / "model.safetensors")
    return folder


def write_bert(folder: Path, *, seed: int = 0) -> Path:
    """transformers' layout: a BERT of two layers, 16 wide."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(TEXTS, 120)
    tokenizer.save(folder)
    torch.manual_seed(seed)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer.vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=40,
        )
    ).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """open_clip's layout, without weights: two small towers."""
    towers = {
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": PATCH},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    }
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps(
            {
                "model_cfg": {"embed_dim": 8, "quick_gelu": True, **towers},
                "preprocess_cfg": {"size": [SIDE, SIDE], "mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]},
            }
        )
    )
    return folder


def write_grid_clip(folder: Path, *, vit: bool = False, seed: int = 3) -> Path:
    """open_clip's layout, with weights: a ResNet of one block a stage, 128 wide, or a ViT of two blocks, 64 wide; no weight is
    where it starts, so that every block counts."""
    import open_clip

    sizes = (
        {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": PATCH}
        if vit
        else {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4}
    )
    towers = {"vision_cfg": sizes, "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 64, "heads": 1, "layers": 1}}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps(
            {
                "model_cfg": {"embed_dim": 8, "quick_gelu": True, **towers},
                "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]},
            }
        )
    )
    torch.manual_seed(seed)
    network = open_clip.CLIP(embed_dim=8, quick_gelu=True, **towers)
    moved = {
        name: value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    save_file(moved, folder / "open_clip_model.safetensors")
    return folder
