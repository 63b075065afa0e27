"""VL-BERT (Su et al., 2020), base and large, with its heads for VCR and VQA, and one for SNLI-VE after them, which VL-BERT itself
has not; over precomputed regions, or with its image network trained end to end.

Parameter names are the official checkpoints' (`vlbert.*`, `image_feature_extractor.*`, `object_linguistic_embeddings`,
`cnn_loss_reg`). Every token is the sum of a linguistic and a visual embedding: a word's visual part is the region that its tag
names, else the whole image's. From pre-training it takes parts of heads over, and its segments.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import Batch, PixelBatch, RegionBatch, TextBatch
from vldistill.data.regions.network import ImageNetwork, make_stages, norms, region_features
from vldistill.data.regions.objects import BACKGROUND, CLASSES, UNKNOWN
from vldistill.models.base.bert import BertEncoder, BertPooler, BertStates, RegionBertConfig, encode
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.family import HEAD, below
from vldistill.models.base.fusion import by_record
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.models.base.region_student import RegionStudent

REGION_SEGMENT = 2
FREQUENCIES, BASE = 256, 1000.0


def box_code(boxes: Tensor) -> Tensor:
    """[..., 4] boxes as shares of the image to [..., 2048]: for centre x, centre y, width and height in percent, sines and then
    cosines at FREQUENCIES wavelengths from 1 to BASE."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    place = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1) * 100
    waves = BASE ** (torch.arange(FREQUENCIES, device=boxes.device, dtype=boxes.dtype) / FREQUENCIES)
    angles = place[..., None] / waves
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class RegionExtractor(nn.Module):
    """From box code and feature to a region's visual embedding; with `add_network`, from pixels to the features too."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        code = 4 * 2 * FREQUENCIES
        self.obj_downsample = nn.Sequential(nn.Dropout(0.1), nn.Linear(code + config.region_size, config.hidden_size), nn.ReLU())

    def add_network(self, network: ImageNetwork) -> None:
        self.backbone, self.roi_head_feature_extractor = make_stages(network)
        self.train(self.training)

    def train(self, mode: bool = True) -> RegionExtractor:
        """Batch norms stay as they are: a batch of few images says little of their statistics."""
        super().train(mode)
        for norm in norms(self):
            norm.eval()
        return self

    def see(self, image: RegionBatch | PixelBatch) -> RegionBatch:
        """The regions as they come, or those of the pixels."""
        return image if isinstance(image, RegionBatch) else region_features(self.backbone, self.roi_head_feature_extractor, image)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.obj_downsample(torch.cat([box_code(boxes), features], dim=-1))


class VisualLinguisticBert(nn.Module):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.end_embedding = nn.Embedding(1, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.embedding_LayerNorm = nn.LayerNorm(width, eps=eps)
        self.embedding_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.visual_ln_text, self.visual_ln_object = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.encoder, self.pooler = BertEncoder(config), BertPooler(width)

    def embed(
        self, text: TextBatch, beside_text: Tensor, regions: Tensor, linguistic: Tensor, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings [S, T + R + 1, D] of text, regions and [END], and the three masks. beside_text: [S, T, D] visual part of the
        text; regions: [S, R, D] visual part of the regions, `linguistic` their other part; mask: [S, R]."""
        end = self.end_embedding.weight[0].expand(len(regions), 1, -1)
        states = torch.cat(
            [self.word_embeddings(text.ids) + self.visual_ln_text(beside_text), self.visual_ln_object(regions) + linguistic, end],
            dim=1,
        )
        length = text.mask.sum(dim=1, keepdim=True)
        places = torch.arange(text.ids.shape[1], device=text.ids.device).expand_as(text.ids)
        # All regions share a position, right behind the text; [END] has the next one.
        positions = torch.cat([places, length.expand(-1, regions.shape[1]), length + 1], dim=1)
        segments = torch.cat([text.segments, torch.full_like(positions[:, text.ids.shape[1] :], REGION_SEGMENT)], dim=1)
        states = states + self.position_embeddings(positions) + self.token_type_embeddings(segments)
        masks = [text.mask, mask, torch.ones_like(mask[:, :1])]
        return self.embedding_dropout(self.embedding_LayerNorm(states)), masks


