"""OSCAR (Li et al., 2020), which is VinVL's model too (Zhang et al., 2021), as a fusion model (a teacher of DiDE, the baseline
that becomes one), and the dual encoder that comes from it (DiDE, Fig. 3): a BERT over text alone, and one over regions alone.

A BERT whose sequence is the text, then the regions, each mapped from its feature and box by one Linear; regions have no
position and no segment. Parameter names are the official checkpoints' below `bert.`. A half is a tower of the dual encoder;
that of the regions has an [I_CLS] of its own, of which OSCAR has none. Heads are the official ones: on NLVR2, which is read in
two passes, (text, left) and (text, right), an MLP of the two pooled vectors; on tasks of one image a single Linear. Both have
dropout before them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import RegionBatch, TextBatch
from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import BertEncoder, BertPooler, BertStates, RegionBertConfig, TextEmbeddings, encode
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.outputs import NOTHING, Capture, Encoded, with_cls

BOX = 6
"""x1, y1, x2, y2, width, height, all as shares of the image's."""
CLS_TOKEN = "cls_token"


@dataclass(frozen=True)
class OscarConfig(RegionBertConfig):
    """Sizes, with the official names of what is OSCAR's own. region_size: of a region's feature without its box.
    use_img_layernorm: a norm of the mapped regions, which VinVL has. cls_hidden_scale: width of NLVR2's head, in widths of the
    encoder: 3 in base, 2 in large."""

    vocab_size: int = 30522
    use_img_layernorm: bool = False
    img_layer_norm_eps: float = 1e-12
    cls_hidden_scale: int = 3


def box_features(boxes: Tensor) -> Tensor:
    """[..., 4] x1, y1, x2, y2 to OSCAR's [..., 6]."""
    return torch.cat([boxes, boxes[..., 2:] - boxes[..., :2]], dim=-1)


class OscarEncoder(nn.Module):
    """Embeddings, post-norm Transformer and pooler; `text` and `image` say which halves it has."""

    words = "embeddings.word_embeddings.weight"
    types = positions = None

    def __init__(self, config: OscarConfig, *, text: bool = True, image: bool = True):
        super().__init__()
        self.config = config
        width = config.hidden_size
        if text:
            self.embeddings = TextEmbeddings(config)
        if image:
            self.img_embedding = nn.Linear(config.region_size + BOX, width)
            # VinVL's name for it.
            self.LayerNorm = nn.LayerNorm(width, eps=config.img_layer_norm_eps) if config.use_img_layernorm else nn.Identity()
        if image and not text:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder, self.pooler = BertEncoder(config), BertPooler(width)
        std = initial_std(width)
        init_weights(self, std)
        if image and not text:
            nn.init.trunc_normal_(self.cls_token, std=std)

    def encode_text(self, text: TextBatch, capture: Capture = NOTHING) -> Encoded:
        """The text alone, [B, T, D]."""
        return self.encoder(self.embeddings(text), text.mask, capture)

    def encode_image(self, image: RegionBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """The regions alone, [B, 1 + R, D], [I_CLS] first; an image's place in its record makes no difference.

        What is captured is of the regions alone, [B, H, R, d] and [B, R, D]: the teacher has no [I_CLS] to compare it with.
        """
        regions = self._regions(image)
        cls = self.cls_token.to(regions.dtype).expand(len(regions), -1, -1)
        output = self.encoder(self.dropout(torch.cat([cls, regions], dim=1)), with_cls(image.mask), capture)
        qk = {layer: (query[:, :, 1:], key[:, :, 1:]) for layer, (query, key) in output.qk.items()}
        return Encoded(output.hidden, qk, {layer: states[:, 1:] for layer, states in output.layers.items()})

    def encode_pair(self, text: TextBatch, image: RegionBatch, capture: Capture = NOTHING) -> BertStates:
        """Text and regions in one sequence, parts [B, T, D] and [B, R, D]; padding makes no difference."""
        states = torch.cat([self.embeddings(text), self.dropout(self._regions(image))], dim=1)
        return encode(self.encoder, states, [text.mask, image.mask], visual=image.mask, capture=capture)

    @staticmethod
    def of_other_half(name: str) -> bool:
        """Whether a whole encoder's weight has no place in one of its halves."""
        return name.startswith(("embeddings.", "img_embedding.", "LayerNorm."))

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, S, D] to [B, D]: dense and tanh of the first token."""
        return self.pooler(hidden)

    def _regions(self, image: RegionBatch) -> Tensor:
        """[B, R, D]."""
        boxes = box_features(image.boxes).to(image.features.dtype)
        return self.LayerNorm(self.img_embedding(torch.cat([image.features, boxes], dim=-1)))


class Oscar(Fusion):
    """OSCAR, with heads on the pooled [CLS]."""

    towers = ("bert",)

    def __init__(self, config: OscarConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            OscarEncoder(config), config, pooled=config.hidden_size, images=images, classes=classes, pretraining=pretraining
        )

    def head(self, inputs: int, hidden: int, classes: int) -> nn.Module:
        width, dropout = self.config.hidden_size, self.config.hidden_dropout_prob
        if inputs == width:
            return Head(dropout, nn.Linear(inputs, classes))
        hidden = width * self.config.cls_hidden_scale
        return Head(dropout, nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def read(self, text: TextBatch, image: RegionBatch, position: int, capture: Capture) -> FusionStates:
        encoded = self.bert.encode_pair(text, image, capture)
        words = encoded.parts[0]
        return FusionStates(self.bert.pool(words), words, encoded.view)


class Head(nn.Sequential):
    """Layers behind a dropout, which has no place among their names."""

    def __init__(self, dropout: float, *layers: nn.Module):
        super().__init__(*layers)
        self._dropout = dropout
        init_weights(self, initial_std(layers[0].in_features))

    def forward(self, pooled: Tensor) -> Tensor:
        return super().forward(F.dropout(pooled, self._dropout, self.training))


class OscarDual(DualEncoder):
    """Each tower is a half of an OSCAR: its embeddings, all its layers and its pooler.

    The image's representation is the output of a learned [I_CLS] before the regions. OSCAR has no such token, so views are of
    the regions alone: [I_CLS] is neither a query nor a key of the attention that is compared, as little as its states are.
    """

    image_cls_in_views = False

    def __init__(self, config: OscarConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            OscarEncoder(config, image=False),
            OscarEncoder(config, text=False),
            images=images,
            classes=classes,
            pretraining=pretraining,
        )

    def new_weights(self, tower: str, weights: dict[str, Tensor], tokenizer: WordTokenizer) -> dict[str, Tensor]:
        """[I_CLS] starts as the embedding of the text's [CLS], the token that all layers and the pooler know to read from."""
        if tower != "image_encoder":
            return {}
        tables = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
        first = sum(weights[table][row] for table, row in zip(tables, (tokenizer.cls_id, 0, 0), strict=True))
        norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]
        eps = self.text_encoder.config.layer_norm_eps
        return {CLS_TOKEN: nn.functional.layer_norm(first, first.shape, *norm, eps)[None, None]}
