"""VL-BERT, over the regions of a store or end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import Checkpoint, Config, ModelSpec
from vldistill.models.base.family import HEAD, Family, StudentRequest
from vldistill.models.base.region_student import region_sizes
from vldistill.models.vlbert.model import OBJECT_HEAD, PRETRAINING, VlBert, alike_segments, pretrained_head
from vldistill.models.vlbert.network import NETWORK, fitted_network, network_weights
from vldistill.models.vlbert.section import VlBertSection
from vldistill.models.vlbert.texts import VlBertLayout


class VlBertFamily(Family):
    section = VlBertSection
    model = VlBert
    config = RegionBertConfig
    text_layout = VlBertLayout
    one_image = True
    one_stream = True

    def spec(self, request: StudentRequest, encoder: Config) -> ModelSpec:
        return replace(super().spec(request, encoder), image_network=_network(request))

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> RegionBertConfig:
        network = _network(request)
        return region_sizes(RegionBertConfig, replace(request, region_size=network.features) if network else request, tokenizer)

    def fresh(self, model: nn.Module, request: StudentRequest) -> dict[str, Tensor]:
        return network_weights(model, {}, request.section.image_network.weights, "a student from scratch")

    def fitted_spec(self, encoder: Config, request: StudentRequest, initial: ModelSpec, where: str) -> ModelSpec:
        network = fitted_network(_network(request), request.section.image_network.weights, initial, where)
        return replace(super().fitted_spec(encoder, request, initial, where), image_network=network)

    def continued(self, model: Any, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        weights, others = checkpoint.weights, (HEAD, OBJECT_HEAD, PRETRAINING, *NETWORK)
        body = {name: value for name, value in weights.items() if not name.startswith(others)}
        fresh = {**model.state_dict(), **pretrained_head(weights, model)}
        head = {name: value for name, value in (weights if keep_head else fresh).items() if name.startswith(HEAD)}
        objects = {name: weights.get(name, value) for name, value in fresh.items() if name.startswith(OBJECT_HEAD)}
        network = network_weights(model, weights, request.section.image_network.weights, str(checkpoint.folder))
        if model.target == "choice" and not checkpoint.spec.task:
            body = alike_segments(body)
        return {**body, **head, **objects, **network}


def _network(request: StudentRequest) -> ImageNetwork | None:
    """Through which it sees by itself; None where it reads a store."""
    section = request.section
    return ImageNetwork.from_dict(section.image_network.model_dump(exclude={"weights"})) if section.own_features else None
