"""Small checkpoints of every kind that `convert` reads, in their published layouts, with random weights, written to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import official_meter_layout as meter
import torch
from official_declip_layout import official_declip
from official_vilt_layout import OfficialVilt
from tiny_oscar import CONFIG as OSCAR
from tiny_oscar import scrambled, write_vocabulary
from tiny_regions import CONFIG, WORDS, body, sized, write_words
from torch import Tensor

from vldistill.models.base.slip import SlipModel
from vldistill.models.clip_vil.model import ClipVil, ClipVilConfig
from vldistill.models.oscar.model import Oscar
from vldistill.models.uniter.model import Uniter
from vldistill.models.vlbert.model import VlBert

Words = list[str | Path]


def _vocabulary(folder: Path) -> Words:
    return ["--vocab", write_words(folder)]


def _vilt(folder: Path) -> Words:
    torch.save({"state_dict": OfficialVilt(len(WORDS), 3, "nlvr2_classifier", 2).weights()}, folder / "vilt.ckpt")
    return [folder / "vilt.ckpt", *_vocabulary(folder), "--case", "uncased", "--heads", "2"]


def _meter(folder: Path) -> Words:
    count = meter.write_vocabulary(folder / "roberta")
    torch.save({"state_dict": meter.OfficialMeter(count, 3, "nlvr2_classifier", 2).weights()}, folder / "meter.ckpt")
    return [folder / "meter.ckpt", "--vocab", folder / "roberta", "--heads", meter.HEADS]


def _oscar(folder: Path) -> Words:
    official = folder / "official"
    official.mkdir()
    torch.save(scrambled(Oscar(OSCAR, images=2, classes=2)).state_dict(), official / "pytorch_model.bin")
    (official / "config.json").write_text(
        json.dumps(
            {
                "num_attention_heads": OSCAR.num_attention_heads,
                "img_layer_norm_eps": 1e-5,
                "hidden_act": "gelu",
                "img_feature_dim": OSCAR.region_size + 6,
                "classifier": "mlp",
            }
        )
    )
    return [official, "--vocab", write_vocabulary(folder)]


def _uniter(folder: Path) -> Words:
    torch.save(body(Uniter(CONFIG, classes=1, target="label")), folder / "uniter.pt")
    return [folder / "uniter.pt", *_vocabulary(folder), "--heads", "1"]


def _vlbert(folder: Path) -> Words:
    config = sized(type_vocab_size=3)
    own = {f"module.{name}": value for name, value in body(VlBert(config, classes=1, target="label")).items()}
    torch.save(own, folder / "vlbert.model")
    return [folder / "vlbert.model", *_vocabulary(folder), "--case", "uncased", "--heads", "1"]


def _clip_vil(folder: Path) -> Words:
    tower = {"image_size": 64, "layers": [2, 1, 3, 1], "width": 4}
    config = ClipVilConfig(**(CONFIG.to_dict() | {"region_size": 128}), tower=tower, positions=9)
    own = body(ClipVil(config, classes=1, target="label"))
    torch.save({name: value for name, value in own.items() if name.startswith("bert.")}, folder / "clip_vil.pth")
    return [folder / "clip_vil.pth", *_vocabulary(folder), "--case", "uncased", "--heads", "1"]


def slip_weights(**options: int) -> dict[str, Tensor]:
    """Of a SLIP whose image network has these options, on the processes' wrapper."""
    sizes = {"width": 64, "layers": 1, "heads": 1, "shared": 8, "context": 12, "vocabulary": 49408}
    vision = {"embed_dim": 64, "depth": 1, "num_heads": 1, **options}
    model = SlipModel(architecture="vit_base_patch16_224", options=vision, **sizes)
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def _slip(folder: Path) -> Words:
    weights = slip_weights(img_size=32)
    weights["module.visual.pos_embed"] = torch.randn(1, 197, 64)  # the converter knows images of 224 pixels
    torch.save({"state_dict": weights}, folder / "slip.pt")
    return [folder / "slip.pt", "--heads", "1"]


def _declip(folder: Path) -> Words:
    torch.save({"model": official_declip(), "last_iter": 1}, folder / "declip.pth.tar")
    return [folder / "declip.pth.tar", "--heads", "1"]


OFFICIAL: dict[str, Callable[[Path], Words]] = {
    "vilt": _vilt,
    "meter": _meter,
    "oscar": _oscar,
    "uniter": _uniter,
    "vlbert": _vlbert,
    "clip_vil": _clip_vil,
    "slip": _slip,
    "declip": _declip,
}
"""Of each kind: writes one into a folder; the words that follow `convert KIND`, but for OUT."""
