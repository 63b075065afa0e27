"""Students by kind: from scratch, from a fusion checkpoint, or continued from a student of the same kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from vldistill.data.pretext import MLM
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError, first_line
from vldistill.memory import out_of_memory
from vldistill.models.bert import RegionBertConfig
from vldistill.models.checkpoint import (
    CONFIGS,
    MOST_REGIONS,
    Checkpoint,
    Config,
    ModelSpec,
    fit_encoder,
    fusion_encoder_weights,
    load_strict,
    read_checkpoint,
)
from vldistill.models.clip_towers import ClipConfig
from vldistill.models.fusion import Fusion, FusionModel
from vldistill.models.library_fusion import LxmertConfig, VisualBertConfig, named_weights
from vldistill.models.meter import Meter
from vldistill.models.meter_parts import MeterConfig
from vldistill.models.oscar_fusion import Oscar
from vldistill.models.pretraining import HEADS, head_weights
from vldistill.models.unimodal import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from vldistill.models.vilt import EncoderConfig
from vldistill.students import pixelbert
from vldistill.students.clip_dual import ClipDual
from vldistill.students.clip_dual_start import Towers, load_towers, read_clip, read_slip, scratch_config, sized
from vldistill.students.clip_vil import ClipVil
from vldistill.students.clip_vil_start import Clip, continued, new_config, read_bert, started
from vldistill.students.dual_encoder import DualEncoder
from vldistill.students.image_network import NETWORK, fitted_network, network_weights
from vldistill.students.inputs import SEES_CANVASES, SEES_REGIONS
from vldistill.students.library_fusion import Lxmert, VisualBert
from vldistill.students.meter_dual import MeterDual
from vldistill.students.oscar_dual import OscarDual
from vldistill.students.pixelbert import PixelBert, Pixels
from vldistill.students.region_start import OBJECT_HEAD, PRETRAINING, grown_tables, pretrained_head
from vldistill.students.region_texts import PERSONS
from vldistill.students.two_towers import TwoTowers
from vldistill.students.uniter import TYPES, Uniter
from vldistill.students.vlbert import REGION_SEGMENT, VlBert

Student = (FusionModel | Meter | Oscar | DualEncoder | MeterDual | OscarDual | ClipDual | Uniter | VlBert | ClipVil | VisualBert
           | Lxmert | PixelBert | TextEncoder | VisionEncoder)
STUDENTS: dict[str, type[Student]] = {"vilt": FusionModel, "dual_encoder": DualEncoder, "uniter": Uniter, "vlbert": VlBert,
                                      "clip_vil": ClipVil, "visualbert": VisualBert, "lxmert": Lxmert,
                                      "pixelbert": PixelBert, "text_encoder": TextEncoder, "vision_encoder": VisionEncoder,
                                      "meter": Meter, "meter_dual": MeterDual, "oscar": Oscar, "oscar_dual": OscarDual,
                                      "clip_dual": ClipDual}

# Those of one modality, as their libraries name their heads.
_LONE_HEADS = {"text_encoder": ("mlm_score.",), "vision_encoder": ("vit.head.",)}
_HEAD, _FUSION = "classifier.", "fusion."
_MLM_HEAD = f"{HEADS[MLM]}."
_PRETRAINED_HEADS = tuple(f"{head}." for head in HEADS.values())
_START = {"vilt": "name a fusion model", "dual_encoder": "name a fusion model",
          "clip_vil": "name a BERT of transformers, or a clip_vil model",
          "pixelbert": "name a BERT of transformers, or a pixelbert model",
          "visualbert": "name a VisualBERT of transformers, or a visualbert model",
          "lxmert": "name an LXMERT of transformers, or a lxmert model", "text_encoder": "name a run of its own kind",
          "vision_encoder": "name a run of its own kind", "meter_dual": "name a meter or meter_dual model",
          "oscar_dual": "name an oscar or oscar_dual model",
          "clip_dual": "name a clip_dual model, or what `vldistill convert slip` wrote; a CLIP is student.clip.model"}


@dataclass(frozen=True)
class Wanted:
    """What a student shall be. images: per record. image_size: shorter side in pixels. regions, most_regions: the store
    of one that sees them, and how many of an image. network, network_weights: what one sees pixels by, and where its weights come
    from: a file, "random", or None for the checkpoint that it starts from. clip, pixels: how a "clip_vil" or "pixelbert" student
    sees. pretraining: tasks that it needs heads for."""

    kind: str
    task: str
    images: int
    labels: list[str]
    image_size: int
    max_length: int
    dropout: float
    regions: str | None = None
    most_regions: int = MOST_REGIONS
    network: ImageNetwork | None = None
    network_weights: str | None = None
    clip: Clip | None = None
    pixels: Pixels | None = None
    pretraining: tuple[str, ...] = ()


def new_student(spec: ModelSpec) -> Student:
    """A student with fresh weights. Raises InputError where this machine cannot hold one of its sizes."""
    kind = STUDENTS[spec.kind]
    needed, there = _bytes(spec.encoder), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    hint = "look at student.sizes, or at the model's config.json"
    if needed > there:
        raise InputError(f"a {spec.kind} model of these sizes takes about {needed / 1e9:,.0f} GB, this machine has "
                         f"{there / 1e9:,.0f} GB of memory", hint=hint)
    try:
        return kind.from_spec(spec)
    except (RuntimeError, MemoryError, OverflowError, ZeroDivisionError) as error:
        if out_of_memory(error) is not None:
            raise  # others have taken what there was
        raise InputError(f"a {spec.kind} model of these sizes cannot be built: {first_line(error)}", hint=hint) from error


def _bytes(config: Config) -> int:
    """Of a Transformer's weights in fp32, about."""
    width, vocabulary = config.hidden_size, getattr(config, "vocab_size", 0)
    layer = 4 * width * width + 2 * width * getattr(config, "intermediate_size", 4 * width)
    return 4 * (getattr(config, "num_hidden_layers", 12) * layer + (vocabulary + config.max_position_embeddings) * width)


