"""Official checkpoints of UNITER, VILLA, VL-BERT and CLIP-ViL_p, converted to model folders. Every key has a place or is named
here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.bert import RegionBertConfig
from vldistill.models.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.official import current_name, read_official
from vldistill.students.build import new_student
from vldistill.students.clip_vil_start import SHORT_SIDE, official_config
from vldistill.students.image_network import found_network, network_weights
from vldistill.students.region_start import OBJECTS, PRETRAINING, RELATIONSHIP, TRANSFORM
from vldistill.students.region_texts import PERSONS
from vldistill.students.vlbert import FREQUENCIES

CLIP = r"bert\.encoder\.visual_model\."
HEAD_WIDTH = 64
"""Of an attention head, in base and large alike."""
_BOX_CODE = 4 * 2 * FREQUENCIES


@dataclass(frozen=True)
class Layout:
    """Where an official checkpoint keeps things. renamed: pattern to replacement, applied in order. left_out: patterns of keys
    that a fine-tuned student has no use for. lowercase: of its BERT's vocabulary. The rest are keys of tables that give sizes."""

    kind: str
    renamed: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]
    lowercase: bool
    words: str
    positions: str
    types: str
    encoder: str
    region_key: str


LAYOUTS = {
    "uniter": Layout(
        "uniter", ((r"^module\.", ""), (r"^bert\.", "uniter.")),
        (r"^cls\.", r"^feat_regress\.", r"^region_classifier\.", r"^itm_output\.", r"^(?:vcr|vqa|ve|nlvr2)_output\.",
         r"\.position_ids$"), False,
        "uniter.embeddings.word_embeddings.weight", "uniter.embeddings.position_embeddings.weight",
        "uniter.embeddings.token_type_embeddings.weight", "uniter.encoder.layer.", "uniter.img_embeddings.img_linear.weight"),
    "vlbert": Layout(
        "vlbert", ((r"^module\.", ""), (r"^vlbert\._module\.", "vlbert."),
                   (r"^vlbert\.mlm_head\.predictions\.transform\.", TRANSFORM),
                   (r"^vlbert\.relationsip_head\.caption_image_relationship\.", RELATIONSHIP),
                   (r"^vlbert\.mvrc_head\.transform\.", OBJECTS)),
        (r"^vlbert\.(?:mlm_head|mvrc_head)\.", r"^object_mask_(?:word|visual)_embedding\.", r"^aux_text_visual_embedding\.",
         # The head is the same tensors again, with a pooling behind them.
         r"^image_feature_extractor\.(?:head|mask_upsample|regularizing_predictor)\.",
         r"^(?:final_mlp|cnn_loss_reg)\."), True,
        "vlbert.word_embeddings.weight", "vlbert.position_embeddings.weight", "vlbert.token_type_embeddings.weight",
        "vlbert.encoder.layer.", "image_feature_extractor.obj_downsample.1.weight"),
    # Its image network is a whole CLIP, and its regions have boxes, of which it reads neither text nor places.
    "clip_vil": Layout(
        "clip_vil", ((r"^module\.", ""),),
        (r"^cls\.", r"^obj_predict_head\.", r"^answer_head\.", r"^bert\.encoder\.visn_fc\.box_", rf"^{CLIP}(?!visual\.)",
         rf"^{CLIP}visual\.attnpool\."), True,
        "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight", "bert.encoder.layer.", "bert.encoder.visn_fc.visn_fc.weight"),
}


def convert(kind: str, source: Path, vocabulary: Path, out: Path, *, overwrite: bool = False) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. kind: a key of LAYOUTS. Raises
    InputError where the file cannot be read safely, a key has no place or is missing, or the vocabulary is another one."""
    layout = LAYOUTS[kind]
    weights = renamed(read_official(source), layout)
    config = sizes(weights, layout, source)
    tokenizer = read_vocabulary(vocabulary, lowercase=layout.lowercase)
    known = len(tokenizer.vocabulary)
    if config.vocab_size not in (known, known + PERSONS):
        raise InputError(f"has {known:,} tokens, the checkpoint has {config.vocab_size:,}", where=str(vocabulary),
                         hint=f"give the vocab.txt of its BERT ({'uncased' if layout.lowercase else 'cased'})")
    if kind == "clip_vil":
        config = official_config(config, weights, source)
    spec = ModelSpec(kind, config, "", 1, [], SHORT_SIDE if kind == "clip_vil" else 0, config.max_position_embeddings - 2,
                     official=True, image_network=found_network(weights))
    student = new_student(replace(spec, labels=["any"]))
    head = {name: value for name, value in student.state_dict().items() if name.startswith("classifier.")}
    weights |= network_weights(student, weights, None, str(source))
    body = {name: value for name, value in weights.items() if not name.startswith(PRETRAINING)}
    load_strict(student, {**body, **head}, str(source))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() if value.is_floating_point() else value for name, value in weights.items()})
        write_converted(folder, source)
    return spec


def renamed(weights: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Official weights under our names, without what is left out."""
    found = {}
    for name, value in weights.items():
        name = current_name(name)
        for pattern, replacement in layout.renamed:
            name = re.sub(pattern, replacement, name)
        if not any(re.search(pattern, name) for pattern in layout.left_out):
            found[name] = value
    return found


def sizes(weights: dict[str, Tensor], layout: Layout, source: Path) -> RegionBertConfig:
    """Those that the shapes of weights under our names tell. Raises InputError where a table is missing."""
    try:
        words, width = weights[layout.words].shape
        depth = {name.removeprefix(layout.encoder).split(".")[0] for name in weights if name.startswith(layout.encoder)}
        region = weights[layout.region_key].shape[1] - (_BOX_CODE if layout.kind == "vlbert" else 0)
        return RegionBertConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=len(depth), num_attention_heads=max(width // HEAD_WIDTH, 1),
            intermediate_size=len(weights[f"{layout.encoder}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[layout.positions]), type_vocab_size=len(weights[layout.types]),
            region_size=region)
    except (KeyError, ValueError) as error:
        raise InputError(f"is no {layout.kind} checkpoint: it lacks {error}", where=str(source),
                         hint="name the pre-trained model's own file") from None