class AnswerTransform(nn.Module):
    """BERT's transform before its vocabulary: dense, GELU, norm."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(states)))


class ObjectTransform(nn.Module):
    """What is before the classes of objects: dense, GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class VlBert(RegionStudent):
    """VL-BERT with a head: on the pooled first token, or for VQA on the token before the last, where its text has a mask.

    network: what it sees pixels by, None over regions. With a loss on objects' classes its last layer also tells what each object
    is, lest the image network forgets it.
    """

    losses: ClassVar[dict[str, str]] = {"label": "label", "choice": "choice_bce"}

    def __init__(self, config: RegionBertConfig, *, classes: int, target: str, network: ImageNetwork | None = None):
        super().__init__(config, target)
        width = config.hidden_size
        self.uses_all_parameters = target != "answers"  # else not the pooler
        self.image_feature_extractor = RegionExtractor(config)
        self.object_linguistic_embeddings = nn.Embedding(1, width)
        self.vlbert = VisualLinguisticBert(config)
        transform = [AnswerTransform(config)] if target == "answers" else []
        self.classifier = nn.Sequential(*transform, nn.Dropout(config.hidden_dropout_prob), nn.Linear(width, classes))
        self.object_loss = network.object_loss if network else 0.0
        if self.object_loss:
            self.cnn_loss_reg = nn.Sequential(ObjectTransform(width), nn.Identity(), nn.Linear(width, len(CLASSES) + 1))
        init_weights(self, initial_std(width))
        # What a region looks like is mixed in little by little.
        for norm in (self.vlbert.visual_ln_text, self.vlbert.visual_ln_object):
            nn.init.zeros_(norm.weight)
        if network is not None:
            self.image_feature_extractor.add_network(network)

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> VlBert:
        return cls(spec.encoder, classes=spec.classes, target=spec.target, network=spec.image_network)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view, whose image is the whole image's token, the regions, and [END]."""
        text, regions = batch.text, with_whole(self.image_feature_extractor.see(batch.images[0]))
        seen = self.image_feature_extractor(regions.features, regions.boxes)
        rows = torch.arange(len(batch), device=seen.device).repeat_interleave(batch.choices)
        seen, mask = seen[rows], regions.mask[rows]
        # Tags count the objects from 0; a tag beyond the regions kept, or none, names the whole image.
        tagged = torch.where(text.tags + 1 < mask.sum(dim=1, keepdim=True), text.tags + 1, 0)
        beside_text = seen.gather(1, tagged[..., None].expand(-1, -1, seen.shape[-1]))
        states, masks = self.vlbert.embed(text, beside_text, seen, self.object_linguistic_embeddings.weight[0], mask)
        visual = torch.cat([masks[1], torch.zeros_like(masks[2])], dim=1)
        encoded = encode(self.vlbert.encoder, states, masks, visual=visual, capture=capture)
        named = self._named(encoded.parts[1], mask, batch.images[0], rows) if self.object_loss and self.training else {}
        return Output(by_record(self.classifier(self._answering(encoded, text)), batch), [encoded.view], auxiliary=named)

    def _named(self, states: Tensor, mask: Tensor, image: PixelBatch, rows: Tensor) -> dict[str, Tensor]:
        """The weighted cross-entropy of objects' classes, the whole image being background; mean over all sequences' regions.
        states: [S, 1 + R, D]; mask: [S, 1 + R]; rows: [S] the record of each."""
        classes = F.pad(image.classes[image.rows], (1, 0), value=BACKGROUND)[rows]
        logits = self.cnn_loss_reg(states[mask]).float()
        return {"objects": self.object_loss * F.cross_entropy(logits, classes[mask], ignore_index=UNKNOWN)}

    def _answering(self, encoded: BertStates, text: TextBatch) -> Tensor:
        """[S, D] what the head reads."""
        if self.target != "answers":
            return torch.tanh(self.vlbert.pooler.dense(encoded.first))
        place = text.mask.sum(dim=1) - 2
        return encoded.parts[0][torch.arange(len(place), device=place.device), place]


def with_whole(regions: RegionBatch) -> RegionBatch:
    """The whole image as the first region."""
    features = torch.cat([regions.whole[:, None], regions.features], dim=1)
    box = regions.boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(features), 1, 4)
    mask = torch.cat([torch.ones_like(regions.mask[:, :1]), regions.mask], dim=1)
    return RegionBatch(features, torch.cat([box, regions.boxes], dim=1), mask, regions.whole)


# Of a converted checkpoint: what fresh heads start from.
PRETRAINING = "pretraining."
RELATIONSHIP, TRANSFORM, OBJECTS = f"{PRETRAINING}relationship.", f"{PRETRAINING}transform.", f"{PRETRAINING}objects."
OBJECT_HEAD = "cnn_loss_reg."
_SEGMENTS = "vlbert.token_type_embeddings.weight"


def pretrained_head(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What heads of VL-BERT take over from pre-training: on VCR the direction from "does not belong to the image" to "does", on
    VQA the transform before the vocabulary; where objects are named, the transform before their classes."""
    target, own = getattr(model, "target", None), model.state_dict()
    taken = {f"{OBJECT_HEAD}0.{name}": value for name, value in below(weights, OBJECTS).items()}
    if target == "choice" and f"{RELATIONSHIP}weight" in weights:
        rows = {kind: weights[f"{RELATIONSHIP}{kind}"] for kind in ("weight", "bias")}
        taken |= {f"{HEAD}1.{kind}": values[1:] - values[:1] for kind, values in rows.items()}
    if target == "answers":
        taken |= {f"{HEAD}0.{name}": value for name, value in below(weights, TRANSFORM).items()}
    return {name: value for name, value in taken.items() if name in own or not name.startswith(OBJECT_HEAD)}


def alike_segments(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """VL-BERT's second segment was its caption's own; on VCR an answer starts as a question does."""
    table = weights[_SEGMENTS].clone()
    table[1] = table[0]
    return {**weights, _SEGMENTS: table}