def load_student(source: str) -> tuple[Student, ModelSpec, WordTokenizer]:
    """Reads a trained model, head and all, in evaluation mode. `source`: a run, a model folder or a hub name. Raises InputError
    where it has no head to answer by."""
    checkpoint = read_checkpoint(source)
    if not checkpoint.spec.labels:
        raise InputError("has no head, so it cannot answer", where=str(checkpoint.folder), hint="name a fine-tuned model")
    return model_of(checkpoint)


def model_of(checkpoint: Checkpoint) -> tuple[Student, ModelSpec, WordTokenizer]:
    """The model that a folder holds, with its head if it has one, in evaluation mode."""
    model = new_student(checkpoint.spec)
    drawn = _drawn_fusion(model, checkpoint) if isinstance(model, TwoTowers) else {}
    load_strict(model, checkpoint.weights | drawn, str(checkpoint.folder))
    return model.eval(), checkpoint.spec, load_tokenizer(checkpoint.folder)


def load_dual_encoder(source: str) -> tuple[TwoTowers, ModelSpec, WordTokenizer]:
    """Reads a dual encoder, with its head if it has one. Raises InputError for other models, which read images and texts
    together."""
    checkpoint = read_checkpoint(source)
    if not issubclass(STUDENTS[checkpoint.spec.kind], TwoTowers):
        raise InputError(f"is a {checkpoint.spec.kind} model, which has no vectors of images alone", where=source,
                         hint="name the run of a dual encoder")
    return model_of(checkpoint)


