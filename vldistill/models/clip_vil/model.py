"""CLIP-ViL (Shen et al., 2021, "How Much Can CLIP Benefit Vision-and-Language Tasks?"): one BERT over a text and the grid
features of CLIP's image network, which is trained along. ADVL compares its students with it.

Published, in the authors' code: BERT-base, uncased, over [CLS] text [SEP], all of segment 0, and all cells of the map before
the attention pooling of CLIP's RN50 or RN50x4, 12 x 20 of a canvas (see `data.visual`). A cell is its feature plus a learned
vector for its row and one for its column (25 each), then Linear, norm, dropout; it has no segment and is never masked. The head
reads the first token through BERT's pooler without the tanh: Linear to twice the width, GELU, norm, Linear. VQA is trained by
binary cross-entropy, SNLI-VE by cross-entropy, the batch norms by the statistics of the batch. Parameter names are those of the
authors' checkpoints (`bert.*`), whose BERT was pre-trained on images and texts: the p of CLIP-ViL_p.

Chosen here: VCR, for which there is no code. Each choice is a sequence, [CLS] question [SEP] answer [SEP], from the second part
on in BERT's segment 1; it has one logit, and the four share a softmax; a tag is only named ("person1"), as no region stands for
it. The cells of a Vision Transformer have the same two vectors, and its CLS is left out. One optimiser trains all, as ADVL tells
it; the authors have SGD of another rate for the image network.

A ResNet of CLIP sees canvases of any size; a Vision Transformer, whose positions are a table, square ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, LetterboxBatch
from vldistill.errors import InputError
from vldistill.models.base.bert import BertEncoder, BertPooler, RegionBertConfig, TextEmbeddings, encode
from vldistill.models.base.clip import load_open_clip, published
from vldistill.models.base.fusion import by_record
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.letterbox_family import look
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.models.base.region_student import RegionStudent
from vldistill.models.base.weights import RANDOM, fetched, weights_file

RESNET_STRIDE = 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, of pixels in [0, 1]."""
_FETCH = "where there is a network: the same command with --dry-run; or give a local folder"


@dataclass(frozen=True)
class ClipVilConfig(RegionBertConfig):
    """BERT's sizes (base, uncased), and those of CLIP's image network (RN50x4).

    region_size: width of a cell. tower, quick_gelu: open_clip's `vision_cfg` and its activation. image_mean, image_std: of pixels
    in [0, 1]. long_side: of the canvas, in pixels. positions: rows, and columns, that have an embedding. frozen: the image
    network does not learn. batch_statistics: in training its batch norms use those of the batch, and keep a running mean.
    """

    vocab_size: int = 30522
    region_size: int = 2560
    tower: dict[str, Any] = field(default_factory=lambda: {"image_size": 288, "layers": [4, 6, 10, 6], "width": 80})
    quick_gelu: bool = False
    image_mean: list[float] = field(default_factory=lambda: list(MEAN))
    image_std: list[float] = field(default_factory=lambda: list(STD))
    long_side: int = 640
    positions: int = 25
    frozen: bool = False
    batch_statistics: bool = True


class GridTower(nn.Module):
    """The image network without its pooling and projection, which would learn nothing."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        import open_clip

        nobody = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        self.visual = open_clip.CLIP(1, config.tower, nobody, config.quick_gelu).visual
        setattr(self.visual, "attnpool" if is_resnet(config.tower) else "proj", None)
        for name, values in (("mean", config.image_mean), ("std", config.image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.frozen, self.batch_statistics = config.frozen, config.batch_statistics
        self.requires_grad_(not config.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> GridTower:
        """Keeps still what is frozen."""
        super().train(mode and not self.frozen)
        if not self.batch_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, h, w] of [N, 3, H, W] uint8."""
        values = (pixels / 255 - self.mean) / self.std
        outputs = self.visual.forward_intermediates(values, indices=1, normalize_intermediates=True, intermediates_only=True)
        return outputs["image_intermediates"][-1]


@dataclass(frozen=True)
class ReadTower:
    """A CLIP's image network, read. fields: of a `ClipVilConfig`. weights: of `GridTower.visual`; None for random ones."""

    fields: dict[str, Any]
    weights: dict[str, Tensor] | None


