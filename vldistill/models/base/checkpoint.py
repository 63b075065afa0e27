"""Model folders: config.json (the sizes of a model), model.safetensors and the tokenizer, loadable by path alone.

A fusion model's folder is also one of `transformers`; the published ViLT checkpoints are read by name or local folder.
Nothing is dropped silently: a key that finds no place is an error that lists it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.artifacts import CONVERTED, MANIFEST, RUN_STAGES, check_digests, find_run, read_manifest, write_json
from vldistill.data.records import TASKS
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError, first_line, read_through
from vldistill.finite import check_weights
from vldistill.models.base.weights import INDEX, WHOLE, read_file, read_sharded, save_tensors, unwrapped
from vldistill.models.families import FAMILIES, PUBLISHED, class_of
from vldistill.places import read_regular

Own = TypeVar("Own", bound="ModelConfig")


class ModelConfig:
    """A base of frozen dataclasses."""

    @classmethod
    def from_dict(cls: type[Own], values: dict[str, Any]) -> Own:
        """Reads the fields it knows out of a config.json."""
        names = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in names})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def described(self) -> dict[str, Any]:
        """The sizes that tell one from another, for people."""
        return {"layers": getattr(self, "num_hidden_layers", None), "width": getattr(self, "hidden_size", None)}

    def visual_signature(self) -> dict[str, int]:
        """What two models must agree on to be shown the same tokens of an image."""
        return {name: getattr(self, name) for name in ("patch_size", "region_size") if hasattr(self, name)}

    def library(self, classes: int) -> dict[str, Any]:
        """What else the library that reads the folder wants to find in its config.json. classes: of the head, 0 without one."""
        return {}


Config = ModelConfig
# Heads that published checkpoints carry beside the encoder; another task's head is not an unmatched key.
_HEADS = ("mlm_score.", "itm_score.", "rank_output.", "classifier.")
# A buffer of constants in older checkpoints.
_CONSTANT = "embeddings.text_embeddings.position_ids"


MOST_REGIONS = 100
MOST_DEEP, MOST_WIDE = 1 << 10, 1 << 24
"""What a configuration may say: of layers and heads, and of anything else."""


@dataclass(frozen=True)
class ModelSpec:
    """What a model folder says of itself. kind: a key of FAMILIES. encoder: its `Family.config`. images: per record. labels:
    names of the head's classes, in order. image_size: shorter side in pixels, 0 where it sees regions. max_length: text
    tokens with specials. answer_loss: what a VQA head was trained with ("bce": a sigmoid for each answer; "softmax": one over
    all), or None where that is not known. regions, most_regions: the store it reads, and how many of an image. official:
    whether it comes from an official checkpoint, which expects a detector's regions. image_network: what it sees pixels by,
    where it reads no store (VL-BERT end to end). pretraining: the tasks without labels, pre-training's and retrieval's, that
    it has heads for. upright: whether it sees images turned as their EXIF data says."""

    kind: str
    encoder: Any
    task: str
    images: int
    labels: list[str]
    image_size: int
    max_length: int
    answer_loss: str | None = None
    regions: str | None = None
    most_regions: int = MOST_REGIONS
    official: bool = False
    image_network: ImageNetwork | None = None
    pretraining: tuple[str, ...] = ()
    upright: bool = False

    @property
    def target(self) -> str:
        """See `TaskSpec`; "label" for a model without a task."""
        return TASKS[self.task].target if self.task in TASKS else "label"

    @property
    def classes(self) -> int:
        """Outputs of the head: one where each choice is judged by itself."""
        return 1 if self.target == "choice" else len(self.labels)

    def to_config(self) -> dict[str, Any]:
        own = {
            "kind": self.kind,
            "task": self.task,
            "images": self.images,
            "image_size": self.image_size,
            "max_length": self.max_length,
        }
        for name in ("answer_loss", "regions", "official", "pretraining", "upright"):
            if getattr(self, name):
                own[name] = getattr(self, name)
        if self.regions:
            own["most_regions"] = self.most_regions
        if self.image_network:
            own["image_network"] = asdict(self.image_network)
        pairs = {"num_images": self.images} if self.images > 1 else {}
        names = {str(index): name for index, name in enumerate(self.labels)}
        return {
            "model_type": self.kind,
            **self.encoder.to_dict(),
            "hidden_act": "gelu",
            **self.encoder.library(self.classes),
            **pairs,
            "id2label": names,
            "label2id": {name: int(index) for index, name in names.items()},
            "vldistill": own,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelSpec:
        """Reads our config.json, or a published model's, which lacks our part: its image is one, ViLT's of shorter side 384."""
        own = config.get("vldistill", {})
        kind = own.get("kind") or PUBLISHED.get(config.get("model_type"), "vilt")
        encoder = class_of(kind, "family").config.from_dict(config)
        names = config.get("id2label") or {}
        labels = [names[str(index)] for index in range(len(names))]
        # A published ViLT lacks our part.
        images = own.get("images", max(getattr(encoder, "modality_type_vocab_size", 2) - 1, 1))
        size = own.get("image_size", getattr(encoder, "image_size", 0))
        return cls(
            kind,
            encoder,
            own.get("task", ""),
            images,
            labels,
            size,
            own.get("max_length", encoder.max_position_embeddings),
            own.get("answer_loss"),
            own.get("regions"),
            own.get("most_regions", MOST_REGIONS),
            own.get("official", False),
            ImageNetwork.from_dict(own["image_network"]) if "image_network" in own else None,
            tuple(own.get("pretraining", ())),
            bool(own.get("upright", False)),
        )


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, read. weights are on the CPU, in the precision they were saved in."""

    folder: Path
    spec: ModelSpec
    weights: dict[str, Tensor]


