"""A fusion baseline in the style of Pixel-BERT (Huang et al., 2020): one BERT over a text and the cells of a ResNet's last map,
the ResNet trained along (DiDE, Table 2, PixelBERT-R50).

As published: the map of C5 is pooled by the maximum of 2 x 2 cells; all cells share one vector that says what they are, and have
no position, which the network's padding and receptive fields give away; a training pass may draw some of an image's cells at
random (100, in the authors' pre-training alone). No weights are published, so it starts from a BERT and an ImageNet network.

Chosen here: canvases of one size in place of images of many, so that no cell is padding; a norm behind the projection of a cell,
as BERT's embeddings have it; one optimiser for all, where the authors train the network by SGD. Two images are two passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import LetterboxBatch, TextBatch
from vldistill.errors import InputError
from vldistill.models.base.bert import BertEncoder, BertPooler, RegionBertConfig, TextEmbeddings, encode
from vldistill.models.base.heads import classifier, init_weights, initial_std
from vldistill.models.base.letterbox_family import look
from vldistill.models.base.outputs import PairStates
from vldistill.models.base.region_student import JoinedStudent
from vldistill.models.base.weights import RANDOM, fetched
from vldistill.models.pixelbert.section import Pixels

_FETCH = "where there is a network: the same command with --dry-run; or set student.pixels.weights to a file, or to random"


@dataclass(frozen=True)
class PixelBertConfig(RegionBertConfig):
    """BERT's sizes (base, uncased), and those of the network (ResNet-50).

    region_size: width of a cell. network: its name in timm. image_mean, image_std: of pixels in [0, 1]. long_side: of the canvas,
    in pixels. sample: cells of an image that a training pass draws, 0 for all.
    """

    vocab_size: int = 30522
    network: str = "resnet50"
    image_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    image_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    long_side: int = 640
    sample: int = 0


class PixelNetwork(nn.Module):
    """The network up to its last map, and the pooling of 2 x 2 cells by their maximum behind it."""

    def __init__(self, config: PixelBertConfig):
        super().__init__()
        self.body = _created(config.network, pretrained=False)
        for name, values in (("mean", config.image_mean), ("std", config.image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, n, C] cells, row by row, of [N, 3, H, W] uint8."""
        grid = self.body.forward_features((pixels.to(self.mean.dtype) / 255 - self.mean) / self.std)
        return F.max_pool2d(grid, 2, ceil_mode=True).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class ReadNetwork:
    """A network, read. fields: of a `PixelBertConfig`. weights: of `PixelNetwork.body`; None for random ones."""

    fields: dict[str, Any]
    weights: dict[str, Tensor] | None


def read_network(model: str, weights: str | None) -> ReadNetwork:
    """A network of timm. weights: None for the published ones, a file, or "random". Raises InputError where it cannot be had, or
    makes no map."""
    import timm

    if not timm.is_model(model):
        raise InputError("is no model of timm", where=model, hint="for example student.pixels.model=resnet50")
    if weights not in (None, RANDOM) and not Path(weights).is_file():
        raise InputError("no such file", where=weights, hint="set student.pixels.weights to a file, to random, or leave it out")
    drawn = weights == RANDOM
    body = fetched(lambda: _created(model, pretrained=not drawn, file=None if drawn else weights), model, _FETCH)
    if not hasattr(body, "layer4"):
        raise InputError("is no ResNet", where=model, hint="choose a ResNet of timm, for example resnet50")
    norms = {f"image_{name}": list(body.pretrained_cfg[name]) for name in ("mean", "std")}
    return ReadNetwork({"network": model, "region_size": body.num_features, **norms}, None if drawn else body.state_dict())


def _created(name: str, *, pretrained: bool, file: str | None = None) -> nn.Module:
    import timm

    overlay = {"pretrained_cfg_overlay": {"file": file}} if file else {}
    return timm.create_model(name, pretrained=pretrained, num_classes=0, **overlay)


_BERT, _NETWORK = "bert.", "network.body."
CELL_TYPE = 1


class PixelEmbeddings(nn.Module):
    """Linear, + type, norm, dropout."""

    def __init__(self, config: PixelBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.region_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, cells: Tensor, kind: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(self.dense(cells) + kind))


class _Bert(nn.Module):
    def __init__(self, config: PixelBertConfig):
        super().__init__()
        self.embeddings, self.encoder = TextEmbeddings(config), BertEncoder(config)
        self.pooler = BertPooler(config.hidden_size)


class PixelBert(JoinedStudent):
    """BERT under the library's names (`bert.*`), the network (`network.body.*`, timm's), what joins them, and a head."""

    def __init__(self, config: PixelBertConfig, *, images: int, classes: int, target: str):
        super().__init__(config, target)
        self.bert, self.cells = _Bert(config), PixelEmbeddings(config)
        width = config.hidden_size
        init_weights(self, initial_std(width))
        self.classifier = classifier(width * images, width * 2, classes, width=width)
        # Behind it: a ResNet begins otherwise than BERT.
        self.network = PixelNetwork(config)

    def see(self, text: TextBatch, image: LetterboxBatch) -> tuple[Tensor, PairStates]:
        cells, rows = look(image, self.network)
        seen = self.cells(self._drawn(cells), self.bert.embeddings.token_type_embeddings.weight[CELL_TYPE])[rows]
        words = self.bert.embeddings(replace(text, segments=text.segments.clamp(max=1)))
        mask = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        encoded = encode(self.bert.encoder, torch.cat([words, seen], dim=1), [text.mask, mask], visual=mask)
        return torch.tanh(self.bert.pooler.dense(encoded.first)), encoded.view

    def _drawn(self, cells: Tensor) -> Tensor:
        """[I, n, C] of [I, N, C]: in training `sample` of them, in their order."""
        count = self.config.sample
        if not self.training or not 0 < count < cells.shape[1]:
            return cells
        chosen = torch.rand(cells.shape[:2], device=cells.device).topk(count, dim=1).indices.sort(dim=1).values
        return cells.gather(1, chosen[..., None].expand(-1, -1, cells.shape[-1]))


def new_config(
    bert: RegionBertConfig, pixels: Pixels, long_side: int, dropout: float
) -> tuple[PixelBertConfig, dict[str, Tensor] | None]:
    """The sizes of a student that puts a BERT and a network together, and the network's weights, None for random ones."""
    read = read_network(pixels.model, pixels.weights)
    sizes = {field.name: getattr(bert, field.name) for field in fields(RegionBertConfig)}
    sizes |= {"hidden_dropout_prob": dropout, **read.fields, "long_side": long_side, "sample": pixels.sample}
    return PixelBertConfig(**sizes), read.weights


def started(own: dict[str, Tensor], bert: dict[str, Tensor], network: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """All weights of a new student: what it was given, by name, the rest as drawn. own: as drawn. bert: {} for none. What is
    missing of a part that was given is left out, for `load_strict` to list."""
    given = [_BERT] * bool(bert) + [_NETWORK] * (network is not None)
    drawn = {name: value for name, value in own.items() if not name.startswith(tuple(given))}
    return {**drawn, **bert, **{f"{_NETWORK}{name}": value for name, value in (network or {}).items()}}
