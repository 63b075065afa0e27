"""Official checkpoints of UNITER, VILLA, VL-BERT and CLIP-ViL_p, converted to model folders. Every key has a place, or is named
here with the reason why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.records import read_text
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.base.account import CONSTANTS, FRESH, Account, LeftOut, renaming, sort_out
from vldistill.models.base.attention_heads import BERT, Stack, heads_of
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.base.official import current_name, read_official
from vldistill.models.base.region_start import OBJECTS, PRETRAINING, RELATIONSHIP, TRANSFORM
from vldistill.models.base.region_texts import PERSONS
from vldistill.models.build import new_student
from vldistill.models.clip_vil.start import SHORT_SIDE, official_config
from vldistill.models.vlbert.model import FREQUENCIES
from vldistill.models.vlbert.network import found_network, network_weights

CLIP = r"bert\.encoder\.visual_model\."
_BOX_CODE = 4 * 2 * FREQUENCIES


@dataclass(frozen=True)
class Layout:
    """Where an official checkpoint keeps things. renamed: pattern to replacement, applied in order. left_out: what a fine-tuned
    student has no use for. lowercase: of its BERT's vocabulary. The rest are keys of tables that give sizes."""

    kind: str
    renamed: tuple[tuple[str, str], ...]
    left_out: tuple[LeftOut, ...]
    lowercase: bool
    words: str
    positions: str
    types: str
    encoder: str
    region_key: str


LAYOUTS = {
    "uniter": Layout(
        "uniter", ((r"^module\.", ""), (r"^bert\.", "uniter.")),
        ((r"^cls\.", "pre-training's head for hidden words"), (r"^feat_regress\.", "pre-training's head for regions' features"),
         (r"^region_classifier\.", "pre-training's head for regions' classes"),
         (r"^itm_output\.", "pre-training's head for image-text matching"),
         (r"^(?:vcr|vqa|ve|nlvr2)_output\.", FRESH), (r"\.position_ids$", CONSTANTS)), False,
        "uniter.embeddings.word_embeddings.weight", "uniter.embeddings.position_embeddings.weight",
        "uniter.embeddings.token_type_embeddings.weight", "uniter.encoder.layer.", "uniter.img_embeddings.img_linear.weight"),
    "vlbert": Layout(
        "vlbert", ((r"^module\.", ""), (r"^vlbert\._module\.", "vlbert."),
                   (r"^vlbert\.mlm_head\.predictions\.transform\.", TRANSFORM),
                   (r"^vlbert\.relationsip_head\.caption_image_relationship\.", RELATIONSHIP),
                   (r"^vlbert\.mvrc_head\.transform\.", OBJECTS)),
        ((r"^vlbert\.(?:mlm_head|mvrc_head)\.", "pre-training's heads behind their transforms"),
         (r"^object_mask_(?:word|visual)_embedding\.", "what stands for a hidden region in pre-training"),
         (r"^aux_text_visual_embedding\.", "what stands for the image of a text alone in pre-training"),
         (r"^image_feature_extractor\.head\.", "the image network's last stage again, with a pooling behind it"),
         (r"^image_feature_extractor\.(?:mask_upsample|regularizing_predictor)\.", "the image network's loss on objects"),
         (r"^(?:final_mlp|cnn_loss_reg)\.", FRESH)), True,
        "vlbert.word_embeddings.weight", "vlbert.position_embeddings.weight", "vlbert.token_type_embeddings.weight",
        "vlbert.encoder.layer.", "image_feature_extractor.obj_downsample.1.weight"),
    # Its image network is a whole CLIP, and its regions have boxes, of which it reads neither text nor places.
    "clip_vil": Layout(
        "clip_vil", ((r"^module\.", ""),),
        ((r"^cls\.", "pre-training's heads for hidden words and matching"),
         (r"^obj_predict_head\.", "pre-training's head for objects"), (r"^answer_head\.", "pre-training's head for answers"),
         (r"^bert\.encoder\.visn_fc\.box_", "places of regions, which a grid has not"),
         (rf"^{CLIP}(?!visual\.)", "CLIP's text side"), (rf"^{CLIP}visual\.attnpool\.", "CLIP's pooling, behind the grid")), True,
        "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight", "bert.encoder.layer.", "bert.encoder.visn_fc.visn_fc.weight"),
}


def convert(
    kind: str, source: Path, vocabulary: Path, out: Path, *, heads: Sequence[int] | None = None, lowercase: bool | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. kind: a key of LAYOUTS. heads: of
    attention, see `heads_of`. lowercase: of the vocabulary, None for the layout's own. Raises InputError
    where the file cannot be read safely, a key has no place or is missing, the vocabulary is another one, or heads or case cannot
    be told."""
    layout = LAYOUTS[kind]
    weights, account = renamed(read_official(source), layout, source)
    config = sizes(weights, layout, source, heads)
    tokenizer = read_vocabulary(vocabulary, lowercase=case_of(vocabulary, layout.lowercase, lowercase))
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
        write_converted(folder, source, **account.to_manifest())
    return spec


def renamed(weights: dict[str, Tensor], layout: Layout, source: Path) -> tuple[dict[str, Tensor], Account]:
    """Official weights under our names, and what became of each."""
    return sort_out(weights, renaming(layout.renamed, current_name), layout.left_out, str(source))


def case_of(vocabulary: Path, own: bool, given: bool | None) -> bool:
    """Whether text is lower-cased. own: as the published model has it. given: as a user says. Raises InputError where the
    vocabulary is of the other kind than is expected, and nothing is given."""
    if given is not None:
        return given
    tokens = [token for token in read_text(vocabulary).splitlines() if not token.startswith("[")]
    capitals = any(token != token.lower() for token in tokens)
    if capitals == own and any(token.removeprefix("##").isalpha() for token in tokens):
        found, wanted = ("has capitals", "uncased") if own else ("has no capitals", "cased")
        raise InputError(f"{found}, the published model is {wanted}", where=str(vocabulary),
                         hint="give its own vocab.txt, or say what this one is: --case cased, or --case uncased")
    return own


def sizes(weights: dict[str, Tensor], layout: Layout, source: Path, heads: Sequence[int] | None = None) -> RegionBertConfig:
    """Those that the shapes of weights under our names tell. heads: see `convert`. Raises InputError where a table is missing."""
    try:
        words, width = weights[layout.words].shape
        depth = {name.removeprefix(layout.encoder).split(".")[0] for name in weights if name.startswith(layout.encoder)}
        [count] = heads_of({"encoder": Stack(BERT, width)}, heads, source).values()
        region = weights[layout.region_key].shape[1] - (_BOX_CODE if layout.kind == "vlbert" else 0)
        return RegionBertConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=len(depth), num_attention_heads=count,
            intermediate_size=len(weights[f"{layout.encoder}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[layout.positions]), type_vocab_size=len(weights[layout.types]),
            region_size=region)
    except (KeyError, ValueError) as error:
        raise InputError(f"is no {layout.kind} checkpoint: it lacks {error}", where=str(source),
                         hint="name the pre-trained model's own file") from None
