"""VL-BERT, over the regions of a store or end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import Checkpoint, Config, ModelSpec
from vldistill.models.base.family import HEAD, Family
from vldistill.models.base.region_sizes import region_sizes
from vldistill.models.base.request import Sizes, StudentRequest
from vldistill.models.vlbert.model import VlBert
from vldistill.models.vlbert.network import NETWORK, fitted_network, network_weights
from vldistill.models.vlbert.start import OBJECT_HEAD, PRETRAINING, alike_segments, pretrained_head
from vldistill.models.vlbert.texts import VlBertLayout


class VlBertFamily(Family):
    kind = "vlbert"
    model = VlBert
    config = RegionBertConfig
    text_layout = VlBertLayout
    sees = "regions"
    one_image = True
    one_stream = True

    def scratch(self, request: StudentRequest, sizes: Sizes, tokenizer: WordTokenizer) -> RegionBertConfig:
        return region_sizes(RegionBertConfig, request, sizes, tokenizer)

    def fresh(self, model: nn.Module, request: StudentRequest) -> dict[str, Tensor]:
        return network_weights(model, {}, request.network_weights, "a student from scratch")

    def fitted_spec(self, encoder: Config, request: StudentRequest, found: ModelSpec, where: str) -> ModelSpec:
        network = fitted_network(request.network, request.network_weights, found, where)
        return replace(super().fitted_spec(encoder, request, found, where), image_network=network)

    def continued(self, model: Any, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        found, others = checkpoint.weights, (HEAD, OBJECT_HEAD, PRETRAINING, *NETWORK)
        body = {name: value for name, value in found.items() if not name.startswith(others)}
        fresh = {**model.state_dict(), **pretrained_head(found, model)}
        head = {name: value for name, value in (found if keep_head else fresh).items() if name.startswith(HEAD)}
        objects = {name: found.get(name, value) for name, value in fresh.items() if name.startswith(OBJECT_HEAD)}
        network = network_weights(model, found, request.network_weights, str(checkpoint.folder))
        if model.target == "choice" and not checkpoint.spec.task:
            body = alike_segments(body)
        return {**body, **head, **objects, **network}