def save_model(
    folder: Path, model: nn.Module, spec: ModelSpec, tokenizer: WordTokenizer, *, weights: dict[str, Tensor] | None = None
) -> None:
    """Writes a model folder; each file is renamed into place whole, the weights last. weights: the model's, where it has but a
    share of them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_spec(folder, spec)
    tokenizer.save(folder)
    family = class_of(spec.kind, "family")
    prefix, unsaved = family.library_prefix, family.unsaved
    weights = weights or model.state_dict()
    kept = {name: value for name, value in weights.items() if unsaved is None or not name.startswith(unsaved)}
    save_weights(folder, {name.removeprefix(prefix): value for name, value in kept.items()})


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Writes config.json."""
    write_json(folder / "config.json", spec.to_config())


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Writes model.safetensors whole. Raises VldistillError where the disk is full."""
    held = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_tensors(folder / "model.safetensors", held, {"format": "pt"})


def resolve_model(source: str) -> Path:
    """The model folder that `source` names: a model folder, a run (its `model/`), `runs/<recipe>` with one run, or a
    published model's hub name. Raises InputError where there is none."""
    path = Path(source).expanduser()
    if path.exists():
        if (path / "config.json").exists():
            if path.name == "model" and (path.parent / MANIFEST).exists():
                _refuse_unfinished(path.parent)
            elif (path / MANIFEST).exists():
                check_digests(path, read_manifest(path, CONVERTED, make_it="vldistill convert, with --overwrite"))
            return path
        run = find_run(path)
        _refuse_unfinished(run)
        if (run / "model" / "config.json").exists():
            return run / "model"
        raise InputError("holds no model", where=str(run), hint="name a run that has finished, or a folder with config.json")
    if source.count("/") == 1 and not source.startswith((".", "/", "~", "runs/", "artifacts/")):
        return _from_hub(source)
    raise InputError("no such model", where=source, hint="make it with `vldistill finetune`, or give a folder or a hub name")


def _refuse_unfinished(run: Path) -> None:
    """An interrupted run holds the best model so far, which is no result; nor is one whose model was edited."""
    manifest = read_manifest(run, RUN_STAGES, make_it="vldistill finetune or distill, with --overwrite")
    check_digests(run, manifest, within="model/")


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["config.json", WHOLE, INDEX, "model-*.safetensors", "pytorch_model.bin", "tokenizer*.json", "vocab.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
            reason = "it is not in the hub's cache, and HF_HUB_OFFLINE is set"
        raise InputError(
            f"cannot be fetched: {reason}", where=name, hint="fetch it on a machine with network and give the local folder"
        ) from None


def read_checkpoint(source: str) -> Checkpoint:
    """Reads a model folder (see `resolve_model`). Raises InputError where its files are missing or broken."""
    folder = resolve_model(source)
    spec = read_spec(folder)
    prefix = class_of(spec.kind, "family").library_prefix
    weights = {prefix + name: value for name, value in read_weights(folder).items() if not name.endswith(_CONSTANT)}
    return Checkpoint(folder, spec, weights)


def read_spec(folder: Path) -> ModelSpec:
    """What a model folder says of itself, without its weights. Raises InputError where that cannot be read."""
    try:
        config = json.loads(read_regular(folder / "config.json"))
        spec = ModelSpec.from_config(config)
        _check_numbers(spec)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"is not a model configuration: {first_line(error)}", where=str(folder / "config.json")) from None
    kind = config["vldistill"]["kind"] if "vldistill" in config else config.get("model_type")
    if PUBLISHED.get(kind, kind) not in FAMILIES:
        raise InputError(
            f"is a {kind!r} model", where=str(folder / "config.json"), hint=f"one of {', '.join(FAMILIES)} is expected"
        )
    return spec