def _drawn_fusion(model: TwoTowers, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The fusion MLP as it is drawn, where a checkpoint of towers alone has none: converted ones, which no head reads."""
    if checkpoint.spec.labels or checkpoint.spec.pretraining or any(name.startswith(_FUSION) for name in checkpoint.weights):
        return {}
    return {name: value for name, value in model.state_dict().items() if name.startswith(_FUSION)}


def init_student(source: str, wanted: Wanted, *, keep_head: bool) -> tuple[Student, ModelSpec, WordTokenizer]:
    """A student that starts from `source`: every tower from a fusion encoder, CLIP-ViL from a BERT, or everything from a student
    of its own kind.

    The head is fresh, unless `keep_head` and the labels are the same. Raises InputError where something does not fit.
    """
    if wanted.kind in SEES_CANVASES and (bert := read_bert(source)):
        return (_new_clip_vil if wanted.kind == "clip_vil" else _new_pixelbert)(wanted, *bert)
    if wanted.kind == "clip_dual" and (slip := read_slip(source)):
        return _new_clip_dual(wanted, slip)
    checkpoint = read_checkpoint(source)
    where, found = str(checkpoint.folder), checkpoint.spec
    if found.kind not in (wanted.kind, getattr(STUDENTS[wanted.kind], "starts_from", None)):
        converted = f"name a {wanted.kind} model, as `vldistill convert {wanted.kind}` makes it"
        raise InputError(f"is a {found.kind} model, from which a {wanted.kind} student cannot start", where=where,
                         hint=_START.get(wanted.kind, converted))
    _check_length(wanted, found.encoder.max_position_embeddings, where)
    tokenizer = load_tokenizer(checkpoint.folder)
    clip_dual = isinstance(found.encoder, ClipConfig)
    encoder = found.encoder if clip_dual else replace(found.encoder, hidden_dropout_prob=wanted.dropout)
    if clip_dual:
        encoder = sized(encoder, wanted.image_size, where)
    elif wanted.kind in _LONE_HEADS:
        pass
    elif wanted.kind == "clip_vil":
        encoder = continued(encoder, wanted.clip, wanted.image_size, where)
    elif wanted.kind == "pixelbert":
        encoder = replace(encoder, long_side=wanted.pixels.long_side, sample=wanted.pixels.sample)
    elif isinstance(encoder, MeterConfig):
        encoder = _meter_sizes(encoder, wanted)
    elif isinstance(encoder, EncoderConfig):
        encoder = replace(encoder, modality_type_vocab_size=max(found.encoder.modality_type_vocab_size, wanted.images + 1))
    else:
        encoder = _grown(encoder, wanted, tokenizer)
    network = fitted_network(wanted.network, wanted.network_weights, found, where)
    spec = replace(_spec(wanted, encoder), official=found.official, image_network=network)
    model = new_student(spec)
    if found.kind == wanted.kind:
        _continue(model, checkpoint, wanted, keep_head)
    else:
        _from_fusion(model, checkpoint, tokenizer)
    return model, spec, tokenizer


def _check_length(wanted: Wanted, most: int, where: str) -> None:
    if wanted.max_length > most:
        raise InputError(f"has {most} text positions, text.max_length is {wanted.max_length}", where=where,
                         hint=f"set text.max_length={most}")


@dataclass(frozen=True)
class Sizes:
    """An encoder from scratch. image_size: pixels that the position table spans; region_size: features of a region."""

    layers: int
    width: int
    heads: int
    feedforward: int
    patch: int
    image_size: int
    region_size: int


def new_from_scratch(wanted: Wanted, sizes: Sizes, tokenizer: WordTokenizer) -> tuple[Student, ModelSpec, WordTokenizer]:
    """A student with fresh weights for a tokenizer's vocabulary."""
    common = {"vocab_size": len(tokenizer.vocabulary), "hidden_size": sizes.width, "num_hidden_layers": sizes.layers,
              "num_attention_heads": sizes.heads, "intermediate_size": sizes.feedforward, "hidden_dropout_prob": wanted.dropout}
    if wanted.kind in ("visualbert", "lxmert"):
        config = _library_sizes(wanted, sizes, len(tokenizer.vocabulary))
    elif wanted.kind in SEES_REGIONS:
        # VL-BERT's regions and [END] take the two positions behind the text.
        config = CONFIGS[wanted.kind](**common, attention_probs_dropout_prob=wanted.dropout, region_size=sizes.region_size,
                                      max_position_embeddings=wanted.max_length + 2, type_vocab_size=REGION_SEGMENT + 1)
        config = _grown(config, wanted, tokenizer)
    elif wanted.kind in SEES_CANVASES:
        bert = RegionBertConfig(**common, attention_probs_dropout_prob=wanted.dropout, max_position_embeddings=wanted.max_length)
        return (_new_clip_vil if wanted.kind == "clip_vil" else _new_pixelbert)(wanted, bert, {}, tokenizer)
    elif wanted.kind == "text_encoder":
        config = TextConfig(**common, attention_probs_dropout_prob=wanted.dropout, max_position_embeddings=wanted.max_length)
    elif wanted.kind == "vision_encoder":
        config = VisionConfig.from_dict({**common, "image_size": sizes.image_size, "patch_size": sizes.patch,
                                         "max_position_embeddings": wanted.max_length})
    elif wanted.kind == "clip_dual":
        config = sized(scratch_config(len(tokenizer.vocabulary), wanted.max_length, layers=sizes.layers, width=sizes.width,
                                      heads=sizes.heads, feedforward=sizes.feedforward, patch=sizes.patch), wanted.image_size)
    elif wanted.kind in ("meter", "meter_dual"):
        config = _meter_sizes(MeterConfig(
            **common, max_position_embeddings=wanted.max_length, patch_size=sizes.patch,
            text_width=sizes.width, text_layers=sizes.layers, text_heads=sizes.heads, text_feedforward=sizes.feedforward,
            vision_width=sizes.width, vision_layers=sizes.layers, vision_heads=sizes.heads), wanted)
    elif wanted.kind in ("vilt", "dual_encoder"):
        config = EncoderConfig(**common, image_size=sizes.image_size, patch_size=sizes.patch,
                               max_position_embeddings=wanted.max_length, modality_type_vocab_size=wanted.images + 1)
    else:
        raise KeyError(wanted.kind)
    spec = _spec(wanted, config)
    model = new_student(spec)
    model.load_state_dict(network_weights(model, {}, wanted.network_weights, "a student from scratch"), strict=False)
    return model, spec, tokenizer


def _new_clip_vil(
    wanted: Wanted, bert: RegionBertConfig, weights: dict[str, Tensor], source: Path | WordTokenizer
) -> tuple[ClipVil, ModelSpec, WordTokenizer]:
    """From a BERT's sizes, and its weights if there are any. source: its folder, or the tokenizer of one without."""
    known = isinstance(source, Path)
    where = str(source) if known else wanted.clip.model
    _check_length(wanted, bert.max_position_embeddings, where)
    config, tower = new_config(bert, wanted.clip, wanted.image_size, wanted.dropout)
    spec = _spec(wanted, config)
    model = new_student(spec)
    load_strict(model, started(model.state_dict(), weights, tower), where)
    return model, spec, load_tokenizer(source) if known else source


def _new_pixelbert(
    wanted: Wanted, bert: RegionBertConfig, weights: dict[str, Tensor], source: Path | WordTokenizer
) -> tuple[PixelBert, ModelSpec, WordTokenizer]:
    """See `_new_clip_vil`."""
    where = str(source) if isinstance(source, Path) else wanted.pixels.model
    _check_length(wanted, bert.max_position_embeddings, where)
    config, network = pixelbert.new_config(bert, wanted.pixels, wanted.dropout)
    spec = _spec(wanted, config)
    model = new_student(spec)
    load_strict(model, pixelbert.started(model.state_dict(), weights, network), where)
    return model, spec, load_tokenizer(source) if isinstance(source, Path) else source


def new_from_clip(model: str, weights: str | None, wanted: Wanted) -> tuple[ClipDual, ModelSpec, WordTokenizer]:
    """A clip_dual student that starts from a CLIP of open_clip, see `read_clip`."""
    return _new_clip_dual(wanted, read_clip(model, weights))


def _new_clip_dual(wanted: Wanted, found: Towers) -> tuple[ClipDual, ModelSpec, WordTokenizer]:
    _check_length(wanted, found.config.max_position_embeddings, found.where)
    spec = _spec(wanted, sized(found.config, wanted.image_size, found.where))
    model = new_student(spec)
    load_towers(model, found.weights, found.where)
    return model, spec, found.tokenizer


def _meter_sizes(config: MeterConfig, wanted: Wanted) -> MeterConfig:
    """For images of the wanted size, and as many of a record; dropout is one number for states and attention, as in METER's code.
    Raises InputError where patches do not divide the size."""
    if wanted.image_size % config.patch_size:
        raise InputError(f"image.size {wanted.image_size} is no multiple of METER's patch, {config.patch_size}",
                         hint=f"set image.size={wanted.image_size // config.patch_size * config.patch_size or config.patch_size}")
    return replace(config, image_size=wanted.image_size, attention_probs_dropout_prob=wanted.dropout,
                   modality_type_vocab_size=max(config.modality_type_vocab_size, wanted.images + 1))


def _library_sizes(wanted: Wanted, sizes: Sizes, words: int) -> VisualBertConfig | LxmertConfig:
    """Those of a VisualBERT or LXMERT from scratch."""
    common = {"vocab_size": words, "hidden_size": sizes.width, "num_attention_heads": sizes.heads,
              "intermediate_size": sizes.feedforward, "hidden_dropout_prob": wanted.dropout,
              "attention_probs_dropout_prob": wanted.dropout, "max_position_embeddings": wanted.max_length}
    if wanted.kind == "lxmert":
        return LxmertConfig.of_depth(sizes.layers, visual_feat_dim=sizes.region_size, **common)
    return VisualBertConfig(num_hidden_layers=sizes.layers, visual_embedding_dim=sizes.region_size, **common)


def _spec(wanted: Wanted, encoder: Config) -> ModelSpec:
    size = 0 if wanted.kind in SEES_REGIONS | {"text_encoder"} else wanted.image_size
    return ModelSpec(wanted.kind, encoder, wanted.task, wanted.images, wanted.labels, size, wanted.max_length,
                     regions=wanted.regions, most_regions=wanted.most_regions, image_network=wanted.network,
                     pretraining=wanted.pretraining)


def _grown(config: RegionBertConfig, wanted: Wanted, tokenizer: WordTokenizer) -> RegionBertConfig:
    """UNITER on VCR: types for answers and rationales, and a word for each person."""
    if wanted.kind != "uniter" or wanted.task != "vcr":
        return config
    return replace(config, type_vocab_size=max(config.type_vocab_size, TYPES),
                   vocab_size=max(config.vocab_size, len(tokenizer.vocabulary) + PERSONS))


def _from_fusion(model: TwoTowers, checkpoint: Checkpoint, tokenizer: WordTokenizer) -> None:
    weights = fusion_encoder_weights(checkpoint, *STUDENTS[model.starts_from].towers)
    for name in model.towers:
        tower = getattr(model, name)
        new = model.new_weights(name, weights, tokenizer)
        load_strict(tower, fit_encoder(weights, tower) | new, str(checkpoint.folder))
    if model.mlm_score is not None:  # the head for matching stands on a fusion of its own, and starts afresh
        found = _heads_of(model, checkpoint, weights[model.text_encoder.words])
        head = {name: value for name, value in found.items() if name.startswith(_MLM_HEAD)}
        load_strict(model.mlm_score, _below(head, _MLM_HEAD), str(checkpoint.folder))


def _heads_of(model: nn.Module, checkpoint: Checkpoint, words: Tensor) -> dict[str, Tensor]:
    """What the model has of heads of pre-training: the checkpoint's, where it has them too. words: [V, D] its embeddings."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(_PRETRAINED_HEADS)}
    if not own:
        return {}
    found = head_weights(checkpoint.weights, words)
    return {name: found.get(name, value) for name, value in own.items()}


def _continue(model: nn.Module, checkpoint: Checkpoint, wanted: Wanted, keep_head: bool) -> None:
    where = str(checkpoint.folder)
    if keep_head and checkpoint.spec.labels != wanted.labels:
        raise InputError("has other labels than the data, so its head cannot be kept", where=where,
                         hint="set student.keep_head=false")
    if checkpoint.spec.kind in _LONE_HEADS:
        lone = _LONE_HEADS[checkpoint.spec.kind]
        kept = checkpoint.weights if keep_head else model.state_dict()
        body = {name: value for name, value in checkpoint.weights.items() if not name.startswith(lone)}
        load_strict(model, {**body, **{name: value for name, value in kept.items() if name.startswith(lone)}}, where)
        return
    if not isinstance(model, Fusion | TwoTowers):
        found, others = named_weights(checkpoint.spec.kind, checkpoint.weights), (_HEAD, OBJECT_HEAD, PRETRAINING, *NETWORK)
        body = {name: value for name, value in found.items() if not name.startswith(others)}
        fresh = {**model.state_dict(), **pretrained_head(found, model)}
        head = {name: value for name, value in (found if keep_head else fresh).items() if name.startswith(_HEAD)}
        objects = {name: found.get(name, value) for name, value in fresh.items() if name.startswith(OBJECT_HEAD)}
        network = network_weights(model, found, wanted.network_weights, where)
        load_strict(model, {**grown_tables(body, model, checkpoint.spec.task), **head, **objects, **network}, where)
        return
    towers, whole = model.towers, isinstance(model, Fusion)
    if whole:
        encoders = {towers[0]: fusion_encoder_weights(checkpoint, *towers)}
    else:
        encoders = {tower: _below(checkpoint.weights, f"{tower}.") for tower in towers}
    places = (*(f"{tower}." for tower in towers), _FUSION, _HEAD, *_PRETRAINED_HEADS)
    # Without a place here, but listed as unexpected by the strict loading below; a fusion encoder lists its own.
    weights = {n: v for n, v in checkpoint.weights.items() if not whole and not n.startswith(places)}
    for tower, values in encoders.items():
        weights |= fit_encoder(values, getattr(model, tower), prefix=f"{tower}.")
    if not whole:
        weights |= {n: v for n, v in checkpoint.weights.items() if n.startswith(_FUSION)} | _drawn_fusion(model, checkpoint)
    head = checkpoint.weights if keep_head else model.state_dict()
    pretraining = _heads_of(model, checkpoint, encoders[towers[0]][getattr(model, towers[0]).words])
    kept = {name: value for name, value in head.items() if name.startswith(_HEAD)}
    load_strict(model, {**weights, **pretraining, **kept}, where)


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
