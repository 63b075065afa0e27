"""A fusion baseline in the style of Pixel-BERT (Huang et al., 2020): one BERT over a text and the cells of a ResNet's last map,
the ResNet trained along (DiDE, Table 2, PixelBERT-R50).

As published: the map of C5 is pooled by the maximum of 2 x 2 cells; all cells share one vector that says what they are, and have
no position, which the network's padding and receptive fields give away; a training pass may draw some of an image's cells at
random (100, in the authors' pre-training alone). No weights are published, so it starts from a BERT and an ImageNet network.

Chosen here: canvases of one size in place of images of many, so that no cell is padding; a norm behind the projection of a cell,
as BERT's embeddings have it; one optimiser for all, where the authors train the network by SGD. Two images are two passes.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from vldistill.data.batch import CanvasBatch, TextBatch
from vldistill.models.base.bert import BertEncoder, BertPooler, RegionBertConfig, TextEmbeddings, encode
from vldistill.models.base.canvases import look
from vldistill.models.base.heads import classifier, init_weights, initial_std
from vldistill.models.base.outputs import View
from vldistill.models.base.region_student import JoinedStudent
from vldistill.models.pixelbert.network import PixelBertConfig, PixelNetwork, read_network
from vldistill.models.pixelbert.section import Pixels

_BERT, _NETWORK = "bert.", "network.body."
CELL_TYPE = 1


class CellEmbeddings(nn.Module):
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
        self.bert, self.cells = _Bert(config), CellEmbeddings(config)
        width = config.hidden_size
        init_weights(self, initial_std(width))
        self.classifier = classifier(width * images, width * 2, classes, width=width)
        # Behind it: a ResNet begins otherwise than BERT.
        self.network = PixelNetwork(config)

    def see(self, text: TextBatch, image: CanvasBatch) -> tuple[Tensor, View]:
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
