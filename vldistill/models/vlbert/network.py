"""A student's own image network (VL-BERT end to end): its sizes, and where its weights come from."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vldistill.data.regions.network import BODY, HEAD, ImageNetwork, read_resnet, whole
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec

_EXTRACTOR = "image_feature_extractor."
NETWORK = (f"{_EXTRACTOR}{BODY}", f"{_EXTRACTOR}{HEAD}")
"""Beginnings of its names."""
_GIVE = "set student.image_network.weights to a file of ResNet-101, or to random"


def fitted_network(wanted: ImageNetwork | None, weights: str | None, initial: ModelSpec, where: str) -> ImageNetwork | None:
    """The network that a student shall have which starts from `initial`: of the sizes of that one's own, unless `weights` are
    named. Raises InputError where its features are not those that the student reads."""
    if wanted is None:
        return None
    if weights is None and initial.image_network is not None:
        wanted = replace(wanted, blocks=initial.image_network.blocks, width=initial.image_network.width)
    if wanted.features != initial.encoder.region_size:
        raise InputError(
            f"reads {initial.encoder.region_size} features a region, the image network makes {wanted.features}",
            where=where,
            hint=f"set student.image_network.width={initial.encoder.region_size // 32}",
        )
    return wanted


def network_weights(model: nn.Module, initial: dict[str, Tensor], weights: str | None, where: str) -> dict[str, Tensor]:
    """The weights of a student's image network, by name, none where it has none. initial: of the checkpoint that it starts from.
    weights: see `Network` of its section. Raises InputError where there are none, or they do not fit."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(NETWORK)}
    if not own or weights == "random":
        return own
    if weights is not None:
        given = {f"{_EXTRACTOR}{name}": value for name, value in read_resnet(weights).items()}
        return whole(own, given, weights, "the student's image network")
    given = {name: value for name, value in initial.items() if name.startswith(NETWORK)}
    if not given:
        raise InputError("has no image network to start from", where=where, hint=_GIVE)
    return whole(own, given, where, "the student's image network")


def found_network(weights: dict[str, Tensor]) -> ImageNetwork | None:
    """The network that a checkpoint holds, or None."""
    if f"{NETWORK[0]}conv1.weight" not in weights:
        return None
    blocks = []
    for prefix in (*(f"{NETWORK[0]}layer{stage}." for stage in (1, 2, 3)), NETWORK[1]):
        blocks.append(len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}))
    return ImageNetwork(tuple(blocks), len(weights[f"{NETWORK[0]}layer1.0.conv1.weight"]), object_loss=0.0)
