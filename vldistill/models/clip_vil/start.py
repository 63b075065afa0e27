"""What a CLIP-ViL student starts from: BERT's weights in transformers' layout and CLIP's image network, another CLIP-ViL, or
nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.clip_vil.model import RESNET_STRIDE, ClipVilConfig, ReadTower, check_canvas, is_resnet, read_tower
from vldistill.models.clip_vil.section import ClipGrid

_BERT = ("bert.embeddings.", "bert.encoder.layer.", "bert.pooler.")
SHORT_SIDE = 384
"""Of the published canvases, whose longer side is 640 pixels."""
_VISUAL, _POSITIONS = "bert.encoder.visual_model.visual.", "bert.encoder.visual_pos."


def new_config(
    bert: RegionBertConfig, clip: ClipGrid, canvas: tuple[int, int], dropout: float
) -> tuple[ClipVilConfig, ReadTower]:
    """The sizes of a student that puts BERT and CLIP together, and the latter, read. canvas: its shorter and
    its longer side, in pixels."""
    if clip.model is None:
        raise InputError(
            "a clip_vil student needs CLIP's image network",
            hint="set student.clip.model=RN50x4 student.clip.weights=openai, or start from a clip_vil model",
        )
    tower = read_tower(clip.model, clip.weights, *canvas)
    sizes = {field.name: getattr(bert, field.name) for field in fields(RegionBertConfig)}
    sizes |= {
        "hidden_dropout_prob": dropout,
        **tower.fields,
        "long_side": canvas[1],
        "frozen": clip.frozen,
        "batch_statistics": clip.batch_statistics,
    }
    most = canvas[1] // _cell(tower.fields["tower"])
    return ClipVilConfig(**(sizes | {"positions": max(most, ClipVilConfig.positions)})), tower


def started(own: dict[str, Tensor], bert: dict[str, Tensor], tower: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """All weights of a new student: what it was given, by name, the rest as drawn. own: as drawn. bert: {} for none. What
    is missing of a part that was given is left out, for `load_strict` to list."""
    given = [prefix for prefix in _BERT if bert] + [_VISUAL] * (tower is not None)
    drawn = {name: value for name, value in own.items() if not name.startswith(tuple(given))}
    return {**drawn, **bert, **{f"{_VISUAL}{name}": value for name, value in (tower or {}).items()}}


def continued(initial: ClipVilConfig, clip: ClipGrid, canvas: tuple[int, int], where: str) -> ClipVilConfig:
    """The sizes of a student that starts from another. Raises InputError where its image network cannot see the canvas."""
    if clip.model is not None:
        raise InputError(
            "brings its own image network", where=where, hint="set student.clip.model=null student.clip.weights=null"
        )
    short, long = canvas
    check_canvas(initial.tower, short, long)
    resized = not is_resnet(initial.tower) and short != initial.tower["image_size"]
    if resized or long // _cell(initial.tower) > initial.positions:
        known = initial.tower["image_size"] if resized else initial.positions * _cell(initial.tower)
        raise InputError(
            f"knows positions of {known} pixels, the canvas is {short} x {long}",
            where=where,
            hint="set image.size and image.long_side to what it was trained with",
        )
    return replace(initial, long_side=long, frozen=clip.frozen, batch_statistics=clip.batch_statistics)


def official_config(bert: RegionBertConfig, weights: dict[str, Tensor], source: Path) -> ClipVilConfig:
    """The sizes of an official checkpoint. bert: those of its BERT. Raises InputError where it has no ResNet of CLIP."""
    blocks = [_count(weights, f"{_VISUAL}layer{stage}.") for stage in (1, 2, 3, 4)]
    stem, positions = weights.get(f"{_VISUAL}layer1.0.conv1.weight"), weights.get(f"{_POSITIONS}x_position_embedding.weight")
    if stem is None or positions is None:
        raise InputError(
            "is no clip_vil checkpoint: it lacks CLIP's ResNet or the cells' positions",
            where=str(source),
            hint="name the pre-trained model's own file, ..._LXRT.pth",
        )
    sizes = {**bert.to_dict(), "tower": {"image_size": 224, "layers": blocks, "width": len(stem)}, "positions": len(positions)}
    return ClipVilConfig.from_dict(sizes)


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _cell(tower: dict) -> int:
    return RESNET_STRIDE if is_resnet(tower) else tower["patch_size"]