def _check_numbers(spec: ModelSpec) -> None:
    """Raises ValueError for a number that no model has, before anything is built by it."""
    for name, value in (*vars(spec.encoder).items(), ("images", spec.images), ("max_length", spec.max_length)):
        most = MOST_DEEP if name.endswith(("layers", "heads", "depth", "images")) else MOST_WIDE
        if type(value) is int and not 0 <= value <= most:
            raise ValueError(f"{name} is {value:,}")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A folder's weights by name, on the CPU. Raises InputError where there are none, or they are broken."""
    safe, pickled = folder / WHOLE, folder / "pytorch_model.bin"
    if safe.exists():
        return unwrapped(read_file(safe))
    if (folder / INDEX).exists():
        return unwrapped(read_sharded(folder))
    if pickled.exists():
        return unwrapped(_read_pickled(pickled))
    raise InputError("holds no model.safetensors", where=str(folder), hint="give a folder with its weights")


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """A published pytorch_model.bin, through torch's restricted reader, which runs no code."""
    read_through(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a broken or forbidden pickle makes it
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"holds {refused[1]}, which is no tensor" if refused else "is broken or no tensor file"
        raise InputError(reason, where=str(path), hint="use the model's safetensors file") from None
    if not isinstance(weights, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise InputError("is not a table of tensors", where=str(path), hint="use the model's safetensors file")
    return weights


def load_strict(module: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Loads every key. Raises InputError listing keys without a place, keys without a value, and shapes that differ, or naming a
    weight that is not finite."""
    own = module.state_dict()
    faults = [f"unexpected {name}" for name in weights if name not in own]
    faults += [f"missing {name}" for name in own if name not in weights]
    faults += [
        f"{name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        listed = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise InputError(f"the weights do not fit the model: {listed}", where=where, hint="check the model's sizes and kind")
    check_weights(weights, where)
    module.load_state_dict(weights)


def fusion_encoder_weights(checkpoint: Checkpoint, encoder: str = "vilt") -> dict[str, Tensor]:
    """The whole encoder of a fusion checkpoint, under its own names; task heads are left out. encoder: what a fusion model of its
    kind calls it, which a published checkpoint may leave out."""
    weights = {}
    for name, value in checkpoint.weights.items():
        if name.startswith(_HEADS):
            continue
        weights[name.removeprefix(f"{encoder}.")] = value
    return weights


def fit_encoder(weights: dict[str, Tensor], encoder: nn.Module, *, prefix: str = "") -> dict[str, Tensor]:
    """The part of a whole encoder's weights that `encoder` (a half, or one with more image types) needs.

    The half that a tower does not have is left out by name (its `of_other_half`); missing rows of its table of image types
    (`types`) are copies of the first image's, and a table of `positions` for squares of another size is resized.
    """
    own = encoder.state_dict()
    fitted = {}
    for name, value in weights.items():
        if name not in own and encoder.of_other_half(name):
            continue
        if name == encoder.types and name in own:
            value = torch.cat([value, value[1:2].expand(max(len(own[name]) - len(value), 0), -1)])[: len(own[name])]
        if name == encoder.positions and name in own:
            value = resized_positions(value, own[name].shape[-2])
        fitted[prefix + name] = value
    return fitted


def resized_positions(table: Tensor, length: int) -> Tensor:
    """[..., 1 + s * s, D], a CLS and a square, to [..., 1 + t * t, D] = [..., length, D], bicubically, as METER's code does on
    loading. What stands before is of size 1, as in timm's table."""
    if table.shape[-2] == length:
        return table
    flat = table.reshape(table.shape[-2:])
    old, new = (round((count - 1) ** 0.5) for count in (len(flat), length))
    square = flat[1:].T.unflatten(1, (old, old))[None].float()
    resized = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat([flat[:1], resized.to(table.dtype)]).view(*table.shape[:-2], length, -1)