def read_tower(model: str, weights: str | None, short: int, long: int) -> ReadTower:
    """The image network of a CLIP (see `load_open_clip`) for canvases of short x long pixels. Raises InputError where it cannot
    be had, or does not fit the canvas."""
    whole = fetched(lambda: _configuration(model), model, _FETCH)
    sizes = {name: value for name, value in whole["vision_cfg"].items() if value is not None}
    if sizes.get("timm_model_name") or sizes.get("attentional_pool"):
        raise InputError("has no image network of CLIP's own", where=model, hint="choose a ResNet or ViT of open_clip")
    check_canvas(sizes, short, long)
    options = {}
    if not is_resnet(sizes):
        sizes["image_size"] = options["force_image_size"] = short  # its table of positions is resized to the canvas
    quick, transform, tower_weights = whole.get("quick_gelu", False), whole.get("preprocess_cfg", {}), None
    if weights != RANDOM:
        if Path(model).is_dir():
            weights_file(Path(model))
        elif not Path(weights or "").is_file():
            quick = quick or published(model, weights).get("quick_gelu", False)
        network, _ = fetched(lambda: load_open_clip(model, weights, **options), model, _FETCH)
        transform = network.visual.preprocess_cfg
        tower_weights = {
            name: value for name, value in network.visual.state_dict().items() if not name.startswith(("attnpool.", "proj"))
        }
    return ReadTower(
        {
            "tower": sizes,
            "quick_gelu": bool(quick),
            "region_size": sizes["width"] * (32 if is_resnet(sizes) else 1),
            "image_mean": list(transform.get("mean", MEAN)),
            "image_std": list(transform.get("std", STD)),
        },
        tower_weights,
    )


def is_resnet(sizes: dict[str, Any]) -> bool:
    """sizes: open_clip's `vision_cfg`."""
    return isinstance(sizes["layers"], list | tuple)


def check_canvas(sizes: dict[str, Any], short: int, long: int) -> None:
    """Raises InputError where the image network cannot see a canvas of short x long pixels."""
    cell = RESNET_STRIDE if is_resnet(sizes) else sizes["patch_size"]
    if short > long or short % cell or long % cell:
        raise InputError(
            f"a canvas of {short} x {long} pixels does not fit cells of {cell}",
            hint=f"set image.size and image.long_side to multiples of {cell}, the second not the smaller one",
        )
    if not is_resnet(sizes) and short != long:
        raise InputError(
            f"a canvas of {short} x {long} pixels is not square, as this CLIP's ViT needs it", hint=f"set image.long_side={short}"
        )


def _configuration(model: str) -> dict[str, Any]:
    """open_clip's, of a name or of a folder in its layout."""
    import open_clip

    if Path(model).is_dir():
        read = json.loads((Path(model) / "open_clip_config.json").read_text(encoding="utf-8"))
        return {**read["model_cfg"], "preprocess_cfg": read.get("preprocess_cfg", {})}
    config = open_clip.get_model_config(model)
    if config is None:
        raise InputError("is no model of open_clip, and no folder", where=model, hint="for example RN50x4")
    return config


class GridPositions(nn.Module):
    """A vector for each row (x, as the checkpoints name it) and one for each column (y)."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.x_position_embedding = nn.Embedding(config.positions, config.region_size)
        self.y_position_embedding = nn.Embedding(config.positions, config.region_size)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] to [N, h * w, C], row by row."""
        rows, columns = features.shape[2:]
        places = self.x_position_embedding.weight[:rows, None] + self.y_position_embedding.weight[:columns]
        return (features.permute(0, 2, 3, 1) + places).flatten(1, 2)


class CellEmbeddings(nn.Module):
    """Linear, norm, dropout."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.visn_fc = nn.Linear(config.region_size, config.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, cells: Tensor, rows: Tensor) -> Tensor:
        """[S, N, D] of [I, N, C]; rows: [S] the image of each."""
        return self.dropout(self.visn_layer_norm(self.visn_fc(cells))[rows])


class ClipVilEncoder(BertEncoder):
    """BERT's layers, and what makes the visual tokens."""

    def __init__(self, config: ClipVilConfig):
        super().__init__(config)
        self.visual_pos, self.visn_fc = GridPositions(config), CellEmbeddings(config)

    def see(self, image: LetterboxBatch) -> Tensor:
        """[S, N, D], each image seen once."""
        return self.visn_fc(*look(image, lambda pixels: self.visual_pos(self.visual_model(pixels))))


class ClipVilModel(nn.Module):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.embeddings, self.encoder = TextEmbeddings(config), ClipVilEncoder(config)
        self.pooler = BertPooler(config.hidden_size)


class ClipVil(RegionStudent):
    """CLIP-ViL with a head for a task of one image: `classes` outputs, one for each choice."""

    def __init__(self, config: ClipVilConfig, *, classes: int, target: str):
        super().__init__(config, target)
        self.bert = ClipVilModel(config)
        width = config.hidden_size
        self.classifier = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width, eps=config.layer_norm_eps),
            nn.Linear(2 * width, classes),
        )
        init_weights(self, initial_std(width))
        # Behind it: CLIP's networks begin otherwise than BERT.
        self.bert.encoder.visual_model = GridTower(config)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view, whose image are the cells."""
        text, model = batch.text, self.bert
        seen = model.encoder.see(batch.image_for_each_text(0))
        words = model.embeddings(replace(text, segments=text.segments.clamp(max=1)))
        cells = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        encoded = encode(model.encoder, torch.cat([words, seen], dim=1), [text.mask, cells], visual=cells, capture=capture)
        return Output(by_record(self.classifier(model.pooler.dense(encoded.first)), batch), [encoded.view])
